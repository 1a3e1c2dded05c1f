// What one file of instances/ makes: every kernel of one head size and element type. The files are written by
// scripts/cuda-gates.mjs --instances.
#pragma once

#include "backward.cuh"
#include "forward.cuh"
#include "instance.h"
#include "reduce.cuh"

namespace swap::cuda {

template <int D, class E>
bool Instance<D, E>::runs() {
  return kernel_runs(forward_kernel<D, E, Form::loss>, ForwardShared<D, Form::loss>::bytes) &&
         kernel_runs(backward_kernel<D, E, true>, BackwardShared<D, true>::bytes);
}

template <int D, class E>
void Instance<D, E>::forward(const ForwardParams& params, Form form, Stream stream) {
  const Shape& shape = params.shape;
  const int blocks = forward_blocks(shape);
  const dim3 grid(blocks, shape.batch * shape.heads);
  if (form == Form::plain)
    launch_kernel(forward_kernel<D, E, Form::plain>, grid, kThreads, ForwardShared<D, Form::plain>::bytes, stream,
                  params);
  else if (form == Form::maps)
    launch_kernel(forward_kernel<D, E, Form::maps>, grid, kThreads, ForwardShared<D, Form::maps>::bytes, stream,
                  params);
  else {
    launch_kernel(forward_kernel<D, E, Form::loss>, grid, kThreads, ForwardShared<D, Form::loss>::bytes, stream,
                  params);
    launch_kernel(sum_loss_kernel, shape.batch, 32, 0, stream,
                  LossSum{params.workspace, params.loss, shape.heads * blocks, 1.f / shape.heads});
  }
}

template <int D, class E>
void Instance<D, E>::backward(const BackwardParams& params, Stream stream) {
  const Shape& shape = params.shape;
  const int blocks = backward_blocks(shape, Head<D>::split), heads = shape.batch * shape.heads;
  const dim3 grid(blocks, heads, Head<D>::split);
  if (params.k_ref.data)
    launch_kernel(backward_kernel<D, E, true>, grid, kThreads, BackwardShared<D, true>::bytes, stream, params);
  else
    launch_kernel(backward_kernel<D, E, false>, grid, kThreads, BackwardShared<D, false>::bytes, stream, params);
  launch_kernel(sum_gradient_kernel<E>, dim3(ceil_div(shape.tokens * D, 2 * kThreads), heads, 2), kThreads, 0, stream,
                GradientSum{params.workspace, params.dk, params.dv, blocks, shape.batch, shape.heads, shape.tokens, D,
                            shape.scale});
}

}  // namespace swap::cuda
