/** Learning a subject: options and a photo become the engine's request, its progress becomes events. */
import { rm } from 'node:fs/promises'
import { StepClock } from './clock.ts'
import { SwapError } from './errors.ts'
import { writeFileAtomic } from './files.ts'
import type { JobContext } from './job.ts'
import { loraLabels } from './loras.ts'
import type { Model } from './model/index.ts'
import type { LearnRequest, NativeEvent, TrainerState } from './native.ts'
import { invalidOption, type LearnOptions, learnSchema, parseOptions } from './options.ts'
import {
  checkCheckpointPath,
  checkResume,
  hash,
  type LearnSettings,
  type LearnSurroundings,
  type ResumeFile,
  readResume,
  writeResume,
} from './resume.ts'
import type { Session } from './session.ts'
import { Subject } from './subject.ts'
import { runTask } from './task.ts'
import { timeIds } from './time_ids.ts'

/** A training step that was done. */
export interface LearnEvent {
  type: 'step'
  /** Steps done, those before a resume included. */
  step: number
  steps: number
  /** What is minimised: `reconstruction + weight * attention`. */
  loss: number
  reconstruction: number
  /** The attention loss, not weighted. */
  attention: number
  /** The stage that this step was about, 0 the one of the least noise. */
  stage: number
  /** An estimate. */
  secondsLeft: number
}

/** Used where neither the caller nor a resume file says otherwise, and models have no say. */
const DEFAULTS = {
  name: 'subject',
  seed: 0,
  stages: 5,
  conditioning: 'split',
} as const

const CHECKPOINT_EVERY = 50

/** @internal The work of `Personalizer.learn()`. */
export async function learn(session: Session, given: LearnOptions, context: JobContext<LearnEvent>): Promise<Subject> {
  const { model, engine, engineInfo, loras } = session
  const options = parseOptions(learnSchema, given, 'learn()')
  const { attendingLevels, isInpainting } = await import('./model/index.ts')
  if (isInpainting(model)) {
    throw new SwapError('SWAP_MODEL_UNSUPPORTED', `"${model.name}" is an inpainting model: nothing is learnt on it`, {
      hint: 'learn on the text-to-image model that it was made from; the subject can then be drawn with both',
    })
  }
  const levels = chosenLevels(options, model, attendingLevels(model.spec))
  const resume = options.resume === undefined ? undefined : await readResume(options.resume)
  if (resume) checkSettings(resume)
  const checkpoint = await openCheckpoint(options, context)

  const { checkClass, classTemplates, templatesFor } = await import('./prompt/index.ts')
  const settings = settle(options, levels, resume?.settings, model, templatesFor)
  checkClass(settings.class, model.defaults.learn.classes)
  const { classTokens, templates, warnings } = classTemplates(model.tokenizers, settings.class, settings.templates)
  for (const warning of warnings) context.warn(warning)
  const { readMask, readPhoto } = await import('./image/index.ts')
  const crop = options.crop ?? 'center'
  const photo = await readPhoto(options.image, { size: model.resolution, crop })
  for (const warning of photo.warnings) context.warn(warning)
  const latent = { width: photo.image.width / model.vaeFactor, height: photo.image.height / model.vaeFactor }
  const mask =
    options.mask === undefined
      ? new Float32Array(0)
      : await readMask(options.mask, { ...latent, crop, photo: photo.original })

  const surroundings: LearnSurroundings = {
    image: hash(`${photo.image.width}x${photo.image.height}`, photo.image.data),
    mask: hash(mask),
    model: hash(model.fingerprint, JSON.stringify(model.spec), loras.hash),
    device: engineInfo.device,
    dtype: engineInfo.dtype,
    threads: engineInfo.threads,
    machine: `${engineInfo.libtorch} ${engineInfo.cpuFeatures}`,
  }
  if (resume) checkResume(resume, settings, surroundings)

  const request: LearnRequest = {
    image: photo.image,
    mask,
    templates,
    classTokens,
    steps: settings.steps,
    batch: settings.batch,
    learningRate: settings.learningRate,
    seed: settings.seed,
    stages: settings.stages,
    split: settings.conditioning === 'split',
    parametrization: settings.parametrization,
    attentionWeight: settings.attentionWeight,
    attentionLevels: settings.attentionLevels,
    tokenWeights: new Float32Array(0),
    timeIds: timeIds(model, photo.image),
    resume: resume?.state,
    checkpointEvery: checkpoint?.every ?? 0,
  }
  const save = (state: TrainerState): void => checkpoint?.save(writeResume({ settings, surroundings, state }))
  const clock = new StepClock('step', resume?.state.step)
  const onEvent = (event: NativeEvent): void => {
    if (event.type === 'checkpoint') save(event.state)
    else if (event.phase === 'step') context.emit(stepEvent(event, clock))
  }
  try {
    const result = await runTask(() => engine.learn(request, onEvent), context.signal, save)
    // a cancel that came with the last step: the result is thrown away, so it must be possible to go on from it
    if (context.signal.aborted) save(result.state)
    context.signal.throwIfAborted()
    const subject = new Subject({
      name: settings.name,
      classWord: settings.class,
      vectors: result.subject,
      metadata: {
        model: model.name,
        fingerprint: model.fingerprint,
        template: settings.templates[0],
        steps: settings.steps,
        learningRate: settings.learningRate,
        seed: settings.seed,
        attentionWeight: settings.attentionWeight,
        conditioning: settings.conditioning,
        loras: loras.files.length > 0 ? loraLabels(loras.files).join(' ') : undefined,
      },
    })
    await checkpoint?.remove()
    return subject
  } finally {
    await checkpoint?.written()
  }
}

