/** Stored tensors against the spec: the engine gets exactly what it needs, or nothing. */
import { SwapError } from '../errors.ts'
import type { ModelSpec, TensorEntry } from '../native.ts'
import { expectedTensors, type TensorShapes } from './expected.ts'
import type { StoredTensor } from './folder.ts'
import { type ComponentKind, canonical, harmless } from './keys.ts'

/** The floating kinds, all that the engine reads. */
const DTYPES = ['F64', 'F32', 'F16', 'BF16'] as const

/**
 * The tensor table of a model, in the order of {@link expectedTensors}.
 *
 * @param warnings gets one line for what is left over
 * @throws SwapError `SWAP_MODEL_TENSOR_MISSING`, `SWAP_MODEL_TENSOR_SHAPE`, `SWAP_MODEL_TENSOR_TWICE`, `SWAP_TENSOR_DTYPE`
 */
export function tensorTable(
  spec: ModelSpec,
  stored: ReadonlyMap<ComponentKind, StoredTensor[]>,
  warnings: string[],
): TensorEntry[] {
  return matchTensors(expectedTensors(spec), stored, warnings)
}

/** The same of any part. */
export function matchTensors(
  expected: TensorShapes,
  stored: ReadonlyMap<ComponentKind, StoredTensor[]>,
  warnings: string[],
): TensorEntry[] {
  const found = new Map<string, TensorEntry>()
  const left: string[] = []
  for (const [component, tensors] of stored) {
    for (const tensor of tensors) {
      const named = canonical(component, tensor.name, tensor.shape)
      if (!named) continue
      const shape = expected.get(named.name)
      if (!shape) {
        if (!harmless(component, tensor.name)) left.push(named.name)
        continue
      }
      const known = found.get(named.name)
      if (known) {
        throw new SwapError(
          'SWAP_MODEL_TENSOR_TWICE',
          `"${tensor.file}" has ${named.name} twice, under an older and a newer name`,
          { hint: 'the file is a mix of two; get it again' },
        )
      }
      if (named.shape.join() !== shape.join()) {
        throw new SwapError(
          'SWAP_MODEL_TENSOR_SHAPE',
          `"${tensor.file}": ${named.name} has shape [${named.shape}]; config.json asks for [${shape}]`,
          { hint: 'weights and config.json are not of one model' },
        )
      }
      const { file, begin, end } = tensor
      const dtype = floating(tensor.dtype, file, named.name)
      found.set(named.name, { name: named.name, dtype, shape: named.shape, file, begin, end })
    }
  }
  const missing = [...expected.keys()].filter((name) => !found.has(name))
  if (missing.length > 0) {
    throw new SwapError(
      'SWAP_MODEL_TENSOR_MISSING',
      `the weights lack ${missing.length} of ${expected.size} tensors: ${some(missing)}`,
      { hint: 'weights and config.json are not of one model, or a file is incomplete' },
    )
  }
  if (left.length > 0) warnings.push(`the weights have ${left.length} tensors that are not used: ${some(left)}`)
  return [...expected.keys()].map((name) => found.get(name)!)
}

/**
 * The kind of a tensor's numbers, where the engine reads it.
 *
 * @throws SwapError `SWAP_TENSOR_DTYPE`
 */
export function floating(dtype: string, file: string, name: string): (typeof DTYPES)[number] {
  const kind = DTYPES.find((one) => one === dtype)
  if (kind) return kind
  throw new SwapError('SWAP_TENSOR_DTYPE', `"${file}": ${name} is of kind ${dtype}`, {
    hint: 'weights must be F32, F16, BF16 or F64: quantised files are not read',
  })
}

/** The first few names of a list. */
export function some(names: string[]): string {
  return names.length > 3 ? `${names.slice(0, 3).join(', ')}, …` : names.join(', ')
}
