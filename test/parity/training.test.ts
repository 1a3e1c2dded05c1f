/** A training step is what its parts say: the draws of that step, the gradient at them, AdamW without weight decay. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { LearnRequest, NativeTensor } from '../../lib/native.ts'
import { encodePrompt } from '../../lib/prompt/index.ts'
import { concatenate, Opened, relativeError } from './support.ts'

const LEARNING_RATE = 1e-3

/** AdamW as PyTorch documents it, one step; returns the new parameters and moments. */
function adamW(
  { parameters, first, second }: Record<'parameters' | 'first' | 'second', Float32Array>,
  gradient: Float32Array,
  step: number,
): { parameters: Float32Array; first: Float32Array; second: Float32Array } {
  const m = first.map((value, i) => 0.9 * value + 0.1 * gradient[i]!)
  const v = second.map((value, i) => 0.999 * value + 0.001 * gradient[i]! ** 2)
  const moved = parameters.map((value, i) => {
    const denominator = Math.sqrt(v[i]! / (1 - 0.999 ** step)) + 1e-8
    return value - (LEARNING_RATE * (m[i]! / (1 - 0.9 ** step))) / denominator
  })
  return { parameters: moved, first: m, second: v }
}

describe('training steps', () => {
  let opened: Opened
  let request: LearnRequest

  beforeAll(async () => {
    opened = await Opened.open('mini')
    const { model } = opened
    const side = model.resolution
    const ids = (text: string): number[][] => encodePrompt(model.tokenizers, text, []).ids
    request = {
      // Any picture will do: soft colours that differ from place to place.
      image: {
        width: side,
        height: side,
        data: Uint8Array.from({ length: side * side * 3 }, (_, i) => 128 + 100 * Math.sin(i / 500 + (i % 3))),
      },
      mask: new Float32Array(),
      templates: [
        { ids: ids('person'), position: 1 },
        { ids: ids('a person'), position: 2 },
      ],
      classTokens: 1,
      steps: 2,
      batch: 2,
      learningRate: LEARNING_RATE,
      seed: 5,
      stages: 3,
      split: true,
      parametrization: 'attention',
      attentionWeight: 0.01,
      attentionLevels: [],
      tokenWeights: new Float32Array(),
      checkpointEvery: 0,
    }
  })
  afterAll(() => opened?.close())

  const draws = (step: number) =>
    opened.evaluate({
      op: 'draws',
      learn: request,
      inputs: [{ name: 'step', shape: [1], data: new Float32Array([step]) }],
    })

  test('are AdamW on the gradient of their draws', async () => {
    // At rate zero the first step leaves what is learnt where it starts.
    const still = await opened.engine.learn({ ...request, learningRate: 0, steps: 1 }, () => {}).promise
    const start = still.state.tensors.filter(({ name }) => name.startsWith('parameter.'))
    const names = start.map(({ name }) => name.slice('parameter.'.length))
    const shapes = start.map(({ shape }) => shape)
    const flat = (tensors: NativeTensor[], prefix: string): Float32Array =>
      concatenate(names.map((name) => tensors.find((tensor) => tensor.name === `${prefix}.${name}`)!.data))

    const zeros = (): Float32Array => new Float32Array(flat(start, 'parameter').length)
    let expected = { parameters: flat(start, 'parameter'), first: zeros(), second: zeros() }
    for (let step = 0; step < 2; step++) {
      const drawn = await draws(step)
      let offset = 0
      const parameters = names.map((name, i): NativeTensor => {
        const length = shapes[i]!.reduce((product, size) => product * size, 1)
        offset += length
        return { name, shape: shapes[i]!, data: expected.parameters.slice(offset - length, offset) }
      })
      const { resolution, vaeFactor, spec } = opened.model
      const latents = [request.batch, spec.vae.latentChannels, resolution / vaeFactor, resolution / vaeFactor]
      const got = await opened.evaluate({
        op: 'gradient',
        learn: request,
        inputs: [
          ...['timesteps', 'templates'].map((name) => ({ name, shape: [request.batch], data: drawn(name) })),
          ...['latents', 'noise'].map((name) => ({ name, shape: latents, data: drawn(name) })),
          ...parameters,
        ],
      })
      expected = adamW(expected, concatenate(names.map((name) => got(`grad.${name}`))), step + 1)
    }

    const { state } = await opened.engine.learn(request, () => {}).promise
    expect(state.step).toBe(2)
    // What is zero but for rounding moves by its sign: the first moments show the gradients, the parameters the moves.
    expect(relativeError(flat(state.tensors, 'first_moment'), expected.first)).toBeLessThan(1e-3)
    expect(relativeError(flat(state.tensors, 'second_moment'), expected.second)).toBeLessThan(1e-3)
    const far = flat(state.tensors, 'parameter').filter((value, i) => {
      return Math.abs(value - expected.parameters[i]!) > 0.05 * LEARNING_RATE
    })
    expect(far.length / expected.parameters.length).toBeLessThan(0.01)
  })

  test('draw latents from the photo’s own distribution, other ones at every step', async () => {
    const { width, height, data } = request.image
    const planar = new Float32Array(data.length)
    for (let i = 0; i < data.length; i++) planar[(i % 3) * width * height + Math.floor(i / 3)] = data[i]! / 127.5 - 1
    const image = { name: 'image', shape: [1, 3, height, width], data: planar }
    const photo = await opened.evaluate({ op: 'vae_encode', inputs: [image] })
    const [mean, deviation] = [photo('mean'), photo('std')]
    const scale = opened.model.spec.vae.scalingFactor

    const seen = new Set<number>()
    const whitened: number[] = []
    const noise: number[] = []
    for (let step = 0; step < 8; step++) {
      const drawn = await draws(step)
      for (const timestep of drawn('timesteps')) {
        expect(timestep).toBeGreaterThanOrEqual(0)
        expect(timestep).toBeLessThan(opened.model.spec.noise.trainTimesteps)
        seen.add(timestep)
      }
      const latents = drawn('latents')
      for (let i = 0; i < latents.length; i++) {
        const at = i % mean.length
        whitened.push((latents[i]! / scale - mean[at]!) / deviation[at]!)
      }
      noise.push(...drawn('noise'))
    }
    expect(seen.size).toBeGreaterThan(8)
    // 16384 normal numbers: their mean is within 0.04 of 0 and their variance within 0.06 of 1, at five deviations.
    for (const numbers of [whitened, noise]) {
      const average = numbers.reduce((sum, value) => sum + value, 0) / numbers.length
      const variance = numbers.reduce((sum, value) => sum + (value - average) ** 2, 0) / numbers.length
      expect(Math.abs(average)).toBeLessThan(0.04)
      expect(Math.abs(variance - 1)).toBeLessThan(0.06)
    }
    expect((await draws(3))('noise')).toEqual((await draws(3))('noise'))
  })
})
