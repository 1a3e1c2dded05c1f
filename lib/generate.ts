/** Generating pictures: a prompt and its subjects become the engine's request. */
import { StepClock } from './clock.ts'
import { checkWindows, readPictures } from './controls.ts'
import { SwapError } from './errors.ts'
import type { GeneratedImage, InitialPicture } from './image/index.ts'
import type { JobContext } from './job.ts'
import { differences, type Made, optionsLike, parametersLike } from './like.ts'
import { loraLabels } from './loras.ts'
import type { Model, SchedulerName } from './model/index.ts'
import type { GenerateRequest, NativeEvent, SchedulerSpec } from './native.ts'
import { type GenerateOptions, generateSchema, invalidOption, MAX_SIZE, parseOptions } from './options.ts'
import type { Session } from './session.ts'
import type { Subject } from './subject.ts'
import { runTask } from './task.ts'
import { timeIds } from './time_ids.ts'

/** A step that was done. */
export interface GenerateEvent {
  /** `'download'`, `'load'`: bytes of a ControlNet; `'step'`: of the denoising; `'decode'`: pictures out of the VAE. */
  type: 'download' | 'load' | 'step' | 'decode'
  step: number
  steps: number
  /** An estimate, for this type of step. */
  secondsLeft: number
}

/** Bytes of pictures that one call may give. */
const MAX_BYTES = 2 ** 31

type Options = ReturnType<typeof parseGenerate>
const parseGenerate = (given: unknown) => parseOptions(generateSchema, given, 'generate()')

/** @internal The work of `Personalizer.generate()`. */
export async function generate(
  session: Session,
  given: GenerateOptions,
  context: JobContext<GenerateEvent>,
): Promise<GeneratedImage[]> {
  const { model, engine } = session
  // Before anything is read: is what was said an option, and in range?
  const { like } = parseGenerate(given)
  const before = await parametersLike(like)
  const options = parseGenerate(optionsLike(given, before))
  const { prompt } = options
  if (prompt === undefined) throw invalidOption('option "prompt" of generate()', 'must be a text', prompt)
  const { subjects, seed, count, guidanceRescale, promptWeights } = options
  // In SDXL none is not the same as an empty one.
  const negativePrompt = options.negativePrompt ?? (model.zeroNegative ? undefined : '')
  const steps = options.steps ?? model.defaults.steps
  const guidanceScale = options.guidanceScale ?? model.defaults.guidanceScale
  const isolate = options.isolate ?? model.defaults.isolate
  const { width, height, initial } = await readBeginning(options, steps, model)
  if (count * width * height * 3 > MAX_BYTES) {
    throw invalidOption('option "count" of generate()', `must be lower for ${width} x ${height} pixels`, count)
  }
  if (seed > Number.MAX_SAFE_INTEGER - count) {
    throw invalidOption('option "seed" of generate()', 'must leave room for one seed a picture', seed)
  }
  checkSubjects(subjects, model, context)
  checkWindows(options.control, initial ? Math.floor(steps * initial.strength) : steps, context.warn)
  checkLoras(subjects, session, context)

  const [{ encodePrompts }, { schedulerSpec }, { GeneratedImage }] = await Promise.all([
    import('./prompt/index.ts'),
    import('./model/index.ts'),
    import('./image/index.ts'),
  ])
  const placeholders = subjects.map(({ name, classWord, tokens }) => ({ name, classWord, tokens }))
  const texts = { prompt, negative: negativePrompt }
  const encoded = encodePrompts(model.tokenizers, texts, placeholders, { weights: promptWeights, isolate })
  const used = new Set([...encoded.prompt.slots, ...encoded.negative.slots].map(({ subject }) => subject))
  subjects.forEach(({ name, classWord }, index) => {
    if (!used.has(index)) context.warn(`the subject "${name}" is not used: the prompt has no <${name}>`)
    else if (given.isolate && classWord === undefined) {
      context.warn(`the subject "${name}" has no class word: "isolate" does nothing in a prompt with <${name}>`)
    }
  })
  const seeds = Array.from({ length: count }, (_, index) => seed + index)
  const controls = await readPictures(options.control, { width, height }, context.warn)
  const made: Made = {
    model: model.name,
    image: initial?.digests.image,
    mask: initial?.digests.mask,
    control: controls.length > 0 ? controls.map(({ told }) => told) : undefined,
    loras: session.loras.files.length > 0 ? loraLabels(session.loras.files) : undefined,
  }
  for (const warning of differences(before, made)) context.warn(warning)
  const request: GenerateRequest = {
    ...encoded,
    subjects: subjects.map(({ vectors }) => vectors),
    scheduler: schedulerSpec(model.scheduler, model.spec.noise, options.scheduler),
    steps,
    guidanceScale,
    seeds,
    width,
    height,
    batch: options.batch ?? 0,
    guidanceRescale,
    initial: initial && { image: initial.image, strength: initial.strength, mask: initial.mask ?? new Float32Array(0) },
    timeIds: timeIds(model, { width, height }),
  }
  const clock = new StepClock('step')
  const onEvent = (event: NativeEvent): void => {
    if (event.type !== 'progress' || (event.phase !== 'step' && event.phase !== 'decode')) return
    const secondsLeft = clock.secondsLeft(event.phase, event.done, event.total, event.secondsLeft)
    context.emit({ type: event.phase, step: event.done, steps: event.total, secondsLeft })
  }
  const { started } = await session.controls.use(
    options.control.map(({ model: net }) => net),
    {
      signal: context.signal,
      warn: context.warn,
      progress: (type, step, steps) =>
        context.emit({ type, step, steps, secondsLeft: clock.secondsLeft(type, step, steps, -1) }),
    },
    (nets) => {
      request.controls = controls.map(({ engine }, index) => ({ ...engine, net: nets[index]! }))
      return runTask(() => engine.generate(request, onEvent), context.signal)
    },
  )
  const { images } = await started
  context.signal.throwIfAborted()
  return images.map(
    (image, index) =>
      new GeneratedImage({
        ...image,
        seed: seeds[index]!,
        prompt,
        parameters: {
          prompt,
          negativePrompt,
          steps,
          guidanceScale,
          ...(promptWeights && { promptWeights }),
          ...(used.size > 0 && { isolate: [encoded.prompt, encoded.negative].some((text) => text.isolate === true) }),
          ...(guidanceRescale > 0 && { guidanceRescale }),
          scheduler: schedulerName(request.scheduler),
          seed: seeds[index]!,
          width,
          height,
          subjects: subjects.map(({ name }) => name),
          ...(initial && { strength: initial.strength }),
          ...Object.fromEntries(Object.entries(made).filter(([, value]) => value !== undefined)),
        },
      }),
  )
}

