/** ControlNets that are none, or half of one, on the real engine. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readModel } from '../../lib/model/index.ts'
import { controlSpecFor, writeControl } from '../model/control_kit.ts'
import { hostile } from './adapters.ts'
import { type Change, command, file, header, nan, PHOTO, safetensors, sparse, temporary, UNET } from './kit.ts'
import { describeRows, drawing, folder, personalizer, type Row, useEngine } from './table.ts'

useEngine()
const { spec } = await readModel('mini')
const WEIGHTS = 'diffusion_pytorch_model.safetensors'
const good = writeControl(join(temporary(), 'good'), controlSpecFor(spec))

/** A net with its weights' file changed. */
function netWith(change: Change): string {
  const net = writeControl(join(temporary(), 'net'), controlSpecFor(spec))
  const content = change(readFileSync(join(net, WEIGHTS)))
  if (content !== null) writeFileSync(join(net, WEIGHTS), content)
  return net
}
const draw = (model: string, more: object = {}) =>
  personalizer.generate(drawing({ control: [{ model, image: PHOTO, ...more }] }))
const weights = (change: Change) => draw(netWith(change))
const swap = (control: string) => command(folder, 'generate', 'a person', '--steps', '1', '--control', control)

/** Half precision, as NaN is written there. */
const halves: Change = (before) => {
  const begin = 8 + Number(before.readBigUInt64LE())
  const tensors = JSON.parse(before.subarray(8, begin).toString())
  for (const entry of Object.values<{ dtype: string; data_offsets: number[] }>(tensors)) {
    entry.dtype = 'F16'
    entry.data_offsets = entry.data_offsets.map((at) => at / 2)
  }
  return safetensors(tensors, before.subarray(begin, begin + (before.length - begin) / 2))
}

const ROWS: Row[] = [
  ['no such net', 'SWAP_MODEL_NOT_FOUND', () => draw(join(folder, 'net'))],
  ['a mistyped path of a file', 'SWAP_MODEL_NOT_FOUND', () => draw('nets/cany.pth')],
  ['an empty folder', 'SWAP_MODEL_FILE_MISSING', () => draw(folder)],
  ['weights cut in half', 'SWAP_TENSOR_CUT_SHORT', () => weights((b) => b.subarray(0, b.length / 2))],
  ['weights of 0 bytes', 'SWAP_TENSOR_CUT_SHORT', () => weights(() => '')],
  ['a header of 2^63 bytes', 'SWAP_TENSOR_HEADER', () => weights(() => safetensors('{}', undefined, 1n << 63n))],
  [
    'a file of 3 GB with a header of 200 MB',
    'SWAP_TENSOR_HEADER',
    () => draw(sparse(join(temporary(), 'net.safetensors'), 3e9, safetensors('', undefined, 200_000_000n))),
  ],
  ['tensors on one another', 'SWAP_TENSOR_OVERLAP', () => weights(header((all, t) => (all.other = t)))],
  ['weights of whole numbers', 'SWAP_TENSOR_DTYPE', () => weights(header((_, t) => (t.dtype = 'I32')))],
  ['a tensor too few', 'SWAP_MODEL_TENSOR_MISSING', () => weights(header((all, _, name) => delete all[name]))],
  ['half of a single file', 'SWAP_MODEL_TENSOR_MISSING', () => draw(file('a.safetensors', half(good)))],
  ['a single file of a thousand levels', 'SWAP_CONTROL_MODEL', () => draw(file('deep.safetensors', endless()))],
  [
    'NaN in the weights',
    'SWAP_NUMERIC_NAN',
    () => weights((b) => nan(/mid_block\.weight/)(Buffer.from(halves(b) as Buffer))),
  ],
  [
    'a pickle that is no archive',
    'SWAP_FILE_PICKLE_DAMAGED',
    () => draw(file('a.pth', Buffer.from('cos\nsystem\n(S"true"\ntR.'))),
  ],
  ['a pickle that runs a program', 'SWAP_FILE_PICKLE', () => draw(file('a.pth', hostile(join(folder, 'ran'))))],
  ['the base model’s own U-Net', 'SWAP_MODEL_UNSUPPORTED', () => draw(join('models', 'mini', UNET))],
  ['a picture that is none', 'SWAP_IMAGE_DECODE', () => draw(good, { image: file('a.png', 'text') })],
  ['a start behind the end', 'SWAP_OPTION_INVALID', () => draw(good, { start: 1, end: 0 })],
  ['the command, for no such net', 'SWAP_MODEL_NOT_FOUND', () => swap(`model=nowhere,image=${PHOTO}`)],
  ['the command, for a scale beyond all', 'SWAP_OPTION_INVALID', () => swap(`model=${good},image=${PHOTO},scale=1e9`)],
]

/** The weights of a folder as a file that lacks the middle. */
function half(net: string): Buffer {
  return header((all) => {
    for (const name of Object.keys(all)) if (name.startsWith('mid_block.resnets')) delete all[name]
  })(readFileSync(join(net, WEIGHTS))) as Buffer
}

/** Names of more levels than there can be; no numbers. */
function endless(): Buffer {
  const names = Array.from({ length: 1000 }, (_, level) => `down_blocks.${level}.resnets.0.conv1.weight`)
  const all = ['conv_in.weight', 'controlnet_cond_embedding.conv_in.weight', ...names]
  const entries = all.map((name, index) => [
    name,
    { dtype: 'F16', shape: [1, 1], data_offsets: [2 * index, 2 * index + 2] },
  ])
  return safetensors(Object.fromEntries(entries), new Uint8Array(2 * all.length))
}

describeRows('ControlNets', ROWS)
