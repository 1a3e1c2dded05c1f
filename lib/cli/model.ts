/** The options that say what to compute with, and the opening of it: the same for learning and generating. */

import { type Command, Option } from 'commander'
import { type OpenOptions, Personalizer } from '../index.ts'
import { collect, number } from './args.ts'
import { megabytes } from './output.ts'
import type { Context } from './run.ts'

export interface ModelFlags {
  model?: string
  config?: string
  predictionType?: OpenOptions['predictionType']
  lora?: string[]
  device?: string
  dtype?: NonNullable<OpenOptions['dtype']>
  threads?: number
}

export function addModelOptions(command: Command): Command {
  return command
    .option(
      '--model <model>',
      "the base model: 'mini' (embedded), a diffusers folder, a checkpoint file, or owner/name[@revision] on the hub",
      'mini',
    )
    .option('--config <folder>', 'for a checkpoint file: a diffusers folder whose configs and tokenizer hold')
    .addOption(
      new Option('--prediction-type <type>', 'what the model predicts, where its files do not say').choices([
        'epsilon',
        'v_prediction',
        'sample',
      ]),
    )
    .option('--lora <file[:scale]>', 'a LoRA to merge into the model; may repeat', collect)
    .option('--device <device>', "where to compute: 'auto', 'cpu', 'cuda' or 'cuda:N'", 'auto')
    .addOption(
      new Option('--dtype <dtype>', 'what to compute in')
        .choices(['auto', 'float32', 'bfloat16', 'float16'])
        .default('auto'),
    )
    .option('--threads <n>', 'CPU threads (default: the physical cores)', number)
}

/** `style.safetensors:0.8` */
function scaled(text: string): { file: string; scale?: number } {
  const [, file, scale] = /^(.+):(-?\d*\.?\d+)$/.exec(text) ?? []
  return file === undefined ? { file: text } : { file, scale: Number(scale) }
}

/** Bytes of a model that takes long enough to be told about. */
const SLOW_TO_LOAD = 250e6

/** Reads the model, runs `work` with it, and gives the memory back whatever happens. */
export async function withPersonalizer<T>(
  flags: ModelFlags,
  { output, signal }: Context,
  work: (personalizer: Personalizer) => Promise<T>,
): Promise<T> {
  const { model, config, predictionType, device, dtype, threads } = flags
  const onProgress: OpenOptions['onProgress'] = ({ phase, done, total }) => {
    if (phase === 'load' && total < SLOW_TO_LOAD) return
    output.progress(phase === 'load' ? 'loading' : 'download', {
      done,
      total,
      detail: `${megabytes(done)} of ${megabytes(total)}`,
    })
  }
  const personalizer = await Personalizer.open(
    { model, config, predictionType, loras: (flags.lora ?? []).map(scaled), device, dtype, threads, onProgress },
    { signal },
  )
  try {
    const { info } = personalizer
    for (const warning of info.warnings) output.warn(warning)
    output.note(
      `${info.model} on ${info.device} in ${info.dtype}, ${info.threads} thread${info.threads === 1 ? '' : 's'}`,
    )
    return await work(personalizer)
  } finally {
    await personalizer.close()
  }
}
