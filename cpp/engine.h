// The engine's whole public face: std types only, nothing throws across it.
//
// One `Engine` holds one frozen base model on one device. All its methods run on the caller's
// thread and must be called from one thread only (the binding gives every engine its own worker).
// The engine knows nothing of JavaScript, JSON, file formats or pictures' encodings: it gets a
// spec, a table of tensors, token ids and RGB bytes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace swap {

// The result of every call. `code` is empty on success, else a SWAP_<AREA>_<WHAT> code (docs/errors.md).
struct Status {
  std::string code;
  std::string message;  // what was wrong, with the value
  std::string hint;     // what to do about it; may be empty
  bool ok() const { return code.empty(); }
};

// A tensor on its way in or out: row-major float32, whatever the engine computes in.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> data;
};

// ---------------------------------------------------------------------------------------------
// What a model is made of. Everything that differs between SD 1.x, 2.x, SDXL and the embedded
// model is data here.

// A CLIP text transformer. Its states are [B, positions, width].
struct TextEncoderSpec {
  int64_t vocab = 0, width = 0, layers = 0, heads = 0, intermediate = 0, positions = 77;
  std::string activation = "quick_gelu";  // or "gelu"
  double norm_eps = 1e-5;
  // Index of the state that conditions the U-Net, counted from the end: 0 is the last layer's.
  int64_t skip_layers = 0;
  bool final_norm = true;  // apply the final layer norm to that state
  // SDXL's second encoder: the last layer's normalised state where the text ends, projected to this width; 0: none.
  int64_t projection_dim = 0;
  int64_t eos = 0;  // the token that ends the text; 2 in older configs means the greatest id
};

// One resolution of the U-Net, listed from the finest (level 0) to the coarsest.
struct UNetLevelSpec {
  int64_t channels = 0;
  int64_t layers = 2;  // resnets on the way down; one more on the way up
  int64_t heads = 8;   // attention heads
  int64_t transformer_layers = 1;
  bool down_attention = false;  // cross-attention on the way down
  bool up_attention = false;    // cross-attention on the way up
};

struct UNetSpec {
  int64_t in_channels = 4, out_channels = 4;
  int64_t sample_size = 64;  // latent pixels a side that the model was trained at
  std::vector<UNetLevelSpec> levels;
  bool mid_attention = true;
  int64_t mid_heads = 8, mid_transformer_layers = 1;
  int64_t cross_attention_dim = 768;
  bool linear_projection = false;  // proj_in and proj_out are linear layers, else 1x1 convolutions
  bool upcast_attention = false;   // attention's Q and K in fp32
  int64_t norm_groups = 32;
  double norm_eps = 1e-5;
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  int64_t downsample_padding = 1;
  // SDXL: a pooled text state of this width and six sizes, each as a sinusoid, join the time embedding; 0: neither.
  int64_t pooled_width = 0;
  int64_t time_id_width = 256;
  int64_t guidance_width = 0;  // LCM: the guidance scale, as a sinusoid of this width, joins it too; 0: no
};

// A copy of the U-Net's way down and middle that turns a picture into residuals for it. Of `unet`, what describes
// the way up and the output is not read.
struct ControlNetSpec {
  UNetSpec unet;
  int64_t image_channels = 3;
  std::vector<int64_t> image_widths = {16, 32, 96,
                                       256};  // the picture's embedding, halving its size at each but the first
};

struct VaeSpec {
  int64_t in_channels = 3, out_channels = 3, latent_channels = 4;
  std::vector<int64_t> channels;  // one a level, finest first; the latents are 2^(levels - 1) times smaller
  int64_t layers = 2;
  int64_t norm_groups = 32;
  bool mid_attention = true, quant_conv = true, post_quant_conv = true;
  double scaling_factor = 0.18215;
  double shift_factor = 0;
};

// The noise that the model was trained with.
struct NoiseSpec {
  int64_t train_timesteps = 1000;
  double beta_start = 0.00085, beta_end = 0.012;
  std::string beta_schedule = "scaled_linear";  // "linear" | "scaled_linear" | "squaredcos_cap_v2"
  std::vector<double> trained_betas;            // overrides the schedule when not empty
  bool zero_terminal_snr = false;               // rescale_betas_zero_snr
  std::string prediction_type = "epsilon";      // "epsilon" | "v_prediction" | "sample"
};

