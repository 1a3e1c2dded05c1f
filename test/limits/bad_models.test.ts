/** Models and machines that are not as they should be, on the real engine. */
import { join } from 'node:path'
import { vi } from 'vitest'
import { findAddon } from '../../lib/addon.ts'
import { Personalizer } from '../../lib/index.ts'
import {
  type Change,
  file,
  header,
  json,
  modelWith,
  nan,
  opening,
  PHOTO,
  safetensors,
  sparse,
  TEXT,
  UNET,
  VAE,
} from './kit.ts'
import { at, describeRows, drawing, folder, personalizer, type Row, useEngine } from './table.ts'

useEngine()

const model = (changes: Record<string, Change>, use?: (opened: Personalizer) => PromiseLike<unknown>) =>
  opening({ model: modelWith(changes) }, use)
const weights = (change: Change) => model({ [UNET]: change })
const unet = (keys: Record<string, unknown>) => model({ 'unet/config.json': json(keys) })
const openingWith = (name: string, value: string) => {
  vi.stubEnv(name, value)
  return opening({})
}

const MODELS: Row[] = [
  ['no such model', 'SWAP_MODEL_NOT_FOUND', () => opening({ model: at('nowhere') })],
  ['a file as a model', 'SWAP_MODEL_NOT_A_FOLDER', () => opening({ model: PHOTO })],
  ['an empty folder', 'SWAP_MODEL_LAYOUT', () => opening({ model: folder })],
  ['an index that is not JSON', 'SWAP_MODEL_CONFIG', () => model({ 'model_index.json': () => '{"unet": ' })],
  [
    'a pipeline of another kind',
    'SWAP_MODEL_UNSUPPORTED',
    () => model({ 'model_index.json': json({ unet: ['x', 'Y'] }) }),
  ],
  ['no folder for the VAE', 'SWAP_MODEL_FILE_MISSING', () => model({ 'vae/': () => null })],
  ['no config', 'SWAP_MODEL_FILE_MISSING', () => model({ 'unet/config.json': () => null })],
  ['no weights', 'SWAP_MODEL_FILE_MISSING', () => weights(() => null)],
  ['weights as a pickle', 'SWAP_MODEL_PICKLE', () => model({ [UNET]: () => null, 'unet/a.bin': () => 'x' })],
  ['weights of 0 bytes', 'SWAP_TENSOR_CUT_SHORT', () => weights(() => '')],
  ['weights of 5 bytes', 'SWAP_TENSOR_CUT_SHORT', () => weights((b) => b.subarray(0, 5))],
  ['weights cut in the header', 'SWAP_TENSOR_CUT_SHORT', () => weights((b) => b.subarray(0, 1000))],
  ['weights cut in half', 'SWAP_TENSOR_CUT_SHORT', () => weights((b) => b.subarray(0, b.length / 2))],
  ['weights without their last byte', 'SWAP_TENSOR_CUT_SHORT', () => weights((b) => b.subarray(0, -1))],
  ['text as weights', 'SWAP_TENSOR_HEADER', () => weights(() => 'version https://example.org/spec/v1\n')],
  ['a header of 2^63 bytes', 'SWAP_TENSOR_HEADER', () => weights(() => safetensors('{}', undefined, 1n << 63n))],
  [
    'a header of 200 MB',
    'SWAP_TENSOR_HEADER',
    () => {
      const path = modelWith({ [UNET]: () => null })
      sparse(join(path, UNET), 3e8, safetensors('', undefined, 200_000_000n))
      return opening({ model: path })
    },
  ],
  ['a header that is not JSON', 'SWAP_TENSOR_HEADER', () => weights(() => safetensors('{"a": [}'))],
  ['a header of brackets', 'SWAP_TENSOR_HEADER', () => weights(() => safetensors('['.repeat(1e6)))],
  ['more numbers than can be', 'SWAP_TENSOR_SHAPE', () => weights(header((_, t) => (t.shape = [2 ** 40, 2 ** 40])))],
  ['a size below zero', 'SWAP_TENSOR_SHAPE', () => weights(header((_, t) => (t.shape = [-1, 4, 3, 3])))],
  ['a range outside the file', 'SWAP_TENSOR_CUT_SHORT', () => weights(header((_, t) => (t.data_offsets[1] = 1e12)))],
  ['a range backwards', 'SWAP_TENSOR_RANGE', () => weights(header((_, t) => t.data_offsets.reverse()))],
  ['tensors on one another', 'SWAP_TENSOR_OVERLAP', () => weights(header((all, t) => (all.other = t)))],
  ['a kind of number unheard of', 'SWAP_TENSOR_DTYPE', () => weights(header((_, t) => (t.dtype = 'F3')))],
  ['weights of whole numbers', 'SWAP_TENSOR_DTYPE', () => weights(header((_, t) => (t.dtype = 'I16')))],
  ['a tensor of another shape', 'SWAP_MODEL_TENSOR_SHAPE', () => weights(header((_, t) => t.shape.push(1)))],
  ['a tensor too few', 'SWAP_MODEL_TENSOR_MISSING', () => weights(header((all, _, name) => delete all[name]))],
  [
    'a width of millions',
    'SWAP_MODEL_TENSOR_SHAPE',
    () => model({ 'text_encoder/config.json': json({ intermediate_size: 2 ** 24 }) }),
  ],
  ['an unknown block', 'SWAP_MODEL_UNSUPPORTED', () => unet({ down_block_types: ['A', 'B', 'C'] })],
  ['parts of two models', 'SWAP_MODEL_UNSUPPORTED', () => unet({ cross_attention_dim: 768 })],
  ['a model that is told depths', 'SWAP_MODEL_UNSUPPORTED', () => unet({ in_channels: 5 })],
  [
    'a config with a text for a number',
    'SWAP_MODEL_CONFIG',
    () => model({ 'vae/config.json': json({ layers_per_block: 'two' }) }),
  ],
  [
    'a shard elsewhere',
    'SWAP_MODEL_SHARD',
    () => model({ [UNET]: () => null, [`${UNET}.index.json`]: () => '{"weight_map":{"a":"../b.safetensors"}}' }),
  ],
  [
    'an unknown scheduler in the file',
    'SWAP_SCHEDULER_UNSUPPORTED',
    () =>
      model({ 'scheduler/scheduler_config.json': json({ _class_name: 'FlowMatchEulerDiscreteScheduler' }) }, (p) =>
        p.generate(drawing()),
      ),
  ],
  [
    'no timesteps',
    'SWAP_SCHEDULER_CONFIG',
    () => model({ 'scheduler/scheduler_config.json': json({ num_train_timesteps: 0 }) }),
  ],
  [
    'more steps than timesteps',
    'SWAP_SCHEDULER_STEPS',
    () =>
      model({ 'scheduler/scheduler_config.json': json({ num_train_timesteps: 10 }) }, (p) =>
        p.generate(drawing({ steps: 20 })),
      ),
  ],
  [
    'no tokenizer',
    'SWAP_TOKENIZER_MISSING',
    () => model({ 'tokenizer/tokenizer.json': () => null, 'tokenizer/vocab.json': () => null }),
  ],
  ['a tokenizer that is not JSON', 'SWAP_TOKENIZER_FILE', () => model({ 'tokenizer/tokenizer.json': () => 'no' })],
  [
    'a tokenizer of another kind',
    'SWAP_TOKENIZER_UNSUPPORTED',
    () => model({ 'tokenizer/tokenizer.json': json({ model: { type: 'WordPiece' } }) }),
  ],
  ['NaN in the U-Net', 'SWAP_NUMERIC_NAN', () => model({ [UNET]: nan(/^conv_out/) }, (p) => p.generate(drawing()))],
  [
    'NaN in the text encoder',
    'SWAP_NUMERIC_NAN',
    () => model({ [TEXT]: nan(/final_layer_norm/) }, (p) => p.generate(drawing())),
  ],
  [
    'NaN in the decoder',
    'SWAP_NUMERIC_NAN',
    () => model({ [VAE]: nan(/^decoder.conv_out/) }, (p) => p.generate(drawing())),
  ],
  [
    'NaN in the encoder',
    'SWAP_NUMERIC_NAN',
    () =>
      model({ [VAE]: nan(/^encoder.conv_out/) }, (p) =>
        p.learn({ image: PHOTO, class: 'person', steps: 1, checkpoint: at('a.resume') }),
      ),
  ],
]

