#include "models/product.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace swap {
namespace {

using cpu::Product;
using cpu::ProductKernel;

// Of the second cache, for the factor that a thread packs for itself: the other one passes by it.
constexpr int64_t kPackedBytes = 640 << 10;
// Fewer rows are not worth packing the weights for.
constexpr int64_t kLeastRows = 32;
// Operations of a product that is not worth waking a thread for.
constexpr int64_t kSerial = int64_t(1) << 26;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// [out, in] or [out, in, k, k] as [rows][taps][channels], from either end.
void set_weight(Product& p, const at::Tensor& weight, bool transposed) {
  p.taps = weight.dim() == 4 ? weight.size(2) * weight.size(3) : 1;
  p.transposed = transposed;
  p.columns = weight.size(transposed ? 1 : 0);
  p.depth = weight.size(transposed ? 0 : 1);
  p.weight = weight.const_data_ptr();
  p.weight_row = weight.stride(0);
  p.weight_tap = weight.size(1);
}

void set_matrix(Product& p, int64_t rows) {
  p.samples = 1, p.width = Product::kMatrixRows, p.height = divide_up(rows, p.width), p.pixels = rows;
}

void set_picture(Product& p, at::IntArrayRef shape) {
  if (p.taps == 1) return set_matrix(p, shape[0] * shape[2] * shape[3]);
  p.samples = shape[0], p.height = shape[2], p.width = shape[3], p.pixels = p.height * p.width;
}

// Blocks of about kPackedBytes, and of enough for each of the workers to have some.
void set_blocks(Product& p, int64_t workers) {
  // Lines are cut only where the rest of one is whole tiles, too.
  p.block_width = p.taps == 9 && p.width % 16 == 0 ? std::min<int64_t>(p.width, 64) : p.width;
  const int64_t line_bytes = p.pitch() * p.depth * 2;
  const int64_t most = std::max<int64_t>(1, kPackedBytes / line_bytes - 2 * p.border());
  const int64_t lines = p.samples * p.height * p.blocks_across(), wanted = divide_up(lines, 4 * workers);
  const int64_t down = divide_up(p.height, std::clamp<int64_t>(wanted, 1, most));
  p.block_lines = divide_up(p.height, down);
}

// The smaller factor is packed first, for all; the larger one piece by piece, by the thread that multiplies with it.
void run(const Product& p, const at::TensorOptions& options) {
  const auto& kernel = *cpu::product_kernel();
  const int64_t operations = 2 * p.samples * p.pixels * p.taps * p.depth * p.columns;
  const auto each = [&](int64_t items, c10::function_ref<void(int64_t, int64_t)> work) {
    if (operations >= kSerial) return cpu::run_parallel(items, work);
    for (int64_t item = 0; item < items; ++item) work(item, 0);
  };
  const int64_t workers = operations >= kSerial ? at::get_num_threads() : 1;
  const int64_t groups = p.columns / Product::kColumns, blocks = p.blocks();
  const auto memory = [&](int64_t size) { return at::empty({size}, options.dtype(at::kBFloat16)); };
  const auto place = [](const at::Tensor& packed, int64_t at) { return packed.mutable_data_ptr<at::BFloat16>() + at; };

  const int64_t fitting = std::max<int64_t>(1, kPackedBytes / 2 / p.columns_size());
  if (blocks * p.block_size() <= groups * p.columns_size()) {
    // Items: so many groups of columns, and where these are few, a share of the blocks.
    const int64_t count = std::clamp<int64_t>(groups / (6 * workers), 1, fitting), pieces = divide_up(groups, count);
    const int64_t shares = std::min(blocks, pieces >= 4 * workers ? 1 : divide_up(4 * workers, pieces));
    const auto rows = memory(blocks * p.block_size());
    const auto columns = memory(cpu::worker_count(pieces * shares) * count * p.columns_size());
    each(blocks, [&](int64_t block, int64_t) { kernel.pack_block(p, block, place(rows, block * p.block_size())); });
    each(pieces * shares, [&](int64_t item, int64_t worker) {
      const int64_t first = item / shares * count, here = std::min(count, groups - first), share = item % shares;
      auto* const packed = place(columns, worker * count * p.columns_size());
      kernel.pack_columns(p, first, here, packed);
      for (int64_t block = blocks * share / shares; block < blocks * (share + 1) / shares; ++block) {
        kernel.multiply(p, block, place(rows, block * p.block_size()), first, here, packed);
      }
    });
  } else {
    const int64_t count = std::clamp<int64_t>(groups / (4 * workers), 1, fitting), pieces = divide_up(groups, count);
    const auto columns = memory(groups * p.columns_size());
    const auto rows = memory(cpu::worker_count(blocks) * p.block_size());
    each(pieces, [&](int64_t piece, int64_t) {
      const int64_t first = piece * count;
      kernel.pack_columns(p, first, std::min(count, groups - first), place(columns, first * p.columns_size()));
    });
    each(blocks, [&](int64_t block, int64_t worker) {
      auto* const packed = place(rows, worker * p.block_size());
      kernel.pack_block(p, block, packed);
      for (int64_t first = 0; first < groups; first += fitting) {
        const int64_t here = std::min(fitting, groups - first);
        kernel.multiply(p, block, packed, first, here, place(columns, first * p.columns_size()));
      }
    });
  }
}

at::Tensor multiply(Product& p, const at::Tensor& x, const at::Tensor& bias, const at::Tensor& y) {
  const auto values = bias.defined() ? bias.to(at::kBFloat16).contiguous() : bias;
  p.x = x.const_data_ptr(), p.y = y.mutable_data_ptr();
  p.bias = values.defined() ? values.const_data_ptr() : nullptr;
  set_blocks(p, at::get_num_threads());
  run(p, x.options());
  return y;
}

at::Tensor matrix(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool transposed, bool gated) {
  const auto dense = x.contiguous();
  Product p;
  set_weight(p, weight, transposed);
  set_matrix(p, dense.numel() / p.depth);
  p.gated = gated;
  auto shape = dense.sizes().vec();
  shape.back() = gated ? p.columns / 2 : p.columns;
  return multiply(p, dense, bias, at::empty(shape, dense.options()));
}

at::Tensor picture(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool transposed) {
  const auto dense = x.contiguous(at::MemoryFormat::ChannelsLast);
  Product p;
  set_weight(p, weight, transposed);
  set_picture(p, dense.sizes());
  return multiply(p, dense, bias,
                  at::empty({x.size(0), p.columns, x.size(2), x.size(3)}, x.options(), at::MemoryFormat::ChannelsLast));
}

}  // namespace

bool product_takes(const at::Tensor& x, const at::Tensor& weight) {
  if (!x.device().is_cpu() || x.scalar_type() != at::kBFloat16 || weight.scalar_type() != at::kBFloat16) return false;
  const bool picture = weight.dim() == 4;
  const bool dense = picture ? weight.is_contiguous(at::MemoryFormat::ChannelsLast) : weight.stride(1) == 1;
  return dense && weight.size(0) % Product::kColumns == 0 && weight.size(1) % Product::kColumns == 0 &&
         x.numel() >= kLeastRows * x.size(picture ? 1 : -1) && x.numel() > 0 && cpu::product_kernel();
}

at::Tensor product_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool gated) {
  return matrix(x, weight, bias, false, gated);
}

at::Tensor product_linear_gradient(const at::Tensor& dy, const at::Tensor& weight) {
  return matrix(dy, weight, {}, true, false);
}

at::Tensor product_convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return picture(x, weight, bias, false);
}

at::Tensor product_convolution_gradient(const at::Tensor& dy, const at::Tensor& weight) {
  return picture(dy, weight, {}, true);
}

}  // namespace swap
