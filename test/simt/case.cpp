#include "case.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <sstream>

#include "device.h"

using swap::cuda::BackwardParams;
using swap::cuda::Form;
using swap::cuda::ForwardParams;
using swap::cuda::MutableRows;
using swap::cuda::Rows;

namespace {

#if defined(SIMT_ASAN)
constexpr size_t kGuard = 0;  // AddressSanitizer sees what lies beyond
#else
constexpr size_t kGuard = 1024;
#endif
constexpr unsigned char kUntouched = 0xff;  // NaN in every type

// Memory on the device, all NaN at first, with a guard behind it.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes), data_(device::allocate(bytes + kGuard)) {
    const std::vector<unsigned char> poison(bytes + kGuard, kUntouched);
    device::upload(data_, poison.data(), poison.size());
  }
  ~Memory() { device::release(data_); }
  Memory(const Memory&) = delete;
  void* data() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }
  template <class T>
  std::vector<T> read() const {
    std::vector<T> values(bytes_ / sizeof(T));
    device::download(values.data(), data_, bytes_);
    return values;
  }
  bool guarded() const {
    std::vector<unsigned char> guard(kGuard);
    device::download(guard.data(), static_cast<unsigned char*>(data_) + bytes_, kGuard);
    for (const auto byte : guard)
      if (byte != kUntouched) return false;
    return true;
  }

 private:
  size_t bytes_;
  void* data_;
};

// A tensor [B,H,rows,d] of the element type on the device, in either layout.
class Tensor {
 public:
  Tensor(const Spec& spec, int batch, int rows)
      : spec_(spec), batch_(batch), rows_(rows), memory_(size_t(batch) * spec.heads * rows * spec.head_size * 2) {}
  Tensor(const Spec& spec, int batch, int rows, const std::vector<float>& values) : Tensor(spec, batch, rows) {
    std::vector<uint16_t> bits(size_t(batch) * spec.heads * rows * spec.head_size);
    for (size_t i = 0; i < bits.size(); ++i) bits[place(i)] = reference::to_bits(values[i], spec.element);
    device::upload(memory_.data(), bits.data(), bits.size() * 2);
  }
  template <class View>
  View view() const {
    const int64_t d = spec_.head_size, all = int64_t(rows_) * spec_.heads * d;
    const int64_t batch = batch_ == 1 ? 0 : all;
    if (spec_.interleaved) return {memory_.data(), batch, d, spec_.heads * d};
    return {memory_.data(), batch, rows_ * d, d};
  }
  // Back as [B,H,rows,d].
  std::vector<double> read(Run& run) const {
    const auto bits = memory_.read<uint16_t>();
    std::vector<double> values(bits.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = reference::from_bits(bits[place(i)], spec_.element);
    note(run, bits, values);
    return values;
  }
  template <class T>
  void note(Run& run, const std::vector<T>& bits, const std::vector<double>& values) const {
    for (const auto x : bits) run.hash = (run.hash ^ x) * 1099511628211ull;
    for (const double x : values) run.finite = run.finite && std::isfinite(x);
    run.guarded = run.guarded && memory_.guarded();
  }

 private:
  size_t place(size_t i) const {
    if (!spec_.interleaved) return i;
    const size_t d = spec_.head_size, x = i % d, n = i / d % rows_, h = i / d / rows_ % spec_.heads,
                 b = i / d / rows_ / spec_.heads;
    return ((b * rows_ + n) * spec_.heads + h) * d + x;
  }
  Spec spec_;
  int batch_, rows_;
  Memory memory_;
};

std::vector<double> read_floats(const Memory& memory, Run& run) {
  const auto floats = memory.read<float>();
  for (const float x : floats) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    run.hash = (run.hash ^ bits) * 1099511628211ull;
    run.finite = run.finite && std::isfinite(x);
  }
  run.guarded = run.guarded && memory.guarded();
  return {floats.begin(), floats.end()};
}

}  // namespace

std::string Spec::text() const {
  std::ostringstream out;
  out << (element == swap::cuda::Element::bf16 ? "bf16" : "fp16") << " d=" << head_size << " N=" << rows
      << " L=" << tokens << " B=" << batch << " H=" << heads << (with_loss ? "" : ", no loss")
      << (shared_reference ? "" : ", K_r for each sample") << (interleaved ? "" : ", contiguous")
      << (with_dout ? "" : ", no dO") << ", sharpness " << sharpness << ", dloss " << dloss << ", weights "
      << (weights == Weights::ones    ? "1"
          : weights == Weights::zeros ? "0"
                                      : "random");
  if (blocks) out << ", blocks " << blocks;
  return out.str();
}

reference::Inputs make_inputs(const Spec& spec) {
  reference::Inputs in;
  in.shape = {spec.batch,
              spec.heads,
              spec.rows,
              spec.tokens,
              spec.head_size,
              spec.element,
              1.f / std::sqrt(static_cast<float>(spec.head_size)),
              spec.blocks};
  std::mt19937_64 random(spec.seed);
  const auto draw = [&](size_t count, double deviation) {
    std::normal_distribution<double> normal(0, deviation);
    std::vector<float> values(count);
    for (float& x : values) x = reference::rounded(static_cast<float>(normal(random)), spec.element);
    return values;
  };
  const size_t rows = size_t(spec.batch) * spec.heads * spec.rows * spec.head_size;
  const size_t sample = size_t(spec.heads) * spec.tokens * spec.head_size;
  in.q = draw(rows, spec.sharpness);
  in.k = draw(sample * spec.batch, 1);
  in.v = draw(sample * spec.batch, 1);
  in.dout = spec.with_dout ? draw(rows, 1) : std::vector<float>(rows, 0.f);
  if (spec.with_loss) {
    in.k_ref = draw(sample * spec.batch, 1);
    if (spec.reference_is_k) in.k_ref = in.k;
    if (spec.shared_reference)
      for (int b = 1; b < spec.batch; ++b)
        std::copy(in.k_ref.begin(), in.k_ref.begin() + sample, in.k_ref.begin() + b * sample);
  }
  std::uniform_real_distribution<float> uniform(0, 2);
  for (int t = 0; t < spec.tokens; ++t)
    in.weights.push_back(spec.weights == Weights::ones ? 1.f : spec.weights == Weights::zeros ? 0.f : uniform(random));
  // dA is dO V^T, about sqrt(d), and 2 dloss w (A_t - A_r) / H, about dloss / (L H).
  for (int b = 0; b < spec.batch; ++b)
    in.dloss.push_back(spec.dloss * (1 + 0.5f * b) * spec.heads * spec.tokens * std::sqrt(float(spec.head_size)));
  return in;
}