const MACHINE: Row[] = [
  ['an unknown device', 'SWAP_OPTION_INVALID', () => opening({ device: 'tpu' })],
  ['an unknown dtype', 'SWAP_OPTION_INVALID', () => opening({ dtype: 'int8' })],
  ['float16 on a CPU', 'SWAP_DEVICE_DTYPE', () => opening({ device: 'cpu', dtype: 'float16' })],
  ['a GPU that is not there', 'SWAP_DEVICE_UNAVAILABLE', () => opening({ device: 'cuda:99' })],
  ['no threads', 'SWAP_OPTION_INVALID', () => opening({ threads: 0 })],
  [
    'other threads than the process has',
    'SWAP_DEVICE_THREADS',
    () => opening({ threads: personalizer.info.threads + 1 }),
  ],
  ['a misspelt option', 'SWAP_OPTION_UNKNOWN', () => opening({ modle: 'mini' })],
  ['a signal that is none', 'SWAP_OPTION_INVALID', () => Personalizer.open({}, { signal: 'now' as never })],
  ['SWAP_LIBTORCH without LibTorch', 'SWAP_LIBTORCH_MISSING', () => openingWith('SWAP_LIBTORCH', folder)],
  [
    'an engine library that is text',
    'SWAP_LIBTORCH_LOAD',
    () => openingWith('SWAP_ENGINE_LIBRARY', file('a.so', 'text')),
  ],
  ['an engine library that is not there', 'SWAP_ENGINE_MISSING', () => openingWith('SWAP_ENGINE_LIBRARY', at('a.so'))],
  ['a library that is no engine', 'SWAP_ENGINE_ABI', () => openingWith('SWAP_ENGINE_LIBRARY', findAddon())],
  ['an addon that is text', 'SWAP_ENGINE_LOAD', () => openingWith('SWAP_NATIVE_BINDING', file('a.node', 'text'))],
]

describeRows('models', MODELS)
describeRows('machine', MACHINE)
