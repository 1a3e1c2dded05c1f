/** A subject as a Textual Inversion file, for programs that know nothing of stages nor of K and V. */
import { SwapError } from '../errors.ts'
import { writeSafetensors } from '../model/safetensors.ts'
import type { SubjectVectors } from '../native.ts'

export const FORMATS = ['diffusers', 'a1111', 'kohya'] as const
export type EmbeddingFormat = (typeof FORMATS)[number]

/**
 * What exporting costs on the embedded model, by `node bench/export.mjs`: mean difference of pixel values (of 255)
 * between a subject's pictures and those of its export, those of its class word, and its own with other seeds.
 */
export const EXPORT_LOSS = { exported: 16.7, word: 32.8, seeds: 29.3 }

/** One vector a token: the mean over stages and over K and V, for each text encoder `[tokens, width]`. */
export function meanVectors({ stages, k, v }: SubjectVectors): Float32Array[] {
  return k.map((keys, encoder) => {
    const size = keys.length / stages
    const sums = new Float64Array(size)
    for (const values of [keys, v[encoder]!]) {
      for (const [index, value] of values.entries()) sums[index % size]! += value
    }
    return Float32Array.from(sums, (sum) => sum / (2 * stages))
  })
}

/** Root mean square of what the mean leaves out, as a share of that of the vectors; 0 where nothing is lost. */
export function meanLoss(vectors: SubjectVectors): number {
  const means = meanVectors(vectors)
  let [lost, all] = [0, 0]
  for (const values of [vectors.k, vectors.v]) {
    for (const [encoder, data] of values.entries()) {
      const mean = means[encoder]!
      for (const [index, value] of data.entries()) {
        lost += (value - mean[index % mean.length]!) ** 2
        all += value ** 2
      }
    }
  }
  return all === 0 ? 0 : Math.sqrt(lost / all)
}

/**
 * The bytes of a file that other programs read, always safetensors.
 *
 * diffusers gets `{ '<name>': [n, d] }`; AUTOMATIC1111 and kohya's scripts `{ emb_params: [n, d] }`; all get `clip_l` and
 * `clip_g` where there are two text encoders.
 */
export function writeEmbedding(name: string, vectors: SubjectVectors, format: EmbeddingFormat): Uint8Array {
  const means = meanVectors(vectors)
  const single = format === 'diffusers' ? `<${name}>` : 'emb_params'
  const names = means.length === 1 ? [single] : ['clip_l', 'clip_g']
  const tensors = means.map((data, encoder) => ({
    name: names[encoder]!,
    shape: [vectors.tokens, data.length / vectors.tokens],
    data,
  }))
  return writeSafetensors(tensors, { format: 'pt', name })
}

/** @throws SwapError `SWAP_OPTION_INVALID` */
export function checkFormat(format: unknown, call: string): asserts format is EmbeddingFormat {
  if (FORMATS.includes(format as EmbeddingFormat)) return
  const known = FORMATS.map((one) => `'${one}'`).join(', ')
  throw new SwapError('SWAP_OPTION_INVALID', `option "format" of ${call} must be one of ${known}`, {
    hint: 'save() and toBuffer() without a format write the subject whole',
  })
}
