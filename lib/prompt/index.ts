/** From texts to token ids: the tokenizer, placeholders, learning prompts. */

export { encodePrompt, encodePrompts, type PlaceholderSubject, placeholders } from './prompt.ts'
export { checkClass, classTemplates, templatesFor } from './templates.ts'
export { ClipTokenizer, type TokenizerOptions } from './tokenizer.ts'
