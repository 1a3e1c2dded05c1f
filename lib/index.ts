/** What the package exports. */

export type { EmbeddingFormat } from './embedding/index.ts'
export { DisposedError, SwapError, type SwapErrorCode } from './errors.ts'
export {
  type EvaluateOptions,
  type Evaluation,
  Evaluator,
  type EvaluatorOptions,
  type PictureScores,
} from './evaluate/evaluator.ts'
export type { Estimate } from './evaluate/figures.ts'
export type { GenerateEvent } from './generate.ts'
export type { GeneratedImage, ImageInput } from './image/index.ts'
export type { CallOptions, Job } from './job.ts'
export type { LearnEvent } from './learn.ts'
export type { LoraInfo } from './model/lora.ts'
export type { GenerateOptions, LearnOptions, LoraOption, OpenOptions, OpenProgress } from './options.ts'
export { Personalizer, type PersonalizerInfo } from './personalizer.ts'
export { type ExportOptions, Subject, type SubjectMetadata } from './subject.ts'
