#include "sample/sampler.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "models/layers.h"
#include "runtime/tensors.h"
#include "sample/controls.h"
#include "sample/guidance.h"
#include "sample/prompt_states.h"
#include "sample/scheduler.h"
#include "sample/start.h"

namespace swap {
namespace {

// Bytes that one picture's activations take at their peak: an estimate that errs upwards.
int64_t activation_bytes(const DiffusionModel& model, int64_t height, int64_t width, bool guided) {
  const int64_t item = static_cast<int64_t>(c10::elementSize(model.compute.dtype));
  const int64_t unet = height * width * model.spec.unet.levels[0].channels * 48 * (guided ? 2 : 1);
  const int64_t factor = model.vae.factor();
  const int64_t vae = height * width * factor * factor * model.spec.vae.channels[0] * 12;
  return std::max(unet, vae) * item;
}

int64_t batch_size(const DiffusionModel& model, const GenerateRequest& request, int64_t height, int64_t width,
                   bool guided) {
  const auto count = static_cast<int64_t>(request.seeds.size());
  const int64_t one = activation_bytes(model, height, width, guided),
                available = available_memory(model.compute.device);
  if (model.compute.device.is_cpu() && one > available) {
    throw Error("SWAP_MEMORY_EXHAUSTED",
                "a picture of " + std::to_string(request.width) + " x " + std::to_string(request.height) +
                    " needs about " + std::to_string(one >> 20) + " MB, and " + std::to_string(available >> 20) +
                    " MB are free",
                "ask for a smaller width and height");
  }
  if (request.batch > 0) return std::min(request.batch, count);
  // Half of what is free; more than four at once gain nothing on a CPU, unless each thread has some to itself.
  const int64_t most = model.small ? std::max<int64_t>(4, model.compute.threads) : 4;
  return std::clamp<int64_t>(available / 2 / std::max<int64_t>(one, 1), 1, std::min<int64_t>(count, most));
}

void check_numbers(const at::Tensor& values, const std::string& after) {
  if (!has_nan(values)) return;
  throw Error("SWAP_NUMERIC_NAN", "the picture is not made of numbers after " + after,
              "use dtype 'float32'; if that fails too, the model's weights or the subject's vectors are broken");
}

TimeShifts of(Share share, const TimeShifts& all) {
  TimeShifts shifts;
  for (const auto& shift : all) shifts.push_back(share.of(shift));
  return shifts;
}

}  // namespace

void generate(const DiffusionModel& model, const GenerateRequest& request, const Hooks& hooks, GenerateResult& result) {
  using Clock = std::chrono::steady_clock;
  c10::InferenceMode inference;
  const Cancel cancel(hooks.cancelled);
  const int64_t factor = model.vae.factor();
  if (request.seeds.empty() || request.steps < 1 || request.width < factor || request.height < factor ||
      request.width % factor || request.height % factor) {
    throw Error("SWAP_ENGINE_ARGUMENT", "generate: " + std::to_string(request.seeds.size()) + " seeds, " +
                                            std::to_string(request.steps) + " steps, " + std::to_string(request.width) +
                                            " x " + std::to_string(request.height) + " pixels (multiples of " +
                                            std::to_string(factor) + ")");
  }
  const int64_t height = request.height / factor, width = request.width / factor;
  // A model that is told the guidance scale was distilled from a guided one.
  const bool told = model.spec.unet.guidance_width > 0;
  const bool guided = request.guidance_scale > 1 && !told;
  const auto guidance_of = [&](const at::Tensor& t) {
    return told ? at::full_like(t, request.guidance_scale - 1) : at::Tensor();
  };
  const int64_t count = static_cast<int64_t>(request.seeds.size());
  const int64_t batch = batch_size(model, request, height, width, guided);

  PromptStates prompt(model, request.prompt, request.subjects, cancel);
  std::optional<PromptStates> negative;
  if (guided) negative.emplace(model, request.negative, request.subjects, cancel);
  const Beginning beginning(model, request, cancel);
  const Controls controls(model, request.controls, request.width, request.height);
  const at::Tensor sizes = model.time_ids(request.time_ids, "timeIds");
  const at::Tensor unwanted_sizes =
      request.negative_time_ids.empty() ? sizes : model.time_ids(request.negative_time_ids, "negativeTimeIds");

  const auto begin = Clock::now();
  int64_t calls_done = 0, calls_total = 0;
  // `more`: another call follows at once.
  const auto report = [&](const char* phase, int64_t done, int64_t total, bool more) {
    if (!hooks.progress) return;
    Progress progress;
    progress.phase = phase;
    progress.done = done;
    progress.total = total;
    if (calls_done > 0) {
      const std::chrono::duration<double> each = (Clock::now() - begin) / static_cast<double>(calls_done);
      progress.seconds_left = each.count() * static_cast<double>(calls_total - calls_done);
      progress.soon = more && each < kSoon;
    }
    hooks.progress(progress);
  };

  for (int64_t first = 0; first < count; first += batch) {
    const int64_t b = std::min(batch, count - first);
    auto scheduler = make_scheduler(request.scheduler, request.steps);
    const auto& timesteps = scheduler->timesteps();
    scheduler->begin_at(beginning.calls_left_out());
    const int64_t calls = static_cast<int64_t>(timesteps.size()) - scheduler->begin();
    calls_total = calls * ((count + batch - 1) / batch);
    Noise noise(std::vector<int64_t>(request.seeds.begin() + first, request.seeds.begin() + first + b));
    const Start start = beginning.draw(*scheduler, noise);
    auto latents = start.latents;
    const auto shares = model.shares(guided ? 2 * b : b, height, width);
    // What follows from the text states alone: made anew when a subject's stage is another one.
    const TextStates *before = nullptr, *unwanted_before = nullptr;
    at::Tensor k, v;
    std::vector<std::vector<CrossProjection>> projections(shares.count());
    // What follows from the timesteps alone: of all of them at once, unless a prompt's pooled states hang on them.
    const bool pools = model.spec.unet.pooled_width > 0;
    TimeShifts all_shifts;  // by resnet, [steps, channels, 1, 1]
    if (!pools) {
      const auto t = to_device(at::tensor(timesteps, at::TensorOptions().dtype(at::kFloat)), model.compute.device);
      Conditions conditions;
      conditions.guidance = guidance_of(t);
      all_shifts = model.unet.time_shifts(t, conditions, t.size(0));
    }

    for (int64_t i = scheduler->begin(); i < static_cast<int64_t>(timesteps.size()); ++i) {
      const auto& states = prompt.at(timesteps[i]);
      const TextStates& unwanted = guided ? negative->at(timesteps[i]) : states;
      const auto rows = [&](const at::Tensor& unwanted, const at::Tensor& wanted) {
        std::vector<at::Tensor> all(guided ? b : 0, unwanted);
        all.insert(all.end(), b, wanted);
        return at::cat(all);
      };
      if (&states != before || &unwanted != unwanted_before) {
        before = &states, unwanted_before = &unwanted;
        k = rows(unwanted.k, states.k), v = rows(unwanted.v, states.v);
        projections.assign(shares.count(), {});
      }
      const int64_t B = k.size(0);
      auto noisy = scheduler->scale_model_input(latents, i);
      // Before the first cross-attention the two halves of a guided batch differ in pooled states alone; without those
      // that part is computed once.
      if (pools) noisy = repeat_to(noisy, B);
      at::Tensor t;  // for those that have no shifts yet
      if (pools || !request.controls.empty()) {
        t = at::full({noisy.size(0)}, timesteps[i], noisy.options().dtype(at::kFloat));
      }
      Conditions conditions;
      if (pools) {
        conditions.pooled = rows(unwanted.pooled, states.pooled);
        conditions.time_ids = rows(unwanted_sizes, sizes);
      }
      if (t.defined()) conditions.guidance = guidance_of(t);

      TimeShifts shifts;
      Wordless begun;
      const auto common = [&] {
        shifts = pools ? model.unet.time_shifts(t, conditions, B) : of({i, 1}, all_shifts);
        begun = model.unet.wordless(start.model_input(noisy), shifts, cancel);
      };
      std::vector<at::Tensor> outputs(shares.count());
      shares.run_after(common, [&](int64_t index, Share share) {
        const auto some = [&](const at::Tensor& all) { return part_of(all, share, B); };
        AttentionContext context;
        context.cancel = cancel;
        context.k_states = some(k);
        context.v_states = some(v);
        context.projections = &projections[index];
        Conditions given;
        given.pooled = some(conditions.pooled);
        given.time_ids = some(conditions.time_ids);
        given.guidance = some(conditions.guidance);
        controls.add(i - scheduler->begin(), calls, part_of(noisy, share, B), part_of(t, share, B), context, given);
        outputs[index] = model.unet(begun.of(share, B), pools ? of(share, shifts) : shifts, context, given);
      });
      auto output = at::cat(outputs);
      if (guided) output = guide(output, request.guidance_scale, request.guidance_rescale);
      latents = start.kept(scheduler->step(output, i, latents, noise), *scheduler, i);
      check_numbers(latents, "step " + std::to_string(i + 1));
      ++calls_done;
      report("step", calls_done, calls_total, i + 1 < static_cast<int64_t>(timesteps.size()));
    }
    projections.clear();  // decoding needs the memory
    latents = latents / model.spec.vae.scaling_factor + model.spec.vae.shift_factor;
    for (int64_t k = 0; k < b; ++k) {
      at::Tensor pixels;
      model.decoding(height, width).run([&](int64_t, Share) {
        pixels = model.vae.decode(latents.narrow(0, k, 1), cancel)[0];
      });
      check_numbers(pixels, "decoding");
      result.images.push_back(to_image(pixels));
      report("decode", first + k + 1, count, false);
    }
  }
}

}  // namespace swap
