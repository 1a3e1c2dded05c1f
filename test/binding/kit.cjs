// What the binding's tests share; CommonJS, so that child processes and worker threads can require it as it is.
const { join, resolve } = require('node:path')

const binding = process.env.SWAP_NATIVE_BINDING
  ? resolve(process.env.SWAP_NATIVE_BINDING)
  : join(__dirname, '..', '..', 'build', 'Release', 'swap_native.node')
const fake = join(binding, '..', 'libswap_engine_fake.so')

const native = () => require(binding)
const engine = () => native().createEngine({ libraries: [], engine: fake })

/** Seeds that the fake engine knows. */
const seeds = { block: 9001, fail: 9002, noMemory: 9003, flood: 9004 }

const noise = () => ({
  trainTimesteps: 1000,
  betaStart: 0.00085,
  betaEnd: 0.012,
  betaSchedule: 'scaled_linear',
  trainedBetas: [0.1, 0.2],
  zeroTerminalSnr: false,
  predictionType: 'epsilon',
})

const scheduler = () => ({
  kind: 'ddim',
  noise: noise(),
  timestepSpacing: 'leading',
  stepsOffset: 1,
  setAlphaToOne: false,
  clipSample: false,
  clipSampleRange: 1,
  thresholding: false,
  dynamicThresholdingRatio: 0.995,
  sampleMaxValue: 1,
  skipPrkSteps: true,
  sigmas: 'default',
  interpolationType: 'linear',
  finalSigmasType: 'zero',
  timestepType: 'discrete',
  sigmaMin: -1,
  sigmaMax: -1,
  solverOrder: 2,
  algorithmType: 'dpmsolver++',
  solverType: 'midpoint',
  lowerOrderFinal: true,
  eulerAtFinal: false,
  lambdaMinClipped: -1e30,
  predictX0: true,
  disableCorrector: [0],
})

const spec = () => ({
  textEncoders: [
    {
      vocab: 100,
      width: 8,
      layers: 2,
      heads: 2,
      intermediate: 16,
      positions: 8,
      activation: 'quick_gelu',
      normEps: 1e-5,
      skipLayers: 0,
      finalNorm: true,
      projectionDim: 0,
      eos: 99,
    },
  ],
  unet: {
    inChannels: 4,
    outChannels: 4,
    sampleSize: 8,
    levels: [
      { channels: 32, layers: 1, heads: 2, transformerLayers: 1, downAttention: true, upAttention: true },
      { channels: 64, layers: 1, heads: 4, transformerLayers: 1, downAttention: false, upAttention: false },
    ],
    midAttention: true,
    midHeads: 4,
    midTransformerLayers: 1,
    crossAttentionDim: 8,
    linearProjection: false,
    upcastAttention: false,
    normGroups: 8,
    normEps: 1e-5,
    flipSinToCos: true,
    freqShift: 0,
    downsamplePadding: 1,
  },
  vae: {
    inChannels: 3,
    outChannels: 3,
    latentChannels: 4,
    channels: [16, 32],
    layers: 1,
    normGroups: 8,
    midAttention: true,
    quantConv: true,
    postQuantConv: true,
    scalingFactor: 0.18215,
    shiftFactor: 0,
  },
  noise: noise(),
})

/** `file`: something to read its weights from; this file's own first bytes by default. */
const load = ({ file = __filename, begin = 0, end = 64, device = 'cpu' } = {}) => ({
  spec: spec(),
  tensors: [{ name: 'unet.weight', dtype: 'U8', shape: [end - begin], file, begin, end }],
  device,
  dtype: 'auto',
  threads: 1,
})

const photo = (red = 200, green = 100, blue = 50) => ({
  width: 4,
  height: 4,
  data: Uint8Array.from({ length: 48 }, (_, i) => [red, green, blue][i % 3]),
})

const learn = (changes = {}) => ({
  image: photo(),
  mask: new Float32Array(0),
  templates: [{ ids: [[1, 5, 9, 99]], position: 2 }],
  classTokens: 1,
  steps: 20,
  batch: 1,
  learningRate: 0.002,
  seed: 1,
  stages: 2,
  split: true,
  parametrization: 'attention',
  attentionWeight: 0.003,
  attentionLevels: [0],
  tokenWeights: new Float32Array(0),
  checkpointEvery: 0,
  ...changes,
})

const generate = (changes = {}) => ({
  prompt: { ids: [[1, 5, 7, 99]], slots: [] },
  negative: { ids: [[1, 99, 99, 99]], slots: [] },
  subjects: [],
  scheduler: scheduler(),
  steps: 4,
  guidanceScale: 7.5,
  seeds: [1],
  width: 32,
  height: 32,
  batch: 0,
  ...changes,
})

const echo = (changes = {}) => ({
  op: 'echo',
  inputs: [{ name: 'x', shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }],
  ...changes,
})

const ignore = () => {}

/** An engine with its (tiny) model loaded. */
const opened = async () => {
  const it = engine()
  await it.load(load(), ignore).promise
  return it
}

/** Starts `method` and resolves with its task when its first event has come: it runs. */
const running = (it, method, request) =>
  new Promise((resolve, reject) => {
    const task = it[method](request, () => resolve(task))
    task.promise.catch(reject)
  })

module.exports = {
  binding,
  fake,
  native,
  engine,
  seeds,
  spec,
  scheduler,
  load,
  photo,
  learn,
  generate,
  echo,
  ignore,
  opened,
  running,
}