struct ModelSpec {
  std::vector<TextEncoderSpec> text_encoders;
  UNetSpec unet;
  VaeSpec vae;
  NoiseSpec noise;
};

// Where one tensor's bytes lie: [begin, end) of `file`, little-endian, row-major.
// `name` is canonical: "text_encoder.0.<diffusers name without text_model.>", "unet.<diffusers name>", "vae.<...>",
// "controlnet.<...>", and "lora.<i>.<...>" for the factors of a LoRA.
struct TensorEntry {
  std::string name;
  std::string dtype;  // "F64" | "F32" | "F16" | "BF16" | "I64" | "I32" | "U8"
  std::vector<int64_t> shape;
  std::string file;
  uint64_t begin = 0, end = 0;
  bool transposed = false;  // the file has [columns, rows] of the matrix `shape` = [rows, columns]
};

// W += scale * up @ down, merged while W is read (LoRA). The factors are entries of the same table, [rank, in, ...]
// and [out, rank, ...]; with `middle` [rank, rank, kernel, kernel] both are 1x1 (LoRA of a convolution, factored).
struct WeightDelta {
  std::string target;            // canonical name of W
  std::string down, up, middle;  // names in the table; middle may be empty
  double scale = 1;              // alpha / rank and the user's own
};

// ---------------------------------------------------------------------------------------------
// Prompts and subjects

// A subject's vectors: k and v are [stages, tokens, width] in row-major order, one pair for each text encoder.
struct SubjectVectors {
  int64_t stages = 0, tokens = 0;
  // They also stand in the prompt that the pooled state is read from (Textual Inversion files); a subject that was
  // learnt here leaves the pooled state to its class word.
  bool in_pooled = false;
  std::vector<std::vector<float>> k, v;
};

// Positions [position, position + subject.tokens) of the prompt are the subject's.
struct SubjectSlot {
  int64_t subject = 0;  // index into the request's subjects
  int64_t position = 0;
};

// A tokenized prompt: one or more chunks of the encoder's positions, each with its own begin and end, one behind the
// other; at the slots stand the class word's ids. Chunks are encoded apart and their states concatenated; the pooled
// state is the first chunk's.
struct PromptTokens {
  std::vector<std::vector<int64_t>> ids;  // one list for each text encoder, all of one length
  std::vector<SubjectSlot> slots;         // the same positions in all encoders, counted over the chunks
  std::vector<float> weights;             // one a position, for the states; their mean is restored. Empty: all 1
  bool zero = false;                      // states and pooled state are zeros, whatever the ids
  bool isolate = false;                   // words that are no subject keep their states with the class words
};

// ---------------------------------------------------------------------------------------------
// Requests

// Every key of diffusers' scheduler configs that changes a number, already resolved with the
// defaults of the scheduler's class.
struct SchedulerSpec {
  std::string kind = "ddim";  // "ddim" | "pndm" | "euler" | "euler-a" | "dpm++2m" | "unipc" | "lcm"
  NoiseSpec noise;
  std::string timestep_spacing = "leading";  // "leading" | "trailing" | "linspace"
  int64_t steps_offset = 0;
  bool set_alpha_to_one = true;
  bool clip_sample = false;
  double clip_sample_range = 1.0;
  bool thresholding = false;  // dynamic thresholding
  double dynamic_thresholding_ratio = 0.995, sample_max_value = 1.0;
  bool skip_prk_steps = false;                // PNDM
  std::string sigmas = "default";             // "default" | "karras" | "exponential" | "beta"
  std::string interpolation_type = "linear";  // Euler
  std::string final_sigmas_type = "zero";     // "zero" | "sigma_min"
  std::string timestep_type = "discrete";     // Euler
  double sigma_min = -1, sigma_max = -1;      // Karras' range; negative: the schedule's own
  int64_t solver_order = 2;                   // DPM-Solver++, UniPC
  std::string algorithm_type = "dpmsolver++";
  std::string solver_type = "midpoint";  // "midpoint" | "heun"; UniPC: "bh1" | "bh2"
  bool lower_order_final = true, euler_at_final = false;
  double lambda_min_clipped = -1e30;
  bool predict_x0 = true;                  // UniPC
  std::vector<int64_t> disable_corrector;  // UniPC
  int64_t original_steps = 50;             // LCM: of the schedule that its steps are taken from
  double timestep_scaling = 10;            // LCM
};

