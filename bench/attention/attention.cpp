// The fused op against the plain one and against LibTorch's scaled_dot_product_attention (with the loss in plain
// LibTorch beside it), on the cross-attention layers of SD 1.5 and SDXL: time, memory, error. Prints Markdown.
//
// The makes of a row take turns in one run, and a ratio is the median of the turns' ratios: what else the machine does
// meanwhile hits all of them alike. On a GPU, in the build for CUDA, where there is one; else on the CPU.
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "attention/fused_cpu.h"
#include "attention/fused_cuda.h"
#include "attention/split_attention.h"
#include "cpu/kernels.h"
#include "device.h"

using namespace swap;

namespace {

// Counts what LibTorch's CPU allocator hands out.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = static_cast<Block*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64));
    block->bytes = bytes;
    const int64_t now = used += static_cast<int64_t>(bytes);
    if (now > peak) peak = now;
    char* data = reinterpret_cast<char*>(block) + 64;
    return {data, data, &release, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  static inline std::atomic<int64_t> used{0}, peak{0};

 private:
  struct Block {
    size_t bytes;
  };
  static void release(void* data) {
    auto* block = reinterpret_cast<Block*>(static_cast<char*>(data) - 64);
    used -= static_cast<int64_t>(block->bytes);
    std::free(block);
  }
};
CountingAllocator counting;

struct Layer {
  const char* model;
  int64_t heads, queries, width;
};
const std::vector<Layer> kLayers = {{"SD 1.5", 8, 4096, 40}, {"SD 1.5", 8, 1024, 80}, {"SD 1.5", 8, 256, 160},
                                    {"SD 1.5", 8, 64, 160},  {"SDXL", 10, 4096, 64},  {"SDXL", 20, 1024, 64}};

// Where all of it is computed.
at::Device device = at::kCPU;

struct Tensors {
  at::Tensor q, k, v, k_ref, weights, dout, dloss;
};

Tensors make_tensors(const Layer& layer, int64_t batch, at::ScalarType dtype) {
  at::manual_seed(1);
  const auto rows = [&](int64_t b, int64_t n) {
    return at::randn({b, n, layer.heads, layer.width}).to(device, dtype).transpose(1, 2);
  };
  Tensors t{
      rows(batch, layer.queries), rows(batch, 77), rows(batch, 77), rows(1, 77), at::rand({77}).to(device), {}, {}};
  t.dout = rows(batch, layer.queries);
  t.dloss = at::rand({batch}).to(device);
  return t;
}

using Op = std::function<SplitAttentionResult(const Tensors&)>;

// The one that runs here, or the one that SWAP_BENCH_KERNEL names.
const cpu::Kernel& kernel_for(at::ScalarType dtype) {
  const auto& found = cpu::kernels(dtype == at::kBFloat16);
  const char* wanted = std::getenv("SWAP_BENCH_KERNEL");
  for (const auto* kernel : found) {
    if (!wanted || std::string_view(wanted) == kernel->name) return *kernel;
  }
  return *found.front();
}

SplitAttentionResult fused(const Tensors& t) {
  if (device.is_cuda()) return split_attention_fused_cuda(cuda_launcher(), t.q, t.k, t.v, t.k_ref, t.weights);
  return split_attention_fused_cpu(kernel_for(t.q.scalar_type()), t.q, t.k, t.v, t.k_ref, t.weights);
}

SplitAttentionResult eager(const Tensors& t) { return split_attention_eager(t.q, t.k, t.v, t.k_ref, t.weights); }

// What one would write without an op: LibTorch's fused attention for O, and the maps once more for the loss.
SplitAttentionResult library(const Tensors& t) {
  auto out = at::scaled_dot_product_attention(t.q, t.k, t.v);
  if (!t.k_ref.defined()) return {out, {}};
  return {out, eager(t).loss};
}

std::vector<at::Tensor> run(const Op& op, const Tensors& t, bool backward) {
  if (!backward) {
    const c10::NoGradGuard inference;
    const auto r = op(t);
    return {r.out, r.loss};
  }
  Tensors leaves = t;
  for (auto* x : {&leaves.q, &leaves.k, &leaves.v}) *x = x->detach().requires_grad_(true);
  const auto r = op(leaves);
  auto g = torch::autograd::grad({r.out, r.loss}, {leaves.q, leaves.k, leaves.v}, {t.dout, t.dloss.to(r.loss.dtype())});
  return {r.out.detach(), r.loss.detach(), g[0], g[1], g[2]};
}

double seconds_of(const Op& op, const Tensors& t, bool backward, int repeats) {
  if (device.is_cuda()) gpu::wait();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) run(op, t, backward);
  if (device.is_cuda()) gpu::wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / repeats;
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

int64_t peak_of(const Op& op, const Tensors& t, bool backward) {
  if (device.is_cuda()) {
    gpu::reset_peak();
    const int64_t before = gpu::used();
    run(op, t, backward);
    return gpu::peak() - before;
  }
  const int64_t before = CountingAllocator::used;
  CountingAllocator::peak = before;
  run(op, t, backward);
  return CountingAllocator::peak - before;
}

// What the op gives back, which every make needs: O, and with the gradients dQ, dK, dV.
int64_t results_of(const Tensors& t, bool backward) {
  return static_cast<int64_t>(backward ? 2 * t.q.nbytes() + t.k.nbytes() + t.v.nbytes() : t.q.nbytes());
}

double error(const at::Tensor& found, const at::Tensor& expected) {
  return ((found.to(at::kDouble) - expected).square().mean().sqrt() / expected.square().mean().sqrt()).item<double>();
}

// The largest of the errors of O, loss and gradients.
double worst_error(const Op& op, const Tensors& t, const std::vector<at::Tensor>& expected) {
  const auto found = run(op, t, true);
  double worst = 0;
  for (size_t i = 0; i < found.size(); ++i) worst = std::max(worst, error(found[i], expected[i]));
  return worst;
}

std::vector<at::Tensor> exact(const Tensors& t) {
  Tensors d{t.q.to(at::kDouble), t.k.to(at::kDouble),    t.v.to(at::kDouble),    t.k_ref.to(at::kDouble),
            t.weights,           t.dout.to(at::kDouble), t.dloss.to(at::kDouble)};
  return run(
      [](const Tensors& x) {
        const double scale = 1 / std::sqrt(static_cast<double>(x.q.size(-1)));
        const auto map = at::softmax(at::matmul(x.q, x.k.transpose(-1, -2)) * scale, -1);
        const auto reference = at::softmax(at::matmul(x.q.detach(), x.k_ref.transpose(-1, -2)) * scale, -1);
        const auto squared = (map - reference).square() * x.weights.to(at::kDouble);
        return SplitAttentionResult{at::matmul(map, x.v), squared.sum({1, 2, 3}) / static_cast<double>(x.q.size(1))};
      },
      d, true);
}

struct Row {
  std::vector<double> seconds, ratios;  // of fused, and of the others over it
};

Row measure(const std::vector<Op>& ops, const Tensors& t, bool backward) {
  const char* budget = std::getenv("SWAP_BENCH_SECONDS");
  const double limit = budget ? std::atof(budget) : 0.4;
  for (const auto& op : ops) run(op, t, backward);
  const double once = seconds_of(ops[0], t, backward, 3);
  const int repeats = std::clamp(static_cast<int>(0.002 / once), 1, 20);
  std::vector<std::vector<double>> seconds(ops.size()), ratios(ops.size());
  const auto begin = std::chrono::steady_clock::now();
  for (int turn = 0; turn < 200; ++turn) {
    for (size_t i = 0; i < ops.size(); ++i) {
      seconds[i].push_back(seconds_of(ops[i], t, backward, repeats));
      ratios[i].push_back(seconds[i].back() / seconds[0].back());
    }
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    if (turn >= 6 && passed.count() > limit * static_cast<double>(ops.size())) break;
  }
  Row row;
  for (size_t i = 0; i < ops.size(); ++i) {
    row.seconds.push_back(median(seconds[i]));
    row.ratios.push_back(median(ratios[i]));
  }
  return row;
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "a processor without a name";
}

double megabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

void table(at::ScalarType dtype) {
  const char* name = dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kHalf ? "float16" : "float32";
  const auto make = device.is_cuda() ? std::string("cuda") : std::string("cpu-") + kernel_for(dtype).name;
  std::printf("\n## %s: `%s`\n\n", name, make.c_str());
  std::printf(
      "| layer | N | d | B | forward + loss ms | x eager | x sdpa + loss | and backward ms | x eager | x sdpa + loss "
      "| inference ms | x sdpa | memory MB | eager's | worst error | eager's |\n"
      "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
  double logs[4] = {0, 0, 0, 0};
  int count = 0;
  for (const auto& layer : kLayers) {
    for (const int64_t batch : {1, 2, 4}) {
      const auto t = make_tensors(layer, batch, dtype);
      auto plain = t;
      plain.k_ref = plain.weights = at::Tensor();
      const auto forward = measure({fused, eager, library}, t, false);
      const auto backward = measure({fused, eager, library}, t, true);
      const auto inference = measure({fused, library}, plain, false);
      const int64_t memory = peak_of(fused, t, true) - results_of(t, true);
      const int64_t eager_memory = peak_of(eager, t, true) - results_of(t, true);
      const auto expected = exact(t);
      std::printf(
          "| %s | %lld | %lld | %lld | %.3f | %.1f | %.1f | %.3f | %.1f | %.1f | %.3f | %.1f | %.1f | %.1f | %.1e | "
          "%.1e |\n",
          layer.model, static_cast<long long>(layer.queries), static_cast<long long>(layer.width),
          static_cast<long long>(batch), forward.seconds[0] * 1e3, forward.ratios[1], forward.ratios[2],
          backward.seconds[0] * 1e3, backward.ratios[1], backward.ratios[2], inference.seconds[0] * 1e3,
          inference.ratios[1], megabytes(memory), megabytes(eager_memory), worst_error(fused, t, expected),
          worst_error(eager, t, expected));
      std::fflush(stdout);
      if (std::string(layer.model) != "SD 1.5") continue;
      logs[0] += std::log(forward.ratios[1]);
      logs[1] += std::log(backward.ratios[1]);
      logs[2] += std::log(inference.ratios[1]);
      logs[3] += std::log(static_cast<double>(memory) / static_cast<double>(eager_memory));
      ++count;
    }
  }
  std::printf(
      "\nGeometric means over SD 1.5: forward with the loss %.2f times as fast as eager, forward and backward %.2f, "
      "inference %.2f times as fast as scaled_dot_product_attention; memory %.3f of eager's.\n",
      std::exp(logs[0] / count), std::exp(logs[1] / count), std::exp(logs[2] / count), std::exp(logs[3] / count));
}

}  // namespace

int main() {
  c10::SetCPUAllocator(&counting, 255);
  if (gpu::is_there() && cuda_launcher()) {
    device = at::Device(at::kCUDA, 0);
    std::printf("%s, LibTorch %s.\n", gpu::name().c_str(), TORCH_VERSION);
    table(at::kBFloat16);
    table(at::kHalf);
    return 0;
  }
  std::printf("%s, %d threads, LibTorch %s.\n", processor().c_str(), at::get_num_threads(), TORCH_VERSION);
  table(at::kBFloat16);
  table(at::kFloat);
}
