// Split cross-attention with the attention loss on CUDA: what a caller hands over. Plain structs, no CUDA header.
//
//   O    [B,H,N,d] = A_t V,                             A_t = softmax(s Q K^T)
//   loss [B]       = sum_{h,n,t} w_t (A_t - A_r)^2 / H,  A_r = softmax(s Q K_r^T), a constant: no gradient through it
//
// All pointers are to device memory. Rows are 16-byte aligned: `data`, and every stride times two bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swap::cuda {

enum class Element { bf16, fp16 };

// A tensor [B,H,rows,d] whose last dimension is contiguous; strides in elements. A stride of 0 repeats (K_r of one
// sample for the whole batch).
template <class T>
struct View {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
};
using Rows = View<const void>;
using MutableRows = View<void>;

struct Shape {
  int batch = 0, heads = 0;
  int rows = 0;       // N: pixels
  int tokens = 0;     // L: 1 to 80
  int head_size = 0;  // d: 32, 40, 64, 80 or 160
  Element element = Element::bf16;
  float scale = 0;  // s, usually 1/sqrt(d)
  // Blocks of the whole grid, about; 0: as many as suit a GPU. Tests ask for few: a block then takes several tiles of
  // rows in small shapes too. The size of the workspace depends on it.
  int blocks = 0;
};

// What the forward pass is for.
enum class Form {
  plain,  // O alone: sampling, and layers without the loss
  loss,   // O and the loss
  maps,   // O and A_t itself
};

struct ForwardParams {
  Shape shape;
  Rows q, k, v;
  Rows k_ref;                      // Form::loss
  const float* weights = nullptr;  // Form::loss: [L]; null: ones
  MutableRows out;
  float* loss = nullptr;       // Form::loss: [B]
  float* maps = nullptr;       // Form::maps: [B,H,N,L], contiguous
  float* workspace = nullptr;  // workspace_bytes(shape, form)
};

struct BackwardParams {
  Shape shape;
  Rows q, k, v;
  Rows k_ref;                      // null: there was no loss
  const float* weights = nullptr;  // [L]; null: ones
  Rows dout;                       // null data: zeros (only the loss is differentiated)
  const float* dloss = nullptr;    // [B]; with k_ref
  MutableRows dq, dk, dv;
  float* workspace = nullptr;  // workspace_bytes_backward(shape)
};

using Stream = void*;  // a cudaStream_t

}  // namespace swap::cuda