Run run(const Spec& spec, const reference::Inputs& in) {
  Run run;
  const int reference_batch = spec.shared_reference ? 1 : spec.batch;
  const Tensor q(spec, spec.batch, spec.rows, in.q), k(spec, spec.batch, spec.tokens, in.k),
      v(spec, spec.batch, spec.tokens, in.v), dout(spec, spec.batch, spec.rows, in.dout);
  const Tensor out(spec, spec.batch, spec.rows), out_of_maps(spec, spec.batch, spec.rows),
      dq(spec, spec.batch, spec.rows), dk(spec, spec.batch, spec.tokens), dv(spec, spec.batch, spec.tokens);
  const std::unique_ptr<Tensor> k_ref =
      spec.with_loss ? std::make_unique<Tensor>(spec, reference_batch, spec.tokens, in.k_ref) : nullptr;
  const Memory weights(in.weights.size() * 4), dloss(in.dloss.size() * 4), loss(in.dloss.size() * 4),
      maps(size_t(spec.batch) * spec.heads * spec.rows * spec.tokens * 4);
  device::upload(weights.data(), in.weights.data(), in.weights.size() * 4);
  device::upload(dloss.data(), in.dloss.data(), in.dloss.size() * 4);

  ForwardParams forward;
  forward.shape = in.shape;
  forward.q = q.view<Rows>();
  forward.k = k.view<Rows>();
  forward.v = v.view<Rows>();
  forward.out = out.view<MutableRows>();
  const Form form = spec.with_loss ? Form::loss : Form::plain;
  const Memory workspace(swap::cuda::workspace_bytes(in.shape, form));
  if (spec.with_loss) {
    forward.k_ref = k_ref->view<Rows>();
    forward.weights = spec.weights == Weights::ones ? nullptr : weights.floats();
    forward.loss = loss.floats();
    forward.workspace = workspace.floats();
  }
  swap::cuda::launch(forward, form, nullptr);
  run.results.out = out.read(run);
  if (spec.with_loss) run.results.loss = read_floats(loss, run);

  forward.out = out_of_maps.view<MutableRows>();
  forward.maps = maps.floats();
  swap::cuda::launch(forward, Form::maps, nullptr);
  run.results.maps = read_floats(maps, run);
  run.agrees = out_of_maps.read(run) == run.results.out;

  BackwardParams backward;
  backward.shape = in.shape;
  backward.q = forward.q;
  backward.k = forward.k;
  backward.v = forward.v;
  backward.k_ref = forward.k_ref;
  backward.weights = forward.weights;
  if (spec.with_dout) backward.dout = dout.view<Rows>();
  backward.dloss = dloss.floats();
  backward.dq = dq.view<MutableRows>();
  backward.dk = dk.view<MutableRows>();
  backward.dv = dv.view<MutableRows>();
  const Memory sums(swap::cuda::workspace_bytes_backward(in.shape));
  backward.workspace = sums.floats();
  swap::cuda::launch(backward, nullptr);
  run.results.dq = dq.read(run);
  run.results.dk = dk.read(run);
  run.results.dv = dv.read(run);
  run.guarded = run.guarded && sums.guarded() && workspace.guarded();
  return run;
}

Error error(const std::vector<double>& got, const std::vector<double>& exact) {
  double square = 0, size = 0, largest = 0, most = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double off = std::fabs(got[i] - exact[i]);
    if (!std::isfinite(off)) return {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    square += off * off;
    size += exact[i] * exact[i];
    largest = std::max(largest, std::fabs(exact[i]));
    most = std::max(most, off);
  }
  return {size ? std::sqrt(square / size) : std::sqrt(square), largest ? most / largest : most};
}

std::string worse_than_eager(const Spec& spec, const reference::Inputs& in, const Run& run) {
  const auto exact = reference::exact(in), eager = reference::eager(in);
  std::ostringstream out;
  // Below this the plain version is exact by accident (one token, say), or the value itself is nothing but rounding.
  constexpr double floor = 2e-6;
  const auto compare = [&](const char* what, auto field) {
    const auto &got = run.results.*field, &want = exact.*field;
    const Error ours = error(got, want), theirs = error(eager.*field, want);
    if (ours.rms <= 2 * theirs.rms + floor && ours.max <= 2 * theirs.max + floor) return;
    out << what << ": rms " << ours.rms << " against " << theirs.rms << ", largest " << ours.max << " against "
        << theirs.max << "; ";
  };
  using reference::Results;
  compare("O", &Results::out);
  if (spec.with_loss) compare("loss", &Results::loss);
  compare("maps", &Results::maps);
  compare("dQ", &Results::dq);
  compare("dK", &Results::dk);
  compare("dV", &Results::dv);
  return out.str();
}