struct LoadRequest {
  ModelSpec spec;
  std::vector<TensorEntry> tensors;
  std::vector<WeightDelta> deltas;
  std::string device = "cpu";  // "cpu" | "cuda" | "cuda:N" | "auto": a GPU where there is one
  std::string dtype = "auto";  // "auto" | "float32" | "bfloat16" | "float16"
  int64_t threads = 0;         // CPU threads of the process; 0: physical cores
};

struct EngineInfo {
  std::string device, dtype;
  int64_t threads = 0;
  int64_t parameters = 0;    // of the base model
  int64_t weight_bytes = 0;  // that its weights take
  std::string libtorch;      // version that is loaded
  std::string attention;     // which make of the op: "eager" | ...
  std::string cpu_features;  // for the doctor, e.g. "avx2 avx512f avx512_bf16 amx_bf16"
};

// Adds a ControlNet under a name, replaces the one of that name, or, without a spec, lets it go.
struct AttachRequest {
  std::string name;
  std::optional<ControlNetSpec> spec;
  std::vector<TensorEntry> tensors;
};

struct AttachInfo {
  int64_t parameters = 0, weight_bytes = 0;  // of what was attached
};

// 8-bit RGB, row-major, [height, width, 3].
struct Image {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> data;
};

// One prompt template, written with the class word: the reference prompt.
struct TemplateTokens {
  std::vector<std::vector<int64_t>> ids;  // one list for each text encoder
  int64_t position = 0;                   // where the class word begins
};

// What a trainer needs to go on as if it had never stopped.
struct TrainerState {
  int64_t step = 0;  // steps done
  std::vector<NamedTensor> tensors;
};

struct LearnRequest {
  Image image;              // already square and at the size to learn at
  std::vector<float> mask;  // [latent height, latent width] weights of L_rec; empty: 1 everywhere
  std::vector<TemplateTokens> templates;
  int64_t class_tokens = 1;  // n: how many tokens the class word has
  int64_t steps = 600, batch = 1;
  double learning_rate = 1e-4;
  int64_t seed = 0;
  int64_t stages = 5;
  bool split = true;  // K and V apart; false: one vector serves both
  std::string parametrization =
      "attention";                        // "attention": the self-attention module; "direct": the vectors themselves
  double attention_weight = 0.003;        // lambda; 0 turns the loss off
  std::vector<int64_t> attention_levels;  // downsampling levels, 0 the finest; empty: all
  std::vector<float> token_weights;       // [positions]; empty: 1 everywhere
  std::vector<double> time_ids;           // [6] where the U-Net takes a pooled state
  std::optional<TrainerState> resume;
  int64_t checkpoint_every = 0;  // steps between two calls of Hooks::checkpoint; 0: never
};

struct LearnResult {
  SubjectVectors subject;
  TrainerState state;  // also filled when the status is SWAP_CANCELLED, unless nothing was done yet
  double seconds = 0;  // in training steps
};

// What a picture begins from instead of noise alone.
struct InitialImage {
  Image image;              // of the request's size
  double strength = 0.8;    // 0..1: the share of the steps that is done
  std::vector<float> mask;  // [height, width], 1 where it is painted anew, 0 where it is kept; empty: 1 everywhere
};

struct ControlImage {
  std::string net;            // the name that a ControlNet was attached under
  Image image;                // of the request's size
  double scale = 1;           // of its residuals
  double start = 0, end = 1;  // the share of the steps that it takes part in
};

struct GenerateRequest {
  PromptTokens prompt, negative;
  std::vector<SubjectVectors> subjects;
  SchedulerSpec scheduler;
  int64_t steps = 30;
  double guidance_scale = 7.5;  // at most 1: no guidance, the negative prompt is not used
  std::vector<int64_t> seeds;   // one an image
  int64_t width = 512, height = 512;
  int64_t batch = 0;            // images at once; 0: as many as fit
  double guidance_rescale = 0;  // 0..1: how far the guided output's spread returns to that of the prompt's own
  std::vector<double> time_ids, negative_time_ids;  // [6] where the U-Net takes a pooled state
  std::optional<InitialImage> initial;
  std::vector<ControlImage> controls;
};

struct GenerateResult {
  std::vector<Image> images;
};

