// The fields of the engine's structs under their JavaScript names: lib/native.ts, struct by struct.
//
// One list serves both ways: a visitor is called with a name and a field for each of them, and its `optional`
// for those that may be undefined.
#pragma once

#include "../cpp/engine.h"

namespace swap::binding {

template <typename V>
void describe(V& visit, NamedTensor& it) {
  visit("name", it.name);
  visit("shape", it.shape);
  visit("data", it.data);
}

template <typename V>
void describe(V& visit, TextEncoderSpec& it) {
  visit("vocab", it.vocab);
  visit("width", it.width);
  visit("layers", it.layers);
  visit("heads", it.heads);
  visit("intermediate", it.intermediate);
  visit("positions", it.positions);
  visit("activation", it.activation);
  visit("normEps", it.norm_eps);
  visit("skipLayers", it.skip_layers);
  visit("finalNorm", it.final_norm);
  visit("projectionDim", it.projection_dim);
  visit("eos", it.eos);
}

template <typename V>
void describe(V& visit, UNetLevelSpec& it) {
  visit("channels", it.channels);
  visit("layers", it.layers);
  visit("heads", it.heads);
  visit("transformerLayers", it.transformer_layers);
  visit("downAttention", it.down_attention);
  visit("upAttention", it.up_attention);
}

template <typename V>
void describe(V& visit, UNetSpec& it) {
  visit("inChannels", it.in_channels);
  visit("outChannels", it.out_channels);
  visit("sampleSize", it.sample_size);
  visit("levels", it.levels);
  visit("midAttention", it.mid_attention);
  visit("midHeads", it.mid_heads);
  visit("midTransformerLayers", it.mid_transformer_layers);
  visit("crossAttentionDim", it.cross_attention_dim);
  visit("linearProjection", it.linear_projection);
  visit("upcastAttention", it.upcast_attention);
  visit("normGroups", it.norm_groups);
  visit("normEps", it.norm_eps);
  visit("flipSinToCos", it.flip_sin_to_cos);
  visit("freqShift", it.freq_shift);
  visit("downsamplePadding", it.downsample_padding);
  visit.optional("pooledWidth", it.pooled_width);
  visit.optional("timeIdWidth", it.time_id_width);
  visit.optional("guidanceWidth", it.guidance_width);
}

template <typename V>
void describe(V& visit, ControlNetSpec& it) {
  visit("unet", it.unet);
  visit("imageChannels", it.image_channels);
  visit("imageWidths", it.image_widths);
}

template <typename V>
void describe(V& visit, VaeSpec& it) {
  visit("inChannels", it.in_channels);
  visit("outChannels", it.out_channels);
  visit("latentChannels", it.latent_channels);
  visit("channels", it.channels);
  visit("layers", it.layers);
  visit("normGroups", it.norm_groups);
  visit("midAttention", it.mid_attention);
  visit("quantConv", it.quant_conv);
  visit("postQuantConv", it.post_quant_conv);
  visit("scalingFactor", it.scaling_factor);
  visit("shiftFactor", it.shift_factor);
}

template <typename V>
void describe(V& visit, NoiseSpec& it) {
  visit("trainTimesteps", it.train_timesteps);
  visit("betaStart", it.beta_start);
  visit("betaEnd", it.beta_end);
  visit("betaSchedule", it.beta_schedule);
  visit("trainedBetas", it.trained_betas);
  visit("zeroTerminalSnr", it.zero_terminal_snr);
  visit("predictionType", it.prediction_type);
}

template <typename V>
void describe(V& visit, ModelSpec& it) {
  visit("textEncoders", it.text_encoders);
  visit("unet", it.unet);
  visit("vae", it.vae);
  visit("noise", it.noise);
}

template <typename V>
void describe(V& visit, TensorEntry& it) {
  visit("name", it.name);
  visit("dtype", it.dtype);
  visit("shape", it.shape);
  visit("file", it.file);
  visit("begin", it.begin);
  visit("end", it.end);
  visit.optional("transposed", it.transposed);
}

template <typename V>
void describe(V& visit, WeightDelta& it) {
  visit("target", it.target);
  visit("down", it.down);
  visit("up", it.up);
  visit("middle", it.middle);
  visit("scale", it.scale);
}

template <typename V>
void describe(V& visit, SubjectVectors& it) {
  visit("stages", it.stages);
  visit("tokens", it.tokens);
  visit.optional("inPooled", it.in_pooled);
  visit("k", it.k);
  visit("v", it.v);
}

template <typename V>
void describe(V& visit, SubjectSlot& it) {
  visit("subject", it.subject);
  visit("position", it.position);
}

template <typename V>
void describe(V& visit, PromptTokens& it) {
  visit("ids", it.ids);
  visit("slots", it.slots);
  visit.optional("weights", it.weights);
  visit.optional("zero", it.zero);
  visit.optional("isolate", it.isolate);
}

template <typename V>
void describe(V& visit, SchedulerSpec& it) {
  visit("kind", it.kind);
  visit("noise", it.noise);
  visit("timestepSpacing", it.timestep_spacing);
  visit("stepsOffset", it.steps_offset);
  visit("setAlphaToOne", it.set_alpha_to_one);
  visit("clipSample", it.clip_sample);
  visit("clipSampleRange", it.clip_sample_range);
  visit("thresholding", it.thresholding);
  visit("dynamicThresholdingRatio", it.dynamic_thresholding_ratio);
  visit("sampleMaxValue", it.sample_max_value);
  visit("skipPrkSteps", it.skip_prk_steps);
  visit("sigmas", it.sigmas);
  visit("interpolationType", it.interpolation_type);
  visit("finalSigmasType", it.final_sigmas_type);
  visit("timestepType", it.timestep_type);
  visit("sigmaMin", it.sigma_min);
  visit("sigmaMax", it.sigma_max);
  visit("solverOrder", it.solver_order);
  visit("algorithmType", it.algorithm_type);
  visit("solverType", it.solver_type);
  visit("lowerOrderFinal", it.lower_order_final);
  visit("eulerAtFinal", it.euler_at_final);
  visit("lambdaMinClipped", it.lambda_min_clipped);
  visit("predictX0", it.predict_x0);
  visit("disableCorrector", it.disable_corrector);
  visit.optional("originalSteps", it.original_steps);
  visit.optional("timestepScaling", it.timestep_scaling);
}

template <typename V>
void describe(V& visit, LoadRequest& it) {
  visit("spec", it.spec);
  visit("tensors", it.tensors);
  visit.optional("deltas", it.deltas);
  visit("device", it.device);
  visit("dtype", it.dtype);
  visit("threads", it.threads);
}

template <typename V>
void describe(V& visit, EngineInfo& it) {
  visit("device", it.device);
  visit("dtype", it.dtype);
  visit("threads", it.threads);
  visit("parameters", it.parameters);
  visit("weightBytes", it.weight_bytes);
  visit("libtorch", it.libtorch);
  visit("attention", it.attention);
  visit("cpuFeatures", it.cpu_features);
}

template <typename V>
void describe(V& visit, AttachRequest& it) {
  visit("name", it.name);
  visit.optional("spec", it.spec);
  visit("tensors", it.tensors);
}

template <typename V>
void describe(V& visit, AttachInfo& it) {
  visit("parameters", it.parameters);
  visit("weightBytes", it.weight_bytes);
}

template <typename V>
void describe(V& visit, Image& it) {
  visit("width", it.width);
  visit("height", it.height);
  visit("data", it.data);
}

template <typename V>
void describe(V& visit, TemplateTokens& it) {
  visit("ids", it.ids);
  visit("position", it.position);
}

template <typename V>
void describe(V& visit, TrainerState& it) {
  visit("step", it.step);
  visit("tensors", it.tensors);
}

template <typename V>
void describe(V& visit, LearnRequest& it) {
  visit("image", it.image);
  visit("mask", it.mask);
  visit("templates", it.templates);
  visit("classTokens", it.class_tokens);
  visit("steps", it.steps);
  visit("batch", it.batch);
  visit("learningRate", it.learning_rate);
  visit("seed", it.seed);
  visit("stages", it.stages);
  visit("split", it.split);
  visit("parametrization", it.parametrization);
  visit("attentionWeight", it.attention_weight);
  visit("attentionLevels", it.attention_levels);
  visit("tokenWeights", it.token_weights);
  visit.optional("timeIds", it.time_ids);
  visit.optional("resume", it.resume);
  visit("checkpointEvery", it.checkpoint_every);
}

template <typename V>
void describe(V& visit, LearnResult& it) {
  visit("subject", it.subject);
  visit("state", it.state);
  visit("seconds", it.seconds);
}

template <typename V>
void describe(V& visit, InitialImage& it) {
  visit("image", it.image);
  visit("strength", it.strength);
  visit("mask", it.mask);
}

template <typename V>
void describe(V& visit, ControlImage& it) {
  visit("net", it.net);
  visit("image", it.image);
  visit("scale", it.scale);
  visit("start", it.start);
  visit("end", it.end);
}

template <typename V>
void describe(V& visit, GenerateRequest& it) {
  visit("prompt", it.prompt);
  visit("negative", it.negative);
  visit("subjects", it.subjects);
  visit("scheduler", it.scheduler);
  visit("steps", it.steps);
  visit("guidanceScale", it.guidance_scale);
  visit("seeds", it.seeds);
  visit("width", it.width);
  visit("height", it.height);
  visit("batch", it.batch);
  visit.optional("guidanceRescale", it.guidance_rescale);
  visit.optional("timeIds", it.time_ids);
  visit.optional("negativeTimeIds", it.negative_time_ids);
  visit.optional("initial", it.initial);
  visit.optional("controls", it.controls);
}

template <typename V>
void describe(V& visit, GenerateResult& it) {
  visit("images", it.images);
}

template <typename V>
void describe(V& visit, EvaluateRequest& it) {
  visit("op", it.op);
  visit("inputs", it.inputs);
  visit.optional("learn", it.learn);
  visit.optional("generate", it.generate);
  visit.optional("scheduler", it.scheduler);
  visit.optional("steps", it.steps);
  visit.optional("textEncoder", it.text_encoder);
  visit.optional("control", it.control);
}

template <typename V>
void describe(V& visit, EvaluateResult& it) {
  visit("outputs", it.outputs);
}

template <typename V>
void describe(V& visit, Progress& it) {
  visit("phase", it.phase);
  visit("done", it.done);
  visit("total", it.total);
  visit("loss", it.loss);
  visit("reconstruction", it.reconstruction);
  visit("attention", it.attention);
  visit("stage", it.stage);
  visit("secondsLeft", it.seconds_left);
}

}  // namespace swap::binding
