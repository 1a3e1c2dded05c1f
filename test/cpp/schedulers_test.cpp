// The schedulers against diffusers' trajectories (SWAP_GOLDENS: the file of tools/reference/schedulers.py), and what
// they refuse.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "sample/beta_distribution.h"
#include "sample/noise_schedule.h"
#include "sample/scheduler.h"

namespace {

using namespace swap;

struct Case {
  std::string name;
  SchedulerSpec spec;
  int64_t steps = 0;
  std::vector<int64_t> seeds;
  double init_noise_sigma = 0;
  std::vector<double> timesteps, input_scales;
  std::vector<at::Tensor> samples;
};

struct Goldens {
  std::vector<int64_t> shape;
  std::vector<at::Tensor> outputs;
  std::vector<Case> cases;
};

template <typename T>
std::vector<T> words(std::istream& line) {
  std::vector<T> values;
  for (T value; line >> value;) values.push_back(value);
  return values;
}

void set_field(SchedulerSpec& spec, const std::string& field, std::istream& value) {
  NoiseSpec& noise = spec.noise;
  value >> std::boolalpha;
  const auto into = [&value](auto& member) { return [&value, &member] { value >> member; }; };
  const std::map<std::string, std::function<void()>> fields = {
      {"kind", into(spec.kind)},
      {"noise.train_timesteps", into(noise.train_timesteps)},
      {"noise.beta_start", into(noise.beta_start)},
      {"noise.beta_end", into(noise.beta_end)},
      {"noise.beta_schedule", into(noise.beta_schedule)},
      {"noise.trained_betas", [&] { noise.trained_betas = words<double>(value); }},
      {"noise.zero_terminal_snr", into(noise.zero_terminal_snr)},
      {"noise.prediction_type", into(noise.prediction_type)},
      {"timestep_spacing", into(spec.timestep_spacing)},
      {"steps_offset", into(spec.steps_offset)},
      {"set_alpha_to_one", into(spec.set_alpha_to_one)},
      {"clip_sample", into(spec.clip_sample)},
      {"clip_sample_range", into(spec.clip_sample_range)},
      {"thresholding", into(spec.thresholding)},
      {"dynamic_thresholding_ratio", into(spec.dynamic_thresholding_ratio)},
      {"sample_max_value", into(spec.sample_max_value)},
      {"skip_prk_steps", into(spec.skip_prk_steps)},
      {"sigmas", into(spec.sigmas)},
      {"interpolation_type", into(spec.interpolation_type)},
      {"final_sigmas_type", into(spec.final_sigmas_type)},
      {"timestep_type", into(spec.timestep_type)},
      {"sigma_min", into(spec.sigma_min)},
      {"sigma_max", into(spec.sigma_max)},
      {"solver_order", into(spec.solver_order)},
      {"algorithm_type", into(spec.algorithm_type)},
      {"solver_type", into(spec.solver_type)},
      {"lower_order_final", into(spec.lower_order_final)},
      {"euler_at_final", into(spec.euler_at_final)},
      {"lambda_min_clipped", into(spec.lambda_min_clipped)},
      {"predict_x0", into(spec.predict_x0)},
      {"disable_corrector", [&] { spec.disable_corrector = words<int64_t>(value); }},
  };
  fields.at(field)();
}

Goldens read_goldens(const std::string& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file.good(), "cannot read " << path);
  Goldens goldens;
  std::string text;
  const auto tensors = [&](int64_t count) {
    std::vector<at::Tensor> rows;
    for (; count > 0 && std::getline(file, text); --count) {
      std::istringstream line(text);
      rows.push_back(at::tensor(words<double>(line), at::kDouble).to(at::kFloat).reshape(goldens.shape));
    }
    return rows;
  };
  std::getline(file, text);
  REQUIRE(text == "schedulers 1");
  while (std::getline(file, text)) {
    std::istringstream line(text);
    std::string key, field;
    int64_t count = 0;
    line >> key;
    if (key == "shape") {
      goldens.shape = words<int64_t>(line);
    } else if (key == "outputs") {
      line >> count;
      goldens.outputs = tensors(count);
    } else if (key == "case") {
      line >> goldens.cases.emplace_back().name;
    } else if (key != "end") {
      Case& current = goldens.cases.back();
      if (key == "set") {
        line >> field;
        set_field(current.spec, field, line);
      } else if (key == "steps") {
        line >> current.steps;
      } else if (key == "seeds") {
        current.seeds = words<int64_t>(line);
      } else if (key == "init_noise_sigma") {
        line >> current.init_noise_sigma;
      } else if (key == "timesteps") {
        current.timesteps = words<double>(line);
      } else if (key == "input_scales") {
        current.input_scales = words<double>(line);
      } else {
        REQUIRE(key == "samples");
        line >> count;
        current.samples = tensors(count);
      }
    }
  }
  return goldens;
}