function checkSize(name: 'width' | 'height', value: number, { vaeFactor }: Model): number {
  if (value % vaeFactor !== 0) {
    const nearest = Math.max(1, Math.round(value / vaeFactor)) * vaeFactor
    throw invalidOption(
      `option "${name}" of generate()`,
      `must be a multiple of ${vaeFactor}`,
      value,
      `${nearest} is near`,
    )
  }
  return value
}

/** The size to draw at, and what is begun from where that is not noise alone. */
async function readBeginning(
  options: Options,
  steps: number,
  model: Model,
): Promise<{ width: number; height: number; initial?: InitialPicture & { strength: number } }> {
  const { image, mask } = options
  if (image === undefined) {
    for (const name of ['mask', 'strength'] as const) {
      if (options[name] !== undefined) throw missingImage(`belongs to "${name}"`)
    }
    const { isInpainting } = await import('./model/index.ts')
    if (isInpainting(model)) throw missingImage(`is what the inpainting model "${model.name}" begins from`)
    return {
      width: checkSize('width', options.width ?? model.resolution, model),
      height: checkSize('height', options.height ?? model.resolution, model),
    }
  }
  const strength = options.strength ?? (mask === undefined ? 0.8 : 1)
  if (Math.floor(steps * strength) < 1) {
    const must = `must be at least ${Math.ceil(1e4 / steps) / 1e4} for one of the ${steps} steps to be taken`
    throw invalidOption('option "strength" of generate()', must, strength)
  }
  for (const name of ['width', 'height'] as const) {
    if (options[name] !== undefined) checkSize(name, options[name], model)
  }
  const { initialSize, openImage, readInitial } = await import('./image/index.ts')
  const picture = await openImage(image)
  const most = Math.min(MAX_SIZE, 2 * model.resolution)
  const size = initialSize(picture, options, { factor: model.vaeFactor, most })
  for (const name of ['width', 'height'] as const) {
    if (size[name] > MAX_SIZE) {
      const must = `must be at most ${MAX_SIZE}, as the picture's shape would have it`
      throw invalidOption(`option "${name}" of generate()`, must, size[name])
    }
  }
  return { ...size, initial: { ...(await readInitial(picture, mask, size, model.vaeFactor)), strength } }
}

function missingImage(why: string): SwapError {
  return new SwapError('SWAP_OPTION_INVALID', `option "image" of generate() ${why}, but is missing`, {
    hint: 'give the picture to begin from',
  })
}

/** Subjects meet a model that they may not be made for. */
function checkSubjects(subjects: Subject[], model: Model, context: JobContext<GenerateEvent>): void {
  const names = new Set<string>()
  const widths = model.spec.textEncoders.map(({ width }) => width)
  for (const subject of subjects) {
    const { name, metadata } = subject
    if (names.has(name)) {
      throw new SwapError('SWAP_SUBJECT_DUPLICATE', `two subjects are called "${name}"`, {
        hint: 'learn one of them under another name',
      })
    }
    names.add(name)
    if (subject.widths.join() !== widths.join()) {
      const of = `vectors of ${subject.widths.join(' and ')} numbers; "${model.name}" takes ${widths.join(' and ')}`
      throw new SwapError('SWAP_SUBJECT_WIDTH', `the subject "${name}" has ${of}`, {
        hint: `use the base model that it was learnt with${metadata.model ? `: ${metadata.model}` : ''}`,
      })
    }
    if (metadata.fingerprint !== undefined && metadata.fingerprint !== model.fingerprint) {
      const base = metadata.model ? `"${metadata.model}"` : 'another model'
      context.warn(`the subject "${name}" was learnt with other text encoders (${base}): it may look different`)
    }
  }
}

/** A subject that was learnt on other weights looks different. */
function checkLoras(subjects: Subject[], { loras }: Session, context: JobContext<GenerateEvent>): void {
  const used = loraLabels(loras.files).join(' ')
  for (const { name, metadata } of subjects) {
    if (metadata.loras === undefined || metadata.loras === used) continue
    context.warn(`the subject "${name}" was learnt with the LoRA ${metadata.loras}: it may look different without`)
  }
}

/** The name by which `generate` takes this scheduler. */
function schedulerName({ kind, sigmas }: SchedulerSpec): SchedulerName {
  return kind === 'dpm++2m' && sigmas === 'karras' ? 'dpm++2m-karras' : kind
}
