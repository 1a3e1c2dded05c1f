#include "models/product.h"

#include <algorithm>
#include <array>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "runtime/fresh.h"
#include "runtime/record.h"
#include "runtime/scratch.h"

namespace swap {
namespace {

using cpu::divide_up;
using cpu::Product;

// Of the second cache, for the factor that a thread packs for itself: the other one passes by it.
constexpr int64_t kPackedBytes = 640 << 10;
// Operations of a product that is not worth waking a thread for, and of one that is not worth another's help: it takes
// some microseconds.
constexpr int64_t kSerial = int64_t(1) << 26, kAlone = int64_t(1) << 20;

// Whether 32 divides the channels of weights, or of a bias.
bool divided(const at::Tensor& some) {
  const auto channels = some.sizes().slice(0, std::min<size_t>(2, some.dim()));
  return std::all_of(channels.begin(), channels.end(), [](int64_t n) { return n % cpu::kGroup == 0; });
}

// Weights [out, in, k, k], or a bias [out], with zeros after them up to multiples of 32. Borrowed where they need none:
// what threads have in common is counted by none of them.
c10::MaybeOwned<at::Tensor> widened(const at::Tensor& some) {
  if (divided(some)) return c10::MaybeOwned<at::Tensor>::borrowed(some);
  auto shape = some.sizes().vec();
  for (size_t i = 0; i < std::min<size_t>(2, shape.size()); ++i) shape[i] = cpu::round_up(shape[i], cpu::kGroup);
  const auto layout = shape.size() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  auto wide = at::empty(shape, some.options(), layout).zero_();
  auto part = wide;
  for (int64_t i = 0; i < some.dim(); ++i) part = part.narrow(i, 0, some.size(i));
  part.copy_(some);
  return c10::MaybeOwned<at::Tensor>::owned(std::move(wide));
}

// x [B, C, h, w] -> [B, n, h, w] channels-last, with zeros after its own channels
c10::MaybeOwned<at::Tensor> with_channels(const at::Tensor& x, int64_t n) {
  if (x.size(1) == n) return x.expect_contiguous(at::MemoryFormat::ChannelsLast);
  const auto padded = at::constant_pad_nd(x.permute({0, 2, 3, 1}), {0, n - x.size(1)});
  return c10::MaybeOwned<at::Tensor>::owned(padded.contiguous().permute({0, 3, 1, 2}));
}

// [out, in] or [out, in, k, k] as [rows][taps][channels], from either end.
void set_channels(Product& p, const at::Tensor& weight, bool transposed) {
  p.taps = weight.dim() == 4 ? weight.size(2) * weight.size(3) : 1;
  p.transposed = transposed;
  p.outputs = cpu::round_up(weight.size(transposed ? 1 : 0), cpu::kGroup);
  p.depth = cpu::round_up(weight.size(transposed ? 0 : 1), cpu::kChannels);
}

void set_weight(Product& p, const at::Tensor& wide) {
  p.weight = wide.const_data_ptr();
  p.weight_row = wide.stride(0);
  p.weight_tap = wide.size(1);
}

void set_matrix(Product& p, int64_t rows) {
  p.samples = 1, p.width = cpu::kMatrixWidth, p.height = divide_up(rows, p.width), p.pixels = rows;
}

void set_picture(Product& p, at::IntArrayRef shape) {
  if (p.taps == 1) return set_matrix(p, shape[0] * shape[2] * shape[3]);
  p.samples = shape[0], p.height = shape[2], p.width = shape[3], p.pixels = p.height * p.width;
}

int64_t operations(const Product& p) { return 2 * p.samples * p.pixels * p.taps * p.depth * p.outputs; }

// Cuts the picture into at least about `wanted` blocks of at most about kPackedBytes, but not finer than two tiles.
void set_blocks(Product& p, int64_t wanted) {
  p.block_width = p.width;
  if (p.taps == 9 && p.width > 64) {
    const int64_t across = divide_up(p.width, 64);
    p.block_width = p.width % 16 == 0 ? 64 : divide_up(p.width, across);
  }
  const int64_t line_bytes = cpu::pitch(p) * p.depth * 2;
  const int64_t least = divide_up(32, p.block_width), most = kPackedBytes / line_bytes - 2 * cpu::border(p);
  const int64_t fair = p.samples * p.height * cpu::blocks_across(p) / wanted;
  const int64_t lines = std::max(least, std::min(fair, most));
  p.block_lines = divide_up(p.height, divide_up(p.height, std::min(lines, p.height)));
  if (p.taps == 9 && p.block_lines == p.height && p.block_width == p.width) {
    const int64_t fitting = kPackedBytes / (cpu::packed_lines(p) * line_bytes);
    p.block_samples = std::clamp<int64_t>(p.samples / wanted, 1, std::max<int64_t>(1, fitting));
  }
}

// The first weights that will be multiplied with: they come while the other factor is packed.
void ask_for([[maybe_unused]] const at::BFloat16* weights) {
#ifdef SWAP_X86
  constexpr int64_t kBytes = 6 << 10;
  for (int64_t i = 0; i < kBytes; i += 64) __builtin_prefetch(reinterpret_cast<const char*>(weights) + i, 0, 2);
#endif
}

// The smaller factor is packed first, for all; the larger one piece by piece, by the thread that multiplies with it.
void run(Product& p, const at::Tensor& weight, PackedWeights* packed) {
  const auto& kernel = *cpu::product_kernels().front();
  const auto* const kept = packed && kernel.asks_ahead ? packed->get(p, weight, kernel) : nullptr;
  const auto wide = kept ? c10::MaybeOwned<at::Tensor>() : widened(weight);
  if (!kept) set_weight(p, *wide);
  const bool serial = operations(p) < (cpu::in_team() ? kAlone : kSerial);
  const int64_t workers = serial ? 1 : cpu::worker_count(std::numeric_limits<int64_t>::max());
  const auto each = [&](int64_t items, c10::function_ref<void(int64_t, int64_t)> work) {
    if (!serial) return cpu::run_parallel(items, work);
    for (int64_t item = 0; item < items; ++item) work(item, 0);
  };
  const int64_t groups = p.outputs / cpu::kGroup, group = cpu::group_size(p);
  const int64_t fitting = std::max<int64_t>(1, kPackedBytes / 2 / group);
  const bool x_is_smaller = p.samples * p.pixels * p.depth <= groups * group;
  set_blocks(p, x_is_smaller ? workers : 4 * workers);
  const int64_t blocks = cpu::block_count(p), block_size = cpu::block_size(p);

  if (x_is_smaller) {
    // Items: so many groups of outputs, and where these are few, a share of the blocks.
    const int64_t count = std::clamp<int64_t>(groups / (6 * workers), 1, fitting), pieces = divide_up(groups, count);
    const int64_t shares = std::min(blocks, divide_up(2 * workers, pieces));
    const Scratch<at::BFloat16> x(blocks * block_size),
        weights(kept ? 0 : std::min(workers, pieces * shares) * count * group);
    if (kept) ask_for(kept);
    each(blocks, [&](int64_t block, int64_t) { kernel.pack_block(p, block, x.data() + block * block_size); });
    each(pieces * shares, [&](int64_t item, int64_t worker) {
      const int64_t first = item / shares * count, here = std::min(count, groups - first), share = item % shares;
      auto* const own = kept ? nullptr : weights.data() + worker * count * group;
      if (!kept) kernel.pack_weights(p, first, here, own);
      const auto* const piece = kept ? kept + first * group : own;
      for (int64_t block = blocks * share / shares; block < blocks * (share + 1) / shares; ++block) {
        kernel.multiply(p, block, x.data() + block * block_size, first, here, piece);
      }
    });
  } else {
    const int64_t count = std::clamp<int64_t>(groups / (4 * workers), 1, fitting), pieces = divide_up(groups, count);
    const Scratch<at::BFloat16> weights(kept ? 0 : groups * group), x(std::min(workers, blocks) * block_size);
    if (!kept) {
      each(pieces, [&](int64_t piece, int64_t) {
        const int64_t first = piece * count;
        kernel.pack_weights(p, first, std::min(count, groups - first), weights.data() + first * group);
      });
    }
    const auto* const all = kept ? kept : weights.data();
    each(blocks, [&](int64_t block, int64_t worker) {
      auto* const packed = x.data() + worker * block_size;
      kernel.pack_block(p, block, packed);
      for (int64_t first = 0; first < groups; first += fitting) {
        kernel.multiply(p, block, packed, first, std::min(fitting, groups - first), all + first * group);
      }
    });
  }
}

// `x` where it is to be had, as `expect_contiguous` gives it.
c10::MaybeOwned<at::Tensor> dense_if(bool wanted, const at::Tensor& x, at::MemoryFormat format) {
  return wanted ? x.expect_contiguous(format) : c10::MaybeOwned<at::Tensor>();
}

at::Tensor multiply(Product& p, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    PackedWeights* packed, const at::Tensor& y) {
  const int64_t outputs = weight.size(p.transposed ? 1 : 0);
  TORCH_CHECK(!bias.defined() || bias.numel() == outputs, "a bias of ", bias.numel(), " for ", outputs);
  const bool ready = !bias.defined() || (bias.scalar_type() == at::kBFloat16 && bias.is_contiguous());
  const auto dense = ready ? c10::MaybeOwned<at::Tensor>::borrowed(bias)
                           : c10::MaybeOwned<at::Tensor>::owned(bias.to(at::kBFloat16).contiguous());
  const auto values = bias.defined() ? widened(*dense) : c10::MaybeOwned<at::Tensor>();
  p.x = x.const_data_ptr(), p.y = y.mutable_data_ptr();
  p.bias = bias.defined() ? values->const_data_ptr() : nullptr;
  run(p, weight, packed);
  return y;
}

// Lets the kernel add `added` to p's results [samples, outputs, h, w], if it can: bfloat16 that lies as they do, of
// their shape, or, in a 3 x 3 convolution, [samples or 1, outputs, 1, 1]. It must live as long as p. Returns whether it
// can.
bool set_added(Product& p, const at::Tensor& added, at::IntArrayRef shape) {
  if (!added.defined() || added.scalar_type() != at::kBFloat16) return false;
  const bool full = added.sizes() == shape;
  const bool by_sample = p.taps == 9 && added.dim() == 4 && added.size(1) == p.outputs &&
                         added.numel() == added.size(0) * p.outputs &&
                         (added.size(0) == 1 || added.size(0) == p.samples);
  if (!full && !by_sample) return false;
  p.added = added.const_data_ptr();
  p.added_pixel = full ? p.outputs : 0;
  p.added_sample = full ? p.pixels * p.outputs : added.size(0) == 1 ? 0 : p.outputs;
  return true;
}

at::Tensor matrix(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool transposed, bool gated,
                  PackedWeights* packed, const at::Tensor& added = {}) {
  SWAP_RECORD("swap::linear", x, weight);
  const auto dense = x.expect_contiguous(), more = dense_if(added.defined(), added, at::MemoryFormat::Contiguous);
  Product p;
  set_channels(p, weight, transposed);
  TORCH_CHECK(x.size(-1) == p.depth, "rows of ", x.size(-1), " for weights of ", p.depth);
  TORCH_CHECK(!gated || !added.defined(), "something to add to what a gate gives");
  set_matrix(p, dense->numel() / p.depth);
  p.gated = gated;
  at::DimVector shape(dense->sizes());
  shape.back() = gated ? p.outputs / 2 : p.outputs;
  const bool together = set_added(p, *more, shape);
  const auto y = multiply(p, *dense, weight, bias, packed, fresh(*dense, shape));
  return together ? y : plus(y, added);
}

at::Tensor picture(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool transposed,
                   PackedWeights* packed, const at::Tensor& added = {}) {
  SWAP_RECORD("swap::convolution", x, weight);
  const int64_t in = weight.size(transposed ? 0 : 1), out = weight.size(transposed ? 1 : 0);
  TORCH_CHECK(x.dim() == 4 && x.size(1) == in, "a picture of ", x.sizes(), " for weights of ", in);
  Product p;
  set_channels(p, weight, transposed);
  const auto dense = with_channels(x, p.depth);
  const auto more = dense_if(added.defined() && added.dim() == 4, added, at::MemoryFormat::ChannelsLast);
  set_picture(p, dense->sizes());
  const std::array<int64_t, 4> shape{x.size(0), p.outputs, x.size(2), x.size(3)};
  const bool together = out == p.outputs && set_added(p, *more, shape);
  auto y = multiply(p, *dense, weight, bias, packed, fresh(x, shape, at::MemoryFormat::ChannelsLast));
  if (out != p.outputs) y = y.narrow(1, 0, out).contiguous(at::MemoryFormat::ChannelsLast);
  return together ? y : plus(y, added);
}

bool takes_type(const at::Tensor& x, const at::Tensor& weight) {
  for (const auto* tensor : {&x, &weight}) {
    if (!tensor->device().is_cpu() || tensor->scalar_type() != at::kBFloat16) return false;
  }
  return x.numel() > 0 && has_products(at::kBFloat16);
}

}  // namespace

const at::BFloat16* PackedWeights::get(Product p, const at::Tensor& weight, const cpu::ProductKernel& kernel) {
  auto& [packed, data] = packed_[p.transposed ? 2 : p.gated ? 1 : 0];
  if (const auto* const there = data.load(std::memory_order_acquire)) return there;
  const std::lock_guard lock(mutex_);
  if (!packed.defined()) {
    const auto wide = widened(weight);
    set_weight(p, *wide);
    const int64_t groups = p.outputs / cpu::kGroup;
    packed = arena_->take(groups * cpu::group_size(p));
    kernel.pack_weights(p, 0, groups, packed.mutable_data_ptr());
    data.store(packed.const_data_ptr<at::BFloat16>(), std::memory_order_release);
  }
  return packed.const_data_ptr<at::BFloat16>();
}

bool has_products(at::ScalarType dtype) { return dtype == at::kBFloat16 && !cpu::product_kernels().empty(); }

bool product_takes(const at::Tensor& x, const at::Tensor& weight) {
  if (!divided(weight)) return false;
  const bool dense = weight.dim() == 4 ? weight.is_contiguous(at::MemoryFormat::ChannelsLast)
                                       : weight.stride(1) == 1 && weight.stride(0) % 2 == 0;
  return dense && takes_type(x, weight);
}

bool product_takes_picture(const at::Tensor& x, const at::Tensor& weight) {
  if (divided(weight)) return product_takes(x, weight);
  Product p;
  set_channels(p, weight, false);
  set_picture(p, x.sizes());
  return operations(p) < kSerial && weight.is_contiguous(at::MemoryFormat::ChannelsLast) && takes_type(x, weight);
}

at::Tensor product_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool gated,
                          PackedWeights* packed, const at::Tensor& added) {
  return matrix(x, weight, bias, false, gated, packed, added);
}

at::Tensor product_linear_gradient(const at::Tensor& dy, const at::Tensor& weight, PackedWeights* packed) {
  return matrix(dy, weight, {}, true, false, packed);
}

at::Tensor product_convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                               PackedWeights* packed, const at::Tensor& added) {
  return picture(x, weight, bias, false, packed, added);
}

at::Tensor product_convolution_gradient(const at::Tensor& dy, const at::Tensor& weight, PackedWeights* packed) {
  return picture(dy, weight, {}, true, packed);
}

}  // namespace swap
