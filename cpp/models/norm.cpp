#include "models/norm.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "runtime/fresh.h"
#include "runtime/record.h"
#include "runtime/scratch.h"

namespace swap {
namespace {

using cpu::NormKernel;
using cpu::NormProblem;

// About so many items of at least so many values.
constexpr int64_t kItems = 64, kLeastValues = int64_t(1) << 15;

const NormKernel* find_kernel(const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  if ((dtype != at::kFloat && dtype != at::kBFloat16) || !x.device().is_cpu() || x.dim() != 4 || x.size(1) % 16 != 0 ||
      x.numel() == 0 || !x.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    return nullptr;
  }
  const auto& found = cpu::norm_kernels(dtype == at::kBFloat16);
  return found.empty() ? nullptr : found.front();
}

NormProblem make_problem(const at::Tensor& x, bool silu) {
  NormProblem p;
  p.batch = x.size(0), p.channels = x.size(1), p.pixels = x.size(2) * x.size(3);
  p.silu = silu;
  const int64_t most = std::max<int64_t>(1, p.pixels * p.channels / kLeastValues);
  p.chunks = std::clamp<int64_t>(cpu::divide_up(kItems, p.batch), 1, std::min(most, p.pixels));
  p.chunk_pixels = cpu::divide_up(p.pixels, p.chunks);
  p.chunks = cpu::divide_up(p.pixels, p.chunk_pixels);
  p.x = x.const_data_ptr();
  return p;
}

void run(const NormProblem& p, void (*pass)(const NormProblem&, int64_t)) {
  cpu::run_parallel(p.batch * p.chunks, [&](int64_t item, int64_t) { pass(p, item); });
}

// Sums by item [items][2][C] -> [B][2][C] in fp64, in the items' order.
Scratch<double> add_up(const NormProblem& p, const Scratch<float>& sums) {
  const int64_t size = 2 * p.channels;
  Scratch<double> total(p.batch * size);
  for (int64_t item = 0; item < p.batch * p.chunks; ++item) {
    const float* const from = sums.data() + item * size;
    double* const to = total.data() + item / p.chunks * size;
    if (item % p.chunks == 0) std::fill_n(to, size, 0.0);
    for (int64_t c = 0; c < size; ++c) to[c] += from[c];
  }
  return total;
}

// `n` numbers of a tensor that lie together, from the `first` on.
void read_floats(const at::Tensor& x, int64_t first, int64_t n, float* to) {
  if (x.scalar_type() == at::kFloat) {
    std::copy_n(x.const_data_ptr<float>() + first, n, to);
  } else {
    const auto* const from = x.const_data_ptr<at::BFloat16>() + first;
    std::transform(from, from + n, to, [](at::BFloat16 value) { return static_cast<float>(value); });
  }
}

Scratch<float> floats(const at::Tensor& x) {
  Scratch<float> values(x.numel());
  read_floats(x, 0, x.numel(), values.data());
  return values;
}

// [B, groups] of the mean and of 1 / standard deviation, one after the other.
at::Tensor statistics(const NormKernel& kernel, NormProblem p, const at::Tensor& x, int64_t groups, double eps) {
  const int64_t C = p.channels, width = C / groups;
  // Squares are measured from the first pixel, so that a mean far from zero does not swallow them.
  const Scratch<float> pivot(p.batch * C);
  for (int64_t b = 0; b < p.batch; ++b) read_floats(x, b * p.pixels * C, C, pivot.data() + b * C);
  const Scratch<float> sums(p.batch * p.chunks * 2 * C);
  p.pivot = pivot.data(), p.sums = sums.data();
  run(p, kernel.sums);
  const auto total = add_up(p, sums);
  const auto result = fresh(x, {2, p.batch, groups}, at::kDouble);
  double* const mean = result.mutable_data_ptr<double>();
  double* const inverse = mean + p.batch * groups;
  const double n = static_cast<double>(p.pixels);
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t g = 0; g < groups; ++g) {
      double sum = 0, spread = 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) sum += n * pivot[b * C + c] + total[2 * b * C + c];
      const double m = sum / (n * static_cast<double>(width));
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        // Of (x - m)^2 = (d + e)^2 with d measured from the pivot.
        const double e = pivot[b * C + c] - m;
        spread += total[(2 * b + 1) * C + c] + 2 * e * total[2 * b * C + c] + n * e * e;
      }
      mean[b * groups + g] = m;
      inverse[b * groups + g] = 1 / std::sqrt(std::max(spread, 0.0) / (n * static_cast<double>(width)) + eps);
      // A NaN among the values is one here: max(NaN, 0) would not be.
      if (std::isnan(spread)) inverse[b * groups + g] = spread;
    }
  }
  return result;
}