// The largest difference, relative to the largest value.
double error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual - expected).abs().max() / expected.abs().max()).item<double>();
}

// A spec of this kind, the rest as the engine's defaults go.
SchedulerSpec spec_of(const char* kind) {
  SchedulerSpec spec;
  spec.kind = kind;
  spec.skip_prk_steps = true;
  if (spec.kind == "unipc") spec.solver_type = "bh2";
  return spec;
}

std::string code_of(const SchedulerSpec& spec, int64_t steps) {
  try {
    make_scheduler(spec, steps);
  } catch (const Error& error) {
    CHECK(std::string(error.what()).size() > 10);
    return error.code;
  }
  return "";
}

}  // namespace

TEST_CASE("trajectories equal those of diffusers") {
  const char* path = std::getenv("SWAP_GOLDENS");
  if (path == nullptr) {
    WARN_MESSAGE(path != nullptr, "skipped: SWAP_GOLDENS is not set (python tools/reference/schedulers.py FILE)");
    return;
  }
  const Goldens goldens = read_goldens(path);
  CHECK(goldens.cases.size() >= 60);
  for (const Case& golden : goldens.cases) {
    CAPTURE(golden.name);
    const auto scheduler = make_scheduler(golden.spec, golden.steps);
    REQUIRE(scheduler->timesteps().size() == golden.timesteps.size());
    CHECK(scheduler->init_noise_sigma() == doctest::Approx(golden.init_noise_sigma).epsilon(1e-6));
    Noise noise(golden.seeds);
    at::Tensor sample = golden.samples[0];
    double worst = 0;
    for (size_t i = 0; i < golden.timesteps.size(); ++i) {
      CHECK(scheduler->timesteps()[i] == doctest::Approx(golden.timesteps[i]).epsilon(1e-6));
      const at::Tensor scaled = scheduler->scale_model_input(sample, static_cast<int64_t>(i));
      CHECK(error(scaled, sample * golden.input_scales[i]) < 1e-6);
      sample = scheduler->step(goldens.outputs[i], static_cast<int64_t>(i), sample, noise);
      worst = std::max(worst, error(sample, golden.samples[i + 1]));
    }
    // float32 throughout, on both sides: rounding, that the multistep solvers' differences of lambda magnify.
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("a trajectory that begins later begins with as much noise as its first call expects") {
  for (const char* kind : {"ddim", "pndm", "euler", "euler-a", "dpm++2m", "unipc", "lcm"}) {
    CAPTURE(kind);
    const auto scheduler = make_scheduler(spec_of(kind), 10);
    const auto calls = static_cast<int64_t>(scheduler->timesteps().size());
    scheduler->begin_at(6);
    CHECK(scheduler->begin() == 6);
    const at::Tensor image = Noise({1}).draw({4, 4, 4}), noise = Noise({2}).draw({4, 4, 4});
    const at::Tensor first = scheduler->add_noise(image, noise, 6);
    // What the U-Net is given has unit variance where image and noise have.
    const double spread = scheduler->scale_model_input(first, 6).std().item<double>();
    CHECK(spread == doctest::Approx(1).epsilon(0.3));
    Noise more({3});
    at::Tensor sample = first;
    try {
      scheduler->step(sample, 0, sample, more);
      FAIL("a call that was left out was taken");
    } catch (const Error& error) {
      CHECK(error.code == "SWAP_SCHEDULER_CALL");
    }
    for (int64_t i = 6; i < calls; ++i) sample = scheduler->step(sample * 0.1, i, sample, more);
    CHECK(sample.isfinite().all().item<bool>());
  }
  const auto scheduler = make_scheduler(spec_of("ddim"), 10);
  CHECK_THROWS_AS(scheduler->begin_at(10), Error);
}

TEST_CASE("an image's noise is its seed's, alone or in a batch") {
  const at::Tensor alone = Noise({7}).draw({4, 8, 8});
  const at::Tensor batch = Noise({6, 7}).draw({4, 8, 8});
  CHECK(alone.sizes() == at::IntArrayRef({1, 4, 8, 8}));
  CHECK(at::equal(batch[1], alone[0]));
  CHECK_FALSE(at::equal(batch[0], alone[0]));
  // The next draw goes on.
  const Noise noise({7});
  CHECK(at::equal(noise.draw({4, 8, 8}), alone));
  CHECK_FALSE(at::equal(noise.draw({4, 8, 8}), alone));
}

TEST_CASE("a stochastic trajectory is the same alone and in a batch") {
  SchedulerSpec spec = spec_of("euler-a");
  const at::Tensor first = Noise({1, 2}).draw({4, 4, 4});
  const auto run = [&](const std::vector<int64_t>& seeds, at::Tensor sample) {
    const auto scheduler = make_scheduler(spec, 5);
    Noise noise(seeds);
    for (int64_t i = 0; i < 5; ++i) sample = scheduler->step(sample * 0.1, i, sample, noise);
    return sample;
  };
  CHECK(at::equal(run({1, 2}, first)[1], run({2}, first.slice(0, 1))[0]));
}

TEST_CASE("a half precision output is stepped in float32 and nothing is changed in place") {
  for (const char* kind : {"ddim", "pndm", "euler", "euler-a", "dpm++2m", "unipc", "lcm"}) {
    CAPTURE(kind);
    SchedulerSpec spec = spec_of(kind);
    const auto scheduler = make_scheduler(spec, 6);
    Noise noise({1});
    at::Tensor sample = Noise({2}).draw({4, 4, 4});
    for (int64_t i = 0; i < static_cast<int64_t>(scheduler->timesteps().size()); ++i) {
      const at::Tensor output = (sample * 0.1).to(at::kBFloat16), before = sample.clone(), given = output.clone();
      const at::Tensor next = scheduler->step(output, i, sample, noise);
      CHECK(next.element_size() == 4);
      CHECK(at::equal(sample, before));
      CHECK(at::equal(output, given));
      sample = next;
    }
    CHECK(sample.isfinite().all().item<bool>());
  }
}

TEST_CASE("every scheduler takes any number of steps up to the training's, and ends finite") {
  for (const char* kind : {"ddim", "pndm", "euler", "euler-a", "dpm++2m", "unipc"}) {
    for (const char* spacing : {"leading", "trailing", "linspace"}) {
      for (const int64_t steps : {1, 2, 3, 5, 14, 15, 61, 103, 499}) {
        CAPTURE(kind);
        CAPTURE(spacing);
        CAPTURE(steps);
        SchedulerSpec spec = spec_of(kind);
        spec.timestep_spacing = spacing;
        const auto scheduler = make_scheduler(spec, steps);
        const std::vector<double>& timesteps = scheduler->timesteps();
        // PNDM asks once more, in its first step.
        const bool once_more = std::string(kind) == "pndm" && steps > 1;
        CHECK(static_cast<int64_t>(timesteps.size()) == steps + (once_more ? 1 : 0));
        CHECK(timesteps.front() <= 999);
        CHECK(timesteps.back() >= 0);
        CHECK(std::is_sorted(timesteps.rbegin(), timesteps.rend()));
        Noise noise({1});
        at::Tensor sample = Noise({2}).draw({1, 2, 2}) * scheduler->init_noise_sigma();
        for (int64_t i = 0; i < static_cast<int64_t>(timesteps.size()); ++i) {
          sample = scheduler->step(sample * 0, i, sample, noise);
        }
        CHECK(sample.isfinite().all().item<bool>());
      }
    }
  }
}

TEST_CASE("UniPC with bh1 ends at a final sigma of zero, where diffusers gives NaN") {
  SchedulerSpec spec = spec_of("unipc");
  spec.solver_type = "bh1";
  const auto scheduler = make_scheduler(spec, 6);
  Noise noise({1});
  at::Tensor sample = Noise({2}).draw({4, 4, 4});
  for (int64_t i = 0; i < 6; ++i) sample = scheduler->step(sample * 0.1, i, sample, noise);
  CHECK(sample.isfinite().all().item<bool>());
}

TEST_CASE("zero terminal SNR takes the last cumulative alpha to zero and keeps the first") {
  NoiseSpec noise;
  const at::Tensor plain = alphas_cumprod(noise);
  noise.zero_terminal_snr = true;
  const at::Tensor rescaled = alphas_cumprod(noise);
  CHECK(plain[-1].item<float>() > 0.004);
  CHECK(rescaled[-1].item<float>() == 0);
  CHECK(rescaled[0].item<float>() == doctest::Approx(plain[0].item<float>()).epsilon(1e-6));
}

TEST_CASE("the beta distribution's quantiles") {
  CHECK(beta_quantile(0, 0.6, 0.6) == 0);
  CHECK(beta_quantile(1, 0.6, 0.6) == 1);
  CHECK(beta_quantile(0.5, 0.6, 0.6) == doctest::Approx(0.5).epsilon(1e-12));
  CHECK(beta_quantile(0.3, 1, 1) == doctest::Approx(0.3).epsilon(1e-12));           // uniform
  CHECK(beta_quantile(0.25, 2, 1) == doctest::Approx(0.5).epsilon(1e-12));          // P = x^2
  CHECK(beta_quantile(1.0 / 3, 0.5, 0.5) == doctest::Approx(0.25).epsilon(1e-12));  // arcsine
}

TEST_CASE("what cannot be scheduled is an error with a code") {
  using Change = std::function<void(SchedulerSpec&)>;
  struct Bad {
    const char* code;
    const char* kind;
    int64_t steps;
    Change change;
  };
  const Change as_is = [](SchedulerSpec&) {};
  const std::vector<Bad> table = {
      {"SWAP_SCHEDULER_UNKNOWN", "lms", 10, as_is},
      {"SWAP_SCHEDULER_STEPS", "ddim", 0, as_is},
      {"SWAP_SCHEDULER_STEPS", "lcm", 51, as_is},
      {"SWAP_SCHEDULER_OPTION", "lcm", 4, [](auto& s) { s.original_steps = 0; }},
      {"SWAP_SCHEDULER_OPTION", "lcm", 4, [](auto& s) { s.original_steps = 1001; }},
      {"SWAP_SCHEDULER_STEPS", "euler", -3, as_is},
      {"SWAP_SCHEDULER_STEPS", "ddim", 1001, as_is},
      {"SWAP_SCHEDULER_STEPS", "pndm", 3, [](auto& s) { s.skip_prk_steps = false; }},
      {"SWAP_SCHEDULER_STEPS", "dpm++2m", 1000, as_is},
      {"SWAP_SCHEDULER_STEPS", "unipc", 1000, as_is},
      {"SWAP_SCHEDULER_STEPS", "dpm++2m", 1000, [](auto& s) { s.timestep_spacing = "linspace"; }},
      {"SWAP_SCHEDULER_STEPS", "unipc", 999, [](auto& s) { s.steps_offset = 1; }},
      {"SWAP_SCHEDULER_STEPS", "ddim", 1000, [](auto& s) { s.steps_offset = 1; }},
      {"SWAP_SCHEDULER_STEPS", "pndm", 10, [](auto& s) { s.steps_offset = -1; }},
      {"SWAP_SCHEDULER_STEPS", "dpm++2m", 10, [](auto& s) { s.lambda_min_clipped = 1e30; }},
      {"SWAP_SCHEDULER_OPTION", "ddim", 10, [](auto& s) { s.timestep_spacing = "log"; }},
      {"SWAP_SCHEDULER_OPTION", "ddim", 10, [](auto& s) { s.noise.beta_schedule = "sigmoid"; }},
      {"SWAP_SCHEDULER_OPTION", "ddim", 10,
       [](auto& s) {
         s.noise.trained_betas = {0.1, 0.2};
       }},
      {"SWAP_SCHEDULER_OPTION", "ddim", 10, [](auto& s) { s.noise.prediction_type = "flow"; }},
      {"SWAP_SCHEDULER_OPTION", "ddim", 10,
       [](auto& s) {
         s.noise.zero_terminal_snr = true;
         s.timestep_spacing = "trailing";
       }},
      {"SWAP_SCHEDULER_OPTION", "pndm", 10, [](auto& s) { s.noise.prediction_type = "sample"; }},
      {"SWAP_SCHEDULER_OPTION", "euler-a", 10, [](auto& s) { s.noise.prediction_type = "sample"; }},
      {"SWAP_SCHEDULER_OPTION", "euler", 10, [](auto& s) { s.sigmas = "lu"; }},
      {"SWAP_SCHEDULER_OPTION", "euler", 10, [](auto& s) { s.interpolation_type = "cubic"; }},
      {"SWAP_SCHEDULER_OPTION", "euler", 10, [](auto& s) { s.timestep_type = "other"; }},
      {"SWAP_SCHEDULER_OPTION", "euler", 10, [](auto& s) { s.final_sigmas_type = "one"; }},
      {"SWAP_SCHEDULER_OPTION", "dpm++2m", 10, [](auto& s) { s.solver_order = 4; }},
      {"SWAP_SCHEDULER_OPTION", "dpm++2m", 10, [](auto& s) { s.solver_type = "rk4"; }},
      {"SWAP_SCHEDULER_OPTION", "dpm++2m", 10, [](auto& s) { s.algorithm_type = "deis"; }},
      {"SWAP_SCHEDULER_OPTION", "dpm++2m", 10, [](auto& s) { s.algorithm_type = "dpmsolver"; }},
      {"SWAP_SCHEDULER_OPTION", "unipc", 10, [](auto& s) { s.solver_order = 0; }},
      {"SWAP_SCHEDULER_OPTION", "unipc", 10, [](auto& s) { s.solver_type = "bh3"; }},
      {"SWAP_SCHEDULER_OPTION", "unipc", 10, [](auto& s) { s.predict_x0 = false; }},
      {"SWAP_SCHEDULER_OPTION", "unipc", 10, [](auto& s) { s.lower_order_final = false; }},
  };
  for (size_t i = 0; i < table.size(); ++i) {
    CAPTURE(i);
    SchedulerSpec spec = spec_of(table[i].kind);
    table[i].change(spec);
    CHECK(code_of(spec, table[i].steps) == table[i].code);
  }
}

TEST_CASE("calls out of order and of another shape are errors") {
  SchedulerSpec spec;
  const auto scheduler = make_scheduler(spec, 2);
  Noise noise({1});
  const at::Tensor sample = at::ones({1, 4, 2, 2});
  CHECK_THROWS_AS(scheduler->step(sample, 1, sample, noise), Error);
  CHECK_THROWS_AS(scheduler->step(at::ones({1, 4, 2, 1}), 0, sample, noise), Error);
  scheduler->step(sample, 0, sample, noise);
  CHECK_THROWS_AS(scheduler->step(sample, 0, sample, noise), Error);
  scheduler->step(sample, 1, sample, noise);
  CHECK_THROWS_AS(scheduler->step(sample, 2, sample, noise), Error);
}
