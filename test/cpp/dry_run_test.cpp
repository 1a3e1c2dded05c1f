// Jobs on LibTorch's meta device, where tensors have shapes and no values. A look at a value that would make a GPU wait
// raises there. A tensor that was left on the CPU raises in some operators only, so every operator's inputs are looked
// at.
#include <ATen/ExpandUtils.h>
#include <ATen/Functions.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "attention/fused_cuda.h"
#include "checks.h"
#include "models/diffusion_model.h"
#include "personalize/trainer.h"
#include "runtime/tensors.h"
#include "sample/sampler.h"

using namespace swap;

namespace {

// What operators are given, from its making to its end. One at a time.
class Watch {
 public:
  Watch() {
    current_ = this;
    handle_ = at::addGlobalCallback(at::RecordFunctionCallback(&Watch::look)
                                        .needsInputs(true)
                                        .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  }
  ~Watch() {
    at::removeCallback(handle_);
    current_ = nullptr;
  }

  // Operators that got tensors of the CPU, numbers aside, beside those of the device.
  std::vector<std::string> strangers;
  // Copies to the device that a GPU's queue would be waited for.
  int64_t waits = 0;
  // Backward passes of the op by the CUDA kernels.
  int64_t fused = 0;

 private:
  static std::unique_ptr<at::ObserverContext> look(const at::RecordFunction& function) {
    current_->add(function);
    return nullptr;
  }

  void add(const at::RecordFunction& function) {
    const std::string name = function.name();
    if (name.find("evaluate_function") != std::string::npos && name.find("FusedOnCuda") != std::string::npos) ++fused;
    std::vector<at::Tensor> tensors;
    for (const auto& input : function.inputs()) {
      if (input.isTensor()) tensors.push_back(input.toTensor());
      if (input.isTensorList()) {
        for (const at::Tensor& tensor : input.toTensorList()) tensors.push_back(tensor);
      }
    }
    const auto on_device = [](const at::Tensor& t) { return t.defined() && t.is_meta(); };
    const auto on_host = [](const at::Tensor& t) { return t.defined() && t.is_cpu() && t.dim() > 0; };
    if (!std::any_of(tensors.begin(), tensors.end(), on_device)) return;
    if (!std::any_of(tensors.begin(), tensors.end(), on_host)) return;
    if (name != "aten::copy_") {
      strangers.push_back(name);
    } else if (!function.inputs()[2].toBool()) {
      ++waits;
    }
  }

  static inline Watch* current_ = nullptr;
  at::CallbackHandle handle_;
};

const std::vector<std::string> kNone;

// Shapes of what LibTorch's C++ has no meta kernels for (its Python has).

at::Tensor index_select(const at::Tensor& x, int64_t dim, const at::Tensor& index) {
  auto shape = x.sizes().vec();
  shape[dim] = index.numel();
  return at::empty(shape, x.options());
}

at::Tensor deviation(const at::Tensor& x, at::OptionalIntArrayRef, const std::optional<at::Scalar>&, bool) {
  return at::empty({}, x.options());  // of all values: the only use of it
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>&,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef, bool, at::IntArrayRef,
                       int64_t) {
  std::vector<int64_t> shape{x.size(0), weight.size(0)};
  for (int i = 0; i < 2; ++i) shape.push_back((x.size(2 + i) + 2 * padding[i] - weight.size(2 + i)) / stride[i] + 1);
  return at::empty(shape, x.options(), at::MemoryFormat::ChannelsLast);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(const at::Tensor&, const at::Tensor& x,
                                                                    const at::Tensor&, at::OptionalIntArrayRef,
                                                                    at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
                                                                    bool, at::IntArrayRef, int64_t,
                                                                    std::array<bool, 3>) {
  return {at::empty_like(x), {}, {}};
}

at::Tensor choose(const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b) {
  const auto shape = at::infer_size(condition.sizes(), at::infer_size(a.sizes(), b.sizes()));
  return at::empty(shape, condition.options().dtype(at::result_type(a, b)));
}

at::Tensor& choose_into(const at::Tensor&, const at::Tensor&, const at::Tensor&, at::Tensor& out) { return out; }

using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Three group_norm(const at::Tensor& x, const std::optional<at::Tensor>&, const std::optional<at::Tensor>&, int64_t batch,
                 int64_t, int64_t, int64_t groups, double) {
  return {at::empty_like(x), at::empty({batch, groups}, x.options()), at::empty({batch, groups}, x.options())};
}

Three group_norm_backward(const at::Tensor&, const at::Tensor& x, const at::Tensor&, const at::Tensor&,
                          const std::optional<at::Tensor>&, int64_t, int64_t, int64_t, int64_t, std::array<bool, 3>) {
  return {at::empty_like(x), {}, {}};
}

Three layer_norm(const at::Tensor& x, at::IntArrayRef, const std::optional<at::Tensor>&,
                 const std::optional<at::Tensor>&, double) {
  const auto rows = at::empty(x.sizes().slice(0, x.dim() - 1), x.options()).unsqueeze(-1);
  return {at::empty_like(x), rows, rows.clone()};
}

Three layer_norm_backward(const at::Tensor&, const at::Tensor& x, at::IntArrayRef, const at::Tensor&, const at::Tensor&,
                          const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                          std::array<bool, 3> wanted) {
  return {at::empty_like(x), wanted[1] ? at::empty_like(*weight) : at::Tensor(),
          wanted[2] ? at::empty_like(*bias) : at::Tensor()};
}

TORCH_LIBRARY_IMPL(aten, Meta, m) {
  m.impl("where.self", choose);
  m.impl("where.self_out", choose_into);
  m.impl("native_group_norm", group_norm);
  m.impl("native_group_norm_backward", group_norm_backward);
  m.impl("native_layer_norm", layer_norm);
  m.impl("native_layer_norm_backward", layer_norm_backward);
  m.impl("index_select", index_select);
  m.impl("std.correction", deviation);
  m.impl("convolution", convolution);
  m.impl("convolution_backward", convolution_backward);
}

// Stable Diffusion 1.5.
ModelSpec full_size() {
  ModelSpec spec;
  TextEncoderSpec text;
  text.vocab = 49408, text.width = 768, text.layers = 12, text.heads = 12, text.intermediate = 3072;
  spec.text_encoders = {text};
  const auto level = [](int64_t channels, bool attention) {
    UNetLevelSpec l;
    l.channels = channels;
    l.down_attention = l.up_attention = attention;
    return l;
  };
  spec.unet.levels = {level(320, true), level(640, true), level(1280, true), level(1280, false)};
  spec.vae.channels = {128, 256, 512, 512};
  return spec;
}

// Stable Diffusion XL.
ModelSpec full_size_xl() {
  ModelSpec spec = full_size();
  auto& first = spec.text_encoders[0];
  TextEncoderSpec second;
  second.vocab = 49408, second.width = 1280, second.layers = 32, second.heads = 20, second.intermediate = 5120;
  second.activation = "gelu", second.projection_dim = 1280, second.eos = 49407;
  first.skip_layers = second.skip_layers = 1, first.final_norm = second.final_norm = false;
  spec.text_encoders.push_back(second);
  auto& unet = spec.unet;
  unet.levels.erase(unet.levels.begin());
  for (size_t i = 0; i < 3; ++i) {
    auto& level = unet.levels[i];
    level.channels = 320 << i, level.heads = 5 << i, level.transformer_layers = i == 0 ? 1 : i == 1 ? 2 : 10;
    level.down_attention = level.up_attention = i > 0;
  }
  unet.mid_heads = 20, unet.mid_transformer_layers = 10, unet.cross_attention_dim = 2048, unet.linear_projection = true;
  unet.sample_size = 128, unet.pooled_width = 1280;
  return spec;
}

// Everything small; heads of 32 as in the embedded model.
ModelSpec small() {
  ModelSpec spec;
  TextEncoderSpec text;
  text.vocab = 100, text.width = 64, text.layers = 2, text.heads = 2, text.intermediate = 128;
  spec.text_encoders = {text};
  UNetLevelSpec fine, coarse;
  fine.channels = 64, fine.layers = 1, fine.heads = 2, fine.down_attention = fine.up_attention = true;
  coarse.channels = 128, coarse.layers = 1, coarse.heads = 4;
  spec.unet.levels = {fine, coarse};
  spec.unet.cross_attention_dim = 64, spec.unet.mid_heads = 4, spec.unet.sample_size = 16;
  spec.vae.channels = {32, 32}, spec.vae.layers = 1;
  return spec;
}

DiffusionModel on_meta(const ModelSpec& spec, at::ScalarType dtype = at::kBFloat16) {
  WeightStore store({}, Compute{at::kMeta, dtype, 1}, Cancel(), {});
  return DiffusionModel(store, spec);
}

LearnRequest learn_request(int64_t side, int64_t batch) {
  LearnRequest request;
  request.image.width = request.image.height = side;
  request.image.data.assign(side * side * 3, 100);
  for (int64_t j = 0; j < 2; ++j) request.templates.push_back({{std::vector<int64_t>(77, 7 + j)}, 5});
  request.steps = 2, request.batch = batch;
  request.token_weights.assign(77, 0.5f);
  return request;
}

GenerateRequest generate_request(const std::string& scheduler, int64_t side, int64_t width) {
  GenerateRequest request;
  request.prompt.ids = {std::vector<int64_t>(77, 7)};
  request.negative.ids = {std::vector<int64_t>(77, 8)};
  SubjectVectors subject;
  subject.stages = 2, subject.tokens = 1;
  subject.k = subject.v = {std::vector<float>(2 * width, 0.1f)};
  request.subjects = {subject};
  request.prompt.slots = {{0, 5}};
  request.scheduler.kind = scheduler;
  request.scheduler.skip_prk_steps = true;
  if (scheduler == "unipc") request.scheduler.solver_type = "bh2";
  request.steps = 3, request.guidance_scale = 7.5;
  request.seeds = {1, 2};
  request.width = request.height = side;
  return request;
}

}  // namespace

TEST_CASE("the meta device refuses what a GPU would wait for or cannot reach") {
  const auto x = at::ones({2, 2}, at::TensorOptions().device(at::kMeta));
  CHECK_THROWS_AS((x + at::ones({2, 2})).sum(), c10::Error);
  CHECK_THROWS_AS(x.sum().item<float>(), c10::Error);
  CHECK_THROWS_AS(x.to(at::kCPU), c10::Error);
}

TEST_CASE("what the meta device lets pass is seen") {
  const auto x = at::ones({2, 2}, at::TensorOptions().device(at::kMeta)), y = at::ones({2, 2});
  const auto seen = [&](auto&& run) {
    const Watch watch;
    run();
    return !watch.strangers.empty();
  };
  CHECK(seen([&] { at::mm(x, y); }));
  CHECK(seen([&] { at::linear(x, x, y[0]); }));
  CHECK(seen([&] { at::cat({x, y}); }));
  CHECK(seen([&] {
    at::conv2d(x.view({1, 1, 2, 2}), y.view({1, 1, 2, 2}), {}, at::IntArrayRef{1, 1}, at::IntArrayRef{0, 0});
  }));
  CHECK(!seen([&] { at::mm(x, x) * at::scalar_tensor(2.0); }));
  Watch watch;
  to_device(y, at::kMeta);
  CHECK(watch.waits == 0);
  y.to(at::kMeta);
  CHECK(watch.waits == 1);
}

TEST_CASE("two training steps run dry") {
  for (const bool split : {true, false}) {
    for (const char* parametrization : {"attention", "direct"}) {
      const auto model = on_meta(small());
      auto request = learn_request(32, 2);
      request.split = split, request.parametrization = parametrization;
      request.mask.assign(256, 1.0f);
      LearnResult result;
      const Watch watch;
      learn(model, request, {}, result);
      CHECK(watch.strangers == kNone);
      CHECK(watch.fused == 2 * 4);  // two steps, four layers
      CHECK(result.state.step == 2);
    }
  }
}

TEST_CASE("sampling runs dry with every scheduler") {
  const auto model = on_meta(small());
  for (const char* scheduler : {"ddim", "pndm", "euler", "euler-a", "dpm++2m", "unipc", "lcm"}) {
    CAPTURE(scheduler);
    GenerateResult result;
    const Watch watch;
    generate(model, generate_request(scheduler, 32, 64), {}, result);
    CHECK(watch.strangers == kNone);
    CHECK(result.images.size() == 2);
    CHECK(result.images[0].data.size() == 32 * 32 * 3);
  }
}

TEST_CASE("a training step waits for the GPU twice, a sampling step once") {
  const auto model = on_meta(small());
  const auto learning = [&](int64_t steps) {
    auto request = learn_request(32, 2);
    request.steps = steps;
    const int64_t before = dry_waits;
    const Watch watch;
    LearnResult result;
    learn(model, request, {}, result);
    return dry_waits - before + watch.waits;
  };
  const auto drawing = [&](int64_t steps) {
    auto request = generate_request("ddim", 32, 64);
    request.steps = steps, request.seeds = {1};
    const int64_t before = dry_waits;
    const Watch watch;
    GenerateResult result;
    generate(model, request, {}, result);
    return dry_waits - before + watch.waits;
  };
  CHECK(learning(5) - learning(2) == 3 * 2);
  CHECK(drawing(8) - drawing(3) == 5 * 1);
}

TEST_CASE("a training step and sampling steps of Stable Diffusion 1.5 run dry") {
  const auto model = on_meta(full_size());
  LearnResult learnt;
  auto request = learn_request(512, 2);
  request.steps = 1;
  const Watch watch;
  learn(model, request, {}, learnt);
  CHECK(watch.fused == 16);
  CHECK(learnt.subject.k[0].size() == 5 * 768);
  auto drawing = generate_request("ddim", 512, 768);
  drawing.prompt.isolate = true;
  GenerateResult result;
  generate(model, drawing, {}, result);
  CHECK(watch.strangers == kNone);
  CHECK(result.images[0].data.size() == 512 * 512 * 3);
}

TEST_CASE("a training step and sampling steps of Stable Diffusion XL run dry, with the VAE out of float16's reach") {
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    const auto model = on_meta(full_size_xl(), dtype);
    CHECK(dtype_name(model.unet.dtype()) == dtype_name(dtype));
    CHECK(dtype_name(model.vae.dtype()) == (dtype == at::kHalf ? "float32" : "bfloat16"));
    auto request = learn_request(1024, 1);
    for (auto& t : request.templates) t.ids.push_back(t.ids[0]);
    request.steps = 1, request.attention_levels = {2}, request.time_ids = {1024, 1024, 0, 0, 1024, 1024};
    LearnResult learnt;
    const Watch watch;
    learn(model, request, {}, learnt);
    CHECK(watch.fused == 70);  // 24 on the way down, 10 in the middle, 36 on the way up
    CHECK(learnt.subject.k.size() == 2);
    CHECK(learnt.subject.v[1].size() == 5 * 1280);

    auto drawing = generate_request("euler", 1024, 768);
    drawing.prompt.ids.push_back(drawing.prompt.ids[0]);
    drawing.negative = drawing.prompt;
    drawing.negative.slots.clear(), drawing.negative.zero = true;
    drawing.prompt.isolate = true;
    drawing.subjects = {learnt.subject};
    drawing.steps = 1, drawing.time_ids = request.time_ids;
    GenerateResult result;
    generate(model, drawing, {}, result);
    CHECK(watch.strangers == kNone);
    CHECK(result.images[0].data.size() == 1024 * 1024 * 3);
  }
}

TEST_CASE("the op runs dry by its shapes, as the CUDA kernels take them") {
  const auto meta = at::TensorOptions().device(at::kMeta).dtype(at::kBFloat16);
  auto q = at::empty({2, 4096, 8, 40}, meta).transpose(1, 2).requires_grad_(true);
  const auto k = at::empty({2, 77, 8, 40}, meta).transpose(1, 2), reference = at::empty({1, 8, 77, 40}, meta);
  const auto weights = at::empty({77}, meta.dtype(at::kFloat));
  CHECK(fused_cuda_takes(q, k, k, reference, weights));
  const auto result = split_attention(q, k, k, reference, weights);
  CHECK(result.out.sizes() == q.sizes());
  CHECK(result.loss.sizes() == at::IntArrayRef{2});
  CHECK(std::string(result.out.grad_fn()->name()).find("FusedOnCuda") != std::string::npos);
  CHECK(attention_maps(q, k, k).maps.sizes() == at::IntArrayRef{2, 8, 4096, 77});
  // In float32 it is the plain version, as on a GPU.
  CHECK(!fused_cuda_takes(q.to(at::kFloat), k.to(at::kFloat), k.to(at::kFloat), {}, {}));
}