// a and b of a x + b, [B][C] each.
struct Line {
  const Scratch<float> scale, shift;

  Line(const at::Tensor& statistics, const at::Tensor& weight, const at::Tensor& bias)
      : scale(statistics.size(1) * weight.size(0)), shift(statistics.size(1) * weight.size(0)) {
    if (weight.scalar_type() == at::kFloat) {
      fill(statistics, weight.const_data_ptr<float>(), bias.const_data_ptr<float>(), weight.size(0));
    } else {
      fill(statistics, weight.const_data_ptr<at::BFloat16>(), bias.const_data_ptr<at::BFloat16>(), weight.size(0));
    }
  }

 private:
  template <typename T>
  void fill(const at::Tensor& statistics, const T* w, const T* b, int64_t C) {
    const int64_t batch = statistics.size(1), groups = statistics.size(2);
    const double* const mean = statistics.const_data_ptr<double>();
    const double* const inverse = mean + batch * groups;
    for (int64_t i = 0; i < batch * groups; ++i) {
      const int64_t first = i % groups * (C / groups);
      float *const to_scale = scale.data() + i / groups * C, *const to_shift = shift.data() + i / groups * C;
      for (int64_t c = first; c < first + C / groups; ++c) {
        const auto slope = static_cast<float>(w[c]), offset = static_cast<float>(b[c]);
        to_scale[c] = static_cast<float>(slope * inverse[i]);
        to_shift[c] = static_cast<float>(offset - mean[i] * slope * inverse[i]);
      }
    }
  }
};

at::Tensor compute_forward(const NormKernel& kernel, const at::Tensor& x, int64_t groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps, bool silu, at::Tensor& kept) {
  SWAP_RECORD("swap::group_norm", x);
  auto p = make_problem(x, silu);
  kept = statistics(kernel, p, x, groups, eps);
  const Line line(kept, weight, bias);
  const auto out = fresh(x, x.sizes(), at::MemoryFormat::ChannelsLast);
  p.scale = line.scale.data(), p.shift = line.shift.data(), p.out = out.mutable_data_ptr();
  run(p, kernel.apply);
  return out;
}

at::Tensor compute_backward(const NormKernel& kernel, const at::Tensor& x, const at::Tensor& dy, const at::Tensor& kept,
                            const at::Tensor& weight, const at::Tensor& bias, bool silu) {
  SWAP_RECORD("swap::group_norm", x);
  auto p = make_problem(x, silu);
  const Line line(kept, weight, bias);
  const int64_t C = p.channels, groups = kept.size(2), width = C / groups;
  const Scratch<float> sums(p.batch * p.chunks * 2 * C);
  p.dy = dy.const_data_ptr();
  p.scale = line.scale.data(), p.shift = line.shift.data(), p.sums = sums.data();
  run(p, kernel.gradient_sums);
  const auto total = add_up(p, sums);

  // dx = r (w dz - mean(w dz) - xhat mean(w dz xhat)) with xhat = r (x - m), the means over a group.
  const auto w = floats(weight);
  const double* const mean = kept.const_data_ptr<double>();
  const double* const inverse = mean + p.batch * groups;
  const double n = static_cast<double>(p.pixels * width);
  const Scratch<float> gain(p.batch * C), slope(p.batch * C), offset(p.batch * C);
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t g = 0; g < groups; ++g) {
      const double m = mean[b * groups + g], r = inverse[b * groups + g];
      double first = 0, second = 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        first += w[c] * total[2 * b * C + c];
        second += w[c] * r * (total[(2 * b + 1) * C + c] - m * total[2 * b * C + c]);
      }
      first /= n, second /= n;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        gain[b * C + c] = static_cast<float>(r * w[c]);
        slope[b * C + c] = static_cast<float>(-r * r * second);
        offset[b * C + c] = static_cast<float>(r * (r * m * second - first));
      }
    }
  }
  const auto dx = fresh(x, x.sizes(), at::MemoryFormat::ChannelsLast);
  p.gain = gain.data(), p.slope = slope.data(), p.offset = offset.data(), p.out = dx.mutable_data_ptr();
  run(p, kernel.gradient);
  return dx;
}

}  // namespace

