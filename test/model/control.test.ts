/** ControlNets are read from folders and from single files, whichever names their tensors have, and checked. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { beforeAll, describe, expect, test } from 'vitest'
import { readControl } from '../../lib/model/control.ts'
import { controlOf } from '../../lib/model/control_file.ts'
import { expectedControl } from '../../lib/model/expected.ts'
import { type Model, readModel } from '../../lib/model/index.ts'
import { writeSafetensors } from '../../lib/model/safetensors.ts'
import { matchTensors } from '../../lib/model/table.ts'
import type { ControlNetSpec, UNetSpec } from '../../lib/native.ts'
import { packageRoot } from '../../lib/paths.ts'
import { controlSpecFor, controlTensors, writeControl } from './control_kit.ts'

/** As control_keys.py writes it: the file's name, diffusers' name, the shape. */
interface Architecture {
  config: Record<string, unknown>
  tensors: [stored: string, name: string, shape: number[]][]
}

const golden = join(packageRoot(), 'test', 'model', 'goldens', 'control_keys.json.gz')
const architectures = JSON.parse(gunzipSync(readFileSync(golden)).toString()) as Record<string, Architecture>

let mini: Model
let spec: ControlNetSpec
let folder: string
let path: string
beforeAll(async () => {
  mini = await readModel('mini')
  spec = controlSpecFor(mini.spec)
  folder = mkdtempSync(join(tmpdir(), 'swap-control-'))
  path = writeControl(join(folder, 'net'), spec)
})

const level = (channels: number, heads: number) => ({
  channels,
  layers: 2,
  heads,
  transformerLayers: 1,
  downAttention: true,
  upAttention: true,
})

/** The U-Nets that these nets are made for: of the levels' attention nothing is known beforehand. */
const BASES: Record<string, Partial<UNetSpec>> = {
  control_v11p_sd15_canny: { levels: [320, 640, 1280, 1280].map((width) => level(width, 8)), crossAttentionDim: 768 },
  'controlnet-sd21-canny': {
    levels: [320, 640, 1280, 1280].map((width) => level(width, width / 64)),
    crossAttentionDim: 1024,
  },
}
const XL = {
  levels: [320, 640, 1280].map((width) => level(width, width / 64)),
  crossAttentionDim: 2048,
  timeIdWidth: 256,
  linearProjection: true,
}

describe('complete lists of published architectures', () => {
  test.each(Object.entries(architectures))('%s: each tensor is used exactly once', (name, { config, tensors }) => {
    const base = { ...mini.spec.unet, ...(BASES[name] ?? { ...XL, pooledWidth: 1280 }) }
    let end = 0
    const stored = tensors.map(([name, , shape]) => {
      const begin = end
      end += 2 * shape.reduce((a, b) => a * b, 1)
      return { name, dtype: 'F16', shape, begin, end }
    })
    const read = controlOf('net.safetensors', stored, base)
    // The very tensor that diffusers' conversion puts under a name.
    const begins = new Map(tensors.map(([, name], index) => [`controlnet.${name}`, stored[index]!.begin]))
    const warnings: string[] = []
    const placed = read.tensors.map((tensor) => ({ ...tensor, file: 'net.safetensors' }))
    const table = matchTensors(expectedControl(read.spec), new Map([['controlnet', placed]]), warnings)
    expect(warnings).toEqual([])
    expect(table).toHaveLength(tensors.length)
    expect(new Map(table.map(({ name, begin }) => [name, begin]))).toEqual(begins)
    expect(new Set(table.map(({ begin }) => begin)).size).toBe(tensors.length)
    expect(read.spec.imageWidths).toEqual([16, 32, 96, 256])
    expect(read.spec.unet.crossAttentionDim).toBe(config.cross_attention_dim)
    expect(read.spec.unet.linearProjection).toBe(config.use_linear_projection ?? false)
  })

  test('depths that only the tensors tell', () => {
    const depths = ['', '-mid', '-small'].map((kind) => {
      const { tensors } = architectures[`controlnet-canny-sdxl-1.0${kind}`]!
      const stored = tensors.map(([name, , shape]) => ({ name, dtype: 'F16', shape, begin: 0, end: 0 }))
      const { unet } = controlOf('a', stored, { ...mini.spec.unet, ...XL }).spec
      const down = unet.levels.map(({ downAttention, transformerLayers }) => (downAttention ? transformerLayers : '-'))
      return [...down, unet.midAttention ? unet.midTransformerLayers : '-'].join(' ')
    })
    expect(depths).toEqual(['- 2 10 10', '- 0 1 1', '- - - -'])
  })
})

describe('one net in several files', () => {
  test('a folder says what it is in its config', async () => {
    const read = await readControl(path, mini)
    expect(read.warnings).toEqual([])
    expect(read.spec).toMatchObject({
      imageChannels: 3,
      imageWidths: spec.imageWidths,
      unet: { crossAttentionDim: spec.unet.crossAttentionDim, midAttention: true, normGroups: spec.unet.normGroups },
    })
    expect(read.tensors.map(({ name }) => name)).toEqual([...expectedControl(spec).keys()])
  })

  test('a file says it in its tensors', async () => {
    const file = join(path, 'diffusion_pytorch_model.safetensors')
    const [whole, alone] = [await readControl(path, mini), await readControl(file, mini)]
    expect(alone.tensors).toEqual(whole.tensors)
    const known = ({ unet, ...rest }: ControlNetSpec) => ({
      ...rest,
      unet: {
        ...unet,
        levels: unet.levels.map((one) => ({ ...one, upAttention: false })),
        sampleSize: 0,
        pooledWidth: 0,
        guidanceWidth: 0,
      },
    })
    expect(known(alone.spec)).toEqual(known(whole.spec))
  })

  test.each(['', 'control_model.'])('with the original names behind "%s"', async (prefix) => {
    const { tensors } = architectures.control_v11p_sd15_canny!
    const original = new Map(tensors.map(([stored, name]) => [name, stored.replace('control_model.', prefix)]))
    // Of Stable Diffusion 1.x in small.
    const levels = [4, 8, 8, 8].map((width, index) => ({ ...level(width, 2), downAttention: index < 3 }))
    const unet = { ...mini.spec.unet, levels, normGroups: 2, crossAttentionDim: 6 }
    const base = { ...mini, vaeFactor: 8, spec: { ...mini.spec, unet } }
    const whole = { unet, imageChannels: 3, imageWidths: [2, 3, 4, 5] }
    const plain = controlTensors(whole)
    const given = plain.map((tensor) => ({ ...tensor, name: original.get(tensor.name)! }))
    // Whole checkpoints have the rest of the model beside it.
    const rest = prefix ? [{ name: 'model.diffusion_model.out.2.bias', shape: [4], data: new Float32Array(4) }] : []
    const file = join(folder, `original${prefix}.safetensors`)
    writeFileSync(file, writeSafetensors([...given, ...rest]))
    const read = await readControl(file, base)
    expect(read.warnings).toEqual([])
    expect(read.spec).toMatchObject({
      imageWidths: whole.imageWidths,
      unet: { levels: levels.map(({ channels }) => ({ channels })) },
    })
    expect(read.tensors.map(({ name }) => name)).toEqual(plain.map(({ name }) => `controlnet.${name}`))
    const content = readFileSync(file)
    for (const [index, { name, begin, end }] of read.tensors.entries()) {
      const { data } = plain[index]!
      expect(content.subarray(begin, end).equals(Buffer.from(data.buffer)), name).toBe(true)
    }
  })
})