type Options = ReturnType<typeof parseLearn>
const parseLearn = (given: unknown) => parseOptions(learnSchema, given, 'learn()')

/** Every setting, from the caller, else the resume file, else the model, else this package. */
function settle(
  options: Options,
  levels: number[] | undefined,
  before: LearnSettings | undefined,
  model: Model,
  templatesFor: (classWord: string) => readonly string[],
): LearnSettings {
  const own = model.defaults.learn
  return {
    name: options.name ?? before?.name ?? DEFAULTS.name,
    class: options.class,
    steps: options.steps ?? before?.steps ?? own.steps,
    learningRate: options.learningRate ?? before?.learningRate ?? own.learningRate,
    seed: options.seed ?? before?.seed ?? DEFAULTS.seed,
    batch: options.batch ?? before?.batch ?? own.batch,
    stages: options.stages ?? before?.stages ?? DEFAULTS.stages,
    attentionWeight: options.attention?.weight ?? before?.attentionWeight ?? own.attention.weight,
    attentionLevels: levels ?? before?.attentionLevels ?? own.attention.levels,
    conditioning: options.conditioning ?? before?.conditioning ?? DEFAULTS.conditioning,
    parametrization: options.parametrization ?? before?.parametrization ?? own.parametrization,
    templates: options.templates ?? before?.templates ?? own.templates ?? [...templatesFor(options.class)],
  }
}

/** A level without cross-attention would be a loss that is silently 0. */
function chosenLevels({ attention }: Options, model: Model, there: readonly number[]): number[] | undefined {
  const levels = attention?.levels
  if (levels === undefined) return undefined
  if (levels === 'all') return []
  const missing = levels.find((level) => !there.includes(level))
  if (missing !== undefined) {
    const option = 'option "attention.levels" of learn()'
    throw invalidOption(
      option,
      `must name levels with cross-attention (${there.join(', ')} in "${model.name}")`,
      levels,
    )
  }
  return [...new Set(levels)].sort((a, b) => a - b)
}

/** A resume file's settings are from outside: they go through the same schema as options. */
function checkSettings({ settings }: ResumeFile): void {
  const { name, steps, learningRate, seed, batch, stages, conditioning, parametrization, templates } = settings
  const levels = settings.attentionLevels.length > 0 ? settings.attentionLevels : 'all'
  const attention = { weight: settings.attentionWeight, levels }
  const plain = { name, steps, learningRate, seed, batch, stages, conditioning, parametrization, templates, attention }
  try {
    parseLearn({ image: '-', class: settings.class, ...plain })
  } catch (cause) {
    throw new SwapError('SWAP_RESUME_INVALID', `the resume file is damaged: ${(cause as Error).message}`, { cause })
  }
}

/** Writes resume files one after the other; where the engine is faster than the disk, only the latest. */
class Checkpoint {
  readonly every: number
  readonly #path: string
  readonly #warn: (message: string) => void
  #waiting: Uint8Array | undefined
  #writing: Promise<void> | undefined

  constructor(path: string, every: number, warn: (message: string) => void) {
    this.#path = path
    this.every = every
    this.#warn = warn
  }

  save(bytes: Uint8Array): void {
    this.#waiting = bytes
    this.#writing ??= this.#write()
  }

  async #write(): Promise<void> {
    for (let bytes = this.#waiting; bytes; bytes = this.#waiting) {
      this.#waiting = undefined
      // learning goes on without it: what was learnt is worth more than the way back
      await writeFileAtomic(this.#path, bytes).catch((error: Error) => this.#warn(`no resume file: ${error.message}`))
    }
    this.#writing = undefined
  }

  async written(): Promise<void> {
    await this.#writing
  }

  async remove(): Promise<void> {
    this.#waiting = undefined
    await this.#writing
    await rm(this.#path, { force: true }).catch((error: Error) => this.#warn(error.message))
  }
}

async function openCheckpoint(
  { checkpoint }: Options,
  { warn }: JobContext<LearnEvent>,
): Promise<Checkpoint | undefined> {
  if (checkpoint === undefined) return undefined
  const { path, every } = typeof checkpoint === 'string' ? { path: checkpoint, every: CHECKPOINT_EVERY } : checkpoint
  await checkCheckpointPath(path)
  return new Checkpoint(path, every, warn)
}

function stepEvent(event: Extract<NativeEvent, { type: 'progress' }>, clock: StepClock): LearnEvent {
  return {
    type: 'step',
    step: event.done,
    steps: event.total,
    loss: event.loss,
    reconstruction: event.reconstruction,
    attention: event.attention,
    stage: event.stage,
    secondsLeft: clock.secondsLeft(event.phase, event.done, event.total, event.secondsLeft),
  }
}
