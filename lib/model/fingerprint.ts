/** What says that a subject belongs to a base model. */
import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { fileError } from '../files.ts'
import type { ModelSpec, TensorEntry } from '../native.ts'
import { floatBitsToHalf } from './float.ts'
import { toFloat32 } from './safetensors.ts'

const CHUNK = 2 ** 22

/**
 * SHA-256 over the text encoders' specs and their token embedding rows, in hex: what a subject's vectors live among.
 *
 * The rows count as half precision, so a model's fp16 and fp32 files have one fingerprint.
 */
export async function fingerprint(spec: ModelSpec, tensors: readonly TensorEntry[]): Promise<string> {
  const hash = createHash('sha256')
  for (const [index, encoder] of spec.textEncoders.entries()) {
    hash.update(JSON.stringify(Object.entries(encoder).sort(([a], [b]) => (a < b ? -1 : 1))))
    const entry = tensors.find(({ name }) => name === `text_encoder.${index}.embeddings.token_embedding.weight`)
    if (entry) await hashRows(entry, (bytes) => hash.update(bytes))
  }
  return hash.digest('hex')
}

async function hashRows(entry: TensorEntry, update: (bytes: Uint8Array) => void): Promise<void> {
  const handle = await open(entry.file, 'r').catch((error: unknown) => {
    throw fileError(error, entry.file, 'read')
  })
  // One for all: buffers of this size make the collector run.
  const buffer = new Uint8Array(CHUNK)
  try {
    for (let position = entry.begin; position < entry.end; ) {
      const wanted = Math.min(CHUNK, entry.end - position)
      const bytes = buffer.subarray(0, wanted)
      for (let done = 0; done < wanted; ) {
        const { bytesRead } = await handle.read(bytes, done, wanted - done, position + done)
        if (bytesRead === 0) return
        done += bytesRead
      }
      update(entry.dtype === 'F16' ? bytes : asHalves(bytes, entry.dtype))
      position += wanted
    }
  } catch (error) {
    throw fileError(error, entry.file, 'read')
  } finally {
    await handle.close().catch(() => {})
  }
}

function asHalves(bytes: Uint8Array, dtype: string): Uint8Array {
  const floats = toFloat32(bytes, dtype) ?? new Float32Array()
  const bits = new Uint32Array(floats.buffer)
  const halves = new Uint8Array(floats.length * 2)
  for (let i = 0; i < bits.length; i++) {
    const half = floatBitsToHalf(bits[i]!)
    halves[2 * i] = half & 255
    halves[2 * i + 1] = half >> 8
  }
  return halves
}
