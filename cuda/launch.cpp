// Checks of the contract, and from a shape to its instance. Host code without CUDA.
#include "launch.h"

#include <stdexcept>
#include <string>

#include "instance.h"
#include "traits.h"

namespace swap::cuda {
namespace {

static_assert(kMaxTokens == kTokens);

// Calls f with the head size as a compile-time constant.
template <class F>
auto with_head_size(int head_size, F&& f) {
  switch (head_size) {
    case 32:
      return f.template operator()<32>();
    case 40:
      return f.template operator()<40>();
    case 64:
      return f.template operator()<64>();
    case 80:
      return f.template operator()<80>();
    case 160:
      return f.template operator()<160>();
  }
  throw std::invalid_argument("split attention: no kernel for a head size of " + std::to_string(head_size));
}

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("split attention: ") + what);
}

template <class T>
bool aligned(const View<T>& rows) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.batch % 8 == 0 && rows.head % 8 == 0 &&
         rows.row % 8 == 0;
}

template <class T>
void require_rows(const View<T>& rows, const char* what) {
  require(rows.data != nullptr && aligned(rows), what);
}

void require_shape(const Shape& shape) {
  require(shape.batch > 0 && shape.heads > 0 && shape.rows > 0, "batch, heads and rows are positive");
  require(shape.tokens > 0 && shape.tokens <= kTokens, "there are 1 to 80 tokens");
  // grid.y counts heads, and row indices are int
  require(int64_t(shape.batch) * shape.heads <= kMaxHeads, "batch times heads is at most 65535");
  require(shape.rows <= kMaxRows, "at most 2^30 rows");
  require(shape.blocks >= 0, "the number of blocks is not negative");
}

}  // namespace

size_t workspace_bytes(const Shape& shape, Form form) {
  return form == Form::loss ? sizeof(float) * shape.batch * shape.heads * forward_blocks(shape) : 0;
}

size_t workspace_bytes_backward(const Shape& shape) {
  const int blocks = with_head_size(shape.head_size, [&]<int D>() { return backward_blocks(shape, Head<D>::split); });
  return sizeof(float) * blocks * shape.batch * shape.heads * 2 * shape.tokens * shape.head_size;
}

void launch(const ForwardParams& params, Form form, Stream stream) {
  require_shape(params.shape);
  require_rows(params.q, "q is missing or not aligned to 16 bytes");
  require_rows(params.k, "k is missing or not aligned to 16 bytes");
  require_rows(params.v, "v is missing or not aligned to 16 bytes");
  require_rows(params.out, "out is missing or not aligned to 16 bytes");
  if (form == Form::loss) {
    require_rows(params.k_ref, "k_ref is missing or not aligned to 16 bytes");
    require(params.loss && params.workspace, "loss and workspace are needed");
  }
  if (form == Form::maps) require(params.maps != nullptr, "maps is needed");
  with_head_size(params.shape.head_size, [&]<int D>() {
    if (params.shape.element == Element::bf16)
      Instance<D, Bf16>::forward(params, form, stream);
    else
      Instance<D, Fp16>::forward(params, form, stream);
  });
}

void launch(const BackwardParams& params, Stream stream) {
  require_shape(params.shape);
  require_rows(params.q, "q is missing or not aligned to 16 bytes");
  require_rows(params.k, "k is missing or not aligned to 16 bytes");
  require_rows(params.v, "v is missing or not aligned to 16 bytes");
  require_rows(params.dq, "dq is missing or not aligned to 16 bytes");
  require_rows(params.dk, "dk is missing or not aligned to 16 bytes");
  require_rows(params.dv, "dv is missing or not aligned to 16 bytes");
  require(aligned(params.dout) && aligned(params.k_ref), "dout or k_ref is not aligned to 16 bytes");
  require(!params.k_ref.data || params.dloss, "dloss is needed where there is k_ref");
  require(params.workspace != nullptr, "workspace is needed");
  with_head_size(params.shape.head_size, [&]<int D>() {
    if (params.shape.element == Element::bf16)
      Instance<D, Bf16>::backward(params, stream);
    else
      Instance<D, Fp16>::backward(params, stream);
  });
}

bool runs_here() {
  for (const int d : kHeadSizes)
    if (!with_head_size(d, []<int D>() { return Instance<D, Bf16>::runs() && Instance<D, Fp16>::runs(); }))
      return false;
  return true;
}

size_t forward_shared_bytes(int head_size, Form form) {
  return with_head_size(head_size, [&]<int D>() {
    switch (form) {
      case Form::plain:
        return ForwardShared<D, Form::plain>::bytes;
      case Form::maps:
        return ForwardShared<D, Form::maps>::bytes;
      default:
        return ForwardShared<D, Form::loss>::bytes;
    }
  });
}

size_t backward_shared_bytes(int head_size, bool with_loss) {
  return with_head_size(
      head_size, [&]<int D>() { return with_loss ? BackwardShared<D, true>::bytes : BackwardShared<D, false>::bytes; });
}

size_t shared_limit(int arch) {
  // CUDA C++ Programming Guide, technical specifications per compute capability: maximum shared memory per block.
  switch (arch) {
    case 80:
      return 163 * 1024;
    case 86:
    case 89:
    case 120:
      return 99 * 1024;
    case 90:
    case 100:
      return 227 * 1024;
  }
  return 0;
}

}  // namespace swap::cuda
