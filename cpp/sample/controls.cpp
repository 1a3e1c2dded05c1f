#include "sample/controls.h"

#include <cmath>

#include "runtime/error.h"

namespace swap {

const ControlNet& attached(const DiffusionModel& model, const std::string& name) {
  const auto found = model.controls.find(name);
  if (found == model.controls.end()) {
    throw Error("SWAP_ENGINE_ARGUMENT", "no ControlNet is attached as '" + name + "'");
  }
  return found->second;
}

Controls::Controls(const DiffusionModel& model, const std::vector<ControlImage>& requests, int64_t width,
                   int64_t height) {
  for (const auto& request : requests) {
    const auto& [image_width, image_height, data] = request.image;
    if (image_width != width || image_height != height || static_cast<int64_t>(data.size()) != 3 * width * height) {
      throw Error("SWAP_ENGINE_ARGUMENT", "a control picture must have the size of the pictures that are made");
    }
    if (!std::isfinite(request.scale) || !(request.start <= request.end)) {
      throw Error("SWAP_ENGINE_ARGUMENT", "a control's scale must be a number, and its start not above its end");
    }
    const auto& net = attached(model, request.net);
    const auto bytes = at::from_blob(const_cast<uint8_t*>(data.data()), {1, height, width, 3}, at::kByte);
    const auto picture = bytes.permute({0, 3, 1, 2}).to(model.compute.device, at::kFloat) / 255.0;
    controls_.push_back({&net, net.embed(picture), request.scale, request.start, request.end});
  }
}

void Controls::add(int64_t index, int64_t calls, const at::Tensor& latents, const at::Tensor& timesteps,
                   const AttentionContext& unet, Conditions& conditions) const {
  for (const auto& control : controls_) {
    // As diffusers counts: a call takes part when it lies in the window as a whole.
    const double from = static_cast<double>(index) / static_cast<double>(calls);
    const double to = static_cast<double>(index + 1) / static_cast<double>(calls);
    if (from < control.start || to > control.end || control.scale == 0) continue;
    AttentionContext context;
    context.cancel = unet.cancel;
    context.k_states = unet.k_states;
    context.v_states = unet.v_states;
    (*control.net)(latents, timesteps, control.picture, control.scale, context, conditions);
  }
}

}  // namespace swap