at::Tensor group_norm(const at::Tensor& x, int64_t groups, const at::Tensor& weight, const at::Tensor& bias, double eps,
                      bool silu, Steps* steps) {
  check_no_graph(x);
  const auto* kernel = find_kernel(x);
  if (!kernel) {
    return differentiate(x, steps, [&](const at::Tensor& input) {
      const auto y = at::group_norm(input, groups, weight, bias, eps);
      return silu ? at::silu(y) : y;
    });
  }
  at::Tensor kept;
  const auto y = compute_forward(*kernel, x, groups, weight, bias, eps, silu, kept);
  if (noted(steps)) {  // which keeps x, as others do, and nothing of its size besides
    steps->then([=](const at::Tensor& dy) {
      return compute_backward(*kernel, x, dy.contiguous(at::MemoryFormat::ChannelsLast), kept, weight, bias, silu);
    });
  }
  return y;
}

namespace {

const cpu::LayerNormKernel* find_layer_kernel(const at::Tensor& x, const at::Tensor& weight, at::ScalarType dtype) {
  const auto from = x.scalar_type();
  if (!x.device().is_cpu() || (from != dtype && from != at::kFloat) || weight.scalar_type() != from ||
      (dtype != at::kFloat && dtype != at::kBFloat16) || x.size(-1) % 16 != 0 || x.numel() == 0 || !x.is_contiguous()) {
    return nullptr;
  }
  const auto& found = cpu::norm_kernels(dtype == at::kBFloat16);
  if (found.empty()) return nullptr;
  return from == dtype ? &found.front()->layer : &found.front()->wide_layer;
}

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                      at::ScalarType dtype, Steps* steps) {
  check_no_graph(x);
  const int64_t width = weight.size(0), rows = x.numel() / width;
  const auto from = x.scalar_type();
  const auto* kernel = find_layer_kernel(x, weight, dtype);
  if (!kernel) {
    const auto [y, mean, inverse] = at::native_layer_norm(x, {width}, weight, bias, eps);
    if (noted(steps)) {
      steps->then([=, mean = mean, inverse = inverse](const at::Tensor& dy) {
        return std::get<0>(
            at::native_layer_norm_backward(dy.to(from), x, {width}, mean, inverse, weight, bias, {true, false, false}));
      });
    }
    return y.to(dtype);
  }
  SWAP_RECORD("swap::layer_norm", x);
  const auto y = fresh(x, x.sizes(), dtype), kept = fresh(x, {rows, 2}, at::kFloat);
  cpu::LayerNormProblem p;
  p.width = width, p.eps = static_cast<float>(eps);
  p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr(), p.bias = bias.const_data_ptr();
  p.out = y.mutable_data_ptr(), p.kept = kept.mutable_data_ptr<float>();
  cpu::run_rows(rows, width, [&](int64_t row) { kernel->apply(p, row); });
  if (noted(steps)) {
    steps->then([=](const at::Tensor& dy) {
      SWAP_RECORD("swap::layer_norm", x);
      const auto dense = dy.contiguous(), dx = fresh(x, x.sizes());
      cpu::LayerNormProblem p;
      p.width = width, p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr(), p.dy = dense.const_data_ptr();
      p.out = dx.mutable_data_ptr(), p.kept = kept.mutable_data_ptr<float>();
      cpu::run_rows(rows, width, [&](int64_t row) { kernel->gradient(p, row); });
      return dx;
    });
  }
  return y;
}

}  // namespace swap
