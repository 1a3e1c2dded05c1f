/** Textual Inversion files: reading other people's as subjects, and writing subjects as such. */
export { type Embedding, readEmbedding, readTorchEmbedding } from './read.ts'
export {
  checkFormat,
  type EmbeddingFormat,
  EXPORT_LOSS,
  FORMATS,
  meanLoss,
  meanVectors,
  writeEmbedding,
} from './write.ts'