// Direct access to the parts, for tests against a reference and for the benchmarks.
//   "text_states"  ids [B, L]                        -> states [B, L, width], pooled [B, projection] where there is one
//   "prompt"       generate                          -> states_k, states_v [1, L, C], pooled, at timesteps [1]
//   "unet"         latents, timesteps [B], states_k [B, L, C], states_v, and where the model or the caller has them
//                  pooled [B, P], time_ids [B, 6], guidance [B], residual.<i>, residual.mid       -> output
//   "controlnet"   control + as "unet", image [B, 3, H, W] in 0..1     -> residual.<i>, residual.mid
//   "vae_encode"   image [B, 3, H, W] in -1..1       -> mean, std (not scaled)
//   "vae_decode"   latents [B, 4, h, w] (not scaled) -> image in -1..1, not clamped
//   "trajectory"   sample, outputs [calls, ...], seed -> timesteps [calls], samples [calls, ...]; with begin [1] the
//                  first calls are left out, and sample is the noise that is laid over image
//   "gradient"     learn + timesteps [B], templates [B], latents, noise, and the parameters by name
//                  -> loss, reconstruction, attention [1], grad.<parameter>, k, v; the parameters of a second text
//                     encoder's module begin with "1.", its vectors are k.1 and v.1
//   "draws"        learn + step [1]                  -> timesteps, templates, latents, noise
struct EvaluateRequest {
  std::string op;
  std::vector<NamedTensor> inputs;
  std::optional<LearnRequest> learn;
  std::optional<GenerateRequest> generate;
  std::optional<SchedulerSpec> scheduler;
  int64_t steps = 0;
  int64_t text_encoder = 0;
  std::string control;  // the name of a ControlNet
};

struct EvaluateResult {
  std::vector<NamedTensor> outputs;
};

// ---------------------------------------------------------------------------------------------

// Half a frame of a screen: nobody who watches progress need hear of it more often.
inline constexpr std::chrono::milliseconds kSoon{8};

struct Progress {
  std::string phase;                                   // "load" | "prepare" | "step" | "decode"
  int64_t done = 0, total = 0;                         // bytes while loading, steps or images otherwise
  double loss = 0, reconstruction = 0, attention = 0;  // learn: L, L_rec, L_att (not weighted) of this step
  int64_t stage = -1;                                  // learn: of this step (of the first sample in a batch)
  double seconds_left = -1;
  bool soon = false;  // another follows within kSoon: one may wait for it
};

// What the engine says while it works. Called on the engine's thread; none may throw.
struct Hooks {
  const std::atomic<bool>* cancelled = nullptr;  // polled at every block and tensor; may be null
  std::function<void(const Progress&)> progress;
  // Called by learn() between two steps. It may call attach(), generate() or evaluate() of the same engine.
  std::function<void()> yield;
  std::function<void(const TrainerState&)> checkpoint;
};

class Engine {
 public:
  virtual ~Engine() = default;
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Reads the weights, straight into the dtype that is computed in. Called first; called again, what was loaded and
  // attached is let go before (other LoRAs). When it fails there is no model.
  virtual Status load(const LoadRequest& request, const Hooks& hooks, EngineInfo& info) noexcept = 0;
  virtual Status attach(const AttachRequest& request, const Hooks& hooks, AttachInfo& info) noexcept = 0;
  virtual Status learn(const LearnRequest& request, const Hooks& hooks, LearnResult& result) noexcept = 0;
  virtual Status generate(const GenerateRequest& request, const Hooks& hooks, GenerateResult& result) noexcept = 0;
  virtual Status evaluate(const EvaluateRequest& request, const Hooks& hooks, EvaluateResult& result) noexcept = 0;
};

// Bumped whenever a struct above changes, so that an addon never talks to another build's engine.
inline constexpr int kEngineAbi = 5;

struct EngineFactory {
  int abi;                       // kEngineAbi of the library
  const char* flavour;           // "cpu" | "cuda" | "fake"
  const char* libtorch;          // version it was built with; "" for the fake
  Engine* (*create)() noexcept;  // null when out of memory
  void (*destroy)(Engine*) noexcept;
};

}  // namespace swap

#if defined(_WIN32)
#define SWAP_EXPORT __declspec(dllexport)
#else
#define SWAP_EXPORT __attribute__((visibility("default")))
#endif

// The only symbol that an engine library exports: `extern "C" const swap::EngineFactory* swap_engine()`.
extern "C" SWAP_EXPORT const swap::EngineFactory* swap_engine() noexcept;
