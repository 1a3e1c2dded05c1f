/** CLIP's tokenizer: byte-level BPE with an end-of-word mark, from any of the layouts that diffusers folders have. */
import { join } from 'node:path'
import type { Tokenizer } from '@huggingface/tokenizers'
import { SwapError } from '../errors.ts'
import { readFileLimited } from '../files.ts'
import { exists, isObject, type JsonObject, jsonObject, parseJson, show } from '../model/json.ts'
import type { Vocabulary } from './standard.ts'

const FILE_LIMIT = 64 * 2 ** 20
const END_OF_WORD = '</w>'

// CLIP's own pipeline. It is not taken from tokenizer.json, where a pattern could be anything: transformers builds it anew too.
const WORDS = "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"
const NORMALIZER = {
  type: 'Sequence',
  normalizers: [{ type: 'NFC' }, { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' }, { type: 'Lowercase' }],
}
const PRE_TOKENIZER = {
  type: 'Sequence',
  pretokenizers: [
    { type: 'Split', pattern: { Regex: WORDS }, behavior: 'Removed', invert: true },
    { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  ],
}

/** A token that is matched in the text before it is split. */
interface AddedToken {
  id: number
  content: string
  special: boolean
  normalized: boolean
  lstrip: boolean
  rstrip: boolean
  single_word: boolean
}

interface Parts {
  vocab: Vocabulary
  /** The vocabulary's highest id: to list 50,000 properties takes longer than to read them. */
  highest: number
  merges: [string, string][]
  added: AddedToken[]
  special: { bos: string; eos: string; pad: string; unk: string }
}

/** What the text encoder says about its tokens. */
export interface TokenizerOptions {
  /** Tokens that the text encoder takes, with begin and end. */
  positions: number
  /** Entries of its token embedding; an id beyond them is an error. */
  vocab?: number | undefined
}

/** One text encoder's tokenizer. */
export class ClipTokenizer {
  /** Id that begins a text. */
  readonly bos: number
  /** Id that ends it. */
  readonly eos: number
  /** Id that fills up to `positions`: `eos` in Stable Diffusion 1.x, that of `!` in 2.x. */
  readonly pad: number
  /** Id of what has no token. */
  readonly unk: number
  /** Tokens of a padded text, 77 in CLIP. */
  readonly positions: number
  readonly #tokenizer: Tokenizer

  private constructor(
    tokenizer: Tokenizer,
    ids: { bos: number; eos: number; pad: number; unk: number },
    positions: number,
  ) {
    this.#tokenizer = tokenizer
    this.bos = ids.bos
    this.eos = ids.eos
    this.pad = ids.pad
    this.unk = ids.unk
    this.positions = positions
  }

  /**
   * Opens a tokenizer folder: tokenizer.json, or vocab.json with merges.txt.
   *
   * @throws SwapError `SWAP_TOKENIZER_MISSING`, `SWAP_TOKENIZER_FILE`, `SWAP_TOKENIZER_UNSUPPORTED`, `SWAP_TOKENIZER_VOCAB`
   */
  static async open(folder: string, options: TokenizerOptions): Promise<ClipTokenizer> {
    return await ClipTokenizer.#build(await readParts(folder), folder, options)
  }

  /**
   * CLIP's own, which comes with the package.
   *
   * @param pad the token that fills up: `<|endoftext|>` for CLIP's text encoders, `!` for OpenCLIP's
   * @throws SwapError `SWAP_TOKENIZER_VOCAB` for a text encoder with fewer tokens
   */
  static async standard(pad: '<|endoftext|>' | '!', options: TokenizerOptions): Promise<ClipTokenizer> {
    const { standardFolder, standardVocabulary } = await import('./standard.ts')
    const [bos, eos] = ['<|startoftext|>', '<|endoftext|>']
    const { vocab, highest, merges } = await standardVocabulary()
    const special = [bos, eos].map((content) => ({
      id: vocab[content]!,
      content,
      special: true,
      normalized: false,
      lstrip: false,
      rstrip: false,
      single_word: false,
    }))
    const parts = { vocab, highest, merges, added: special, special: { bos, eos, pad, unk: eos } }
    return await ClipTokenizer.#build(parts, standardFolder(), options)
  }

  static async #build(parts: Parts, folder: string, { positions, vocab }: TokenizerOptions): Promise<ClipTokenizer> {
    const id = (content: string): number => {
      const found = parts.added.find((token) => token.content === content)?.id ?? idOf(parts.vocab, content)
      if (found !== undefined) return found
      throw new SwapError(
        'SWAP_TOKENIZER_VOCAB',
        `"${folder}": the special token ${show(content)} is not in the vocabulary`,
        {
          hint: 'get the tokenizer folder again',
        },
      )
    }
    const { special } = parts
    const ids = { bos: id(special.bos), eos: id(special.eos), pad: id(special.pad), unk: id(special.unk) }
    const highest = parts.added.reduce((most, { id }) => Math.max(most, id), parts.highest)
    if (vocab !== undefined && highest >= vocab) {
      throw new SwapError(
        'SWAP_TOKENIZER_VOCAB',
        `"${folder}" has the token id ${highest}; the text encoder has ${vocab}`,
        {
          hint: 'tokenizer and text_encoder are not of one model',
        },
      )
    }
    const { Tokenizer } = await import('@huggingface/tokenizers')
    const tokenizer = new Tokenizer(
      {
        version: '1.0',
        added_tokens: parts.added,
        normalizer: NORMALIZER,
        pre_tokenizer: PRE_TOKENIZER,
        post_processor: null,
        decoder: null,
        model: {
          type: 'BPE',
          unk_token: special.unk,
          continuing_subword_prefix: '',
          end_of_word_suffix: END_OF_WORD,
          vocab: parts.vocab,
          merges: parts.merges,
        },
      },
      {},
    )
    return new ClipTokenizer(tokenizer, ids, positions)
  }

  /** Ids of a text, without begin and end. */
  tokens(text: string): number[] {
    return this.#tokenizer.encode(prepare(text), { add_special_tokens: false }).ids
  }

  /** The same as {@link tokens}, word by word. */
  words(text: string): number[][] {
    const pieces = this.pieces(text)
    const words: number[][] = []
    let inside = false
    this.tokens(text).forEach((id, index) => {
      if (inside) words.at(-1)!.push(id)
      else words.push([id])
      inside = pieces[index]?.endsWith(END_OF_WORD) === false && id !== this.unk
    })
    return words
  }

  /** The same as {@link tokens}, as the vocabulary's entries. */
  pieces(text: string): string[] {
    return this.#tokenizer.tokenize(prepare(text), { add_special_tokens: false })
  }

  /** Begin, ids, end, and padding up to `positions`; the caller has seen to the length. */
  padded(ids: readonly number[]): number[] {
    const out = [this.bos, ...ids, this.eos]
    while (out.length < this.positions) out.push(this.pad)
    return out
  }
}

/** What JavaScript does otherwise than the reference: its lower case of a final Σ looks at the letters around it. */
function prepare(text: string): string {
  return text.replaceAll('Σ', 'σ')
}

async function readParts(folder: string): Promise<Parts> {
  const file = join(folder, 'tokenizer.json')
  const base = (await exists(file)) ? await fromTokenizerJson(file) : await fromVocabAndMerges(folder)
  const config = (await optional(join(folder, 'tokenizer_config.json'))) ?? new Map<string, unknown>()
  const special = { bos: '<|startoftext|>', eos: '<|endoftext|>', pad: '<|endoftext|>', unk: '<|endoftext|>' }
  const flags = new Map<string, JsonObject>()
  const apply = (values: JsonObject): void => {
    // In transformers' order: where two roles have one token, the later one's flags hold.
    for (const key of ['bos', 'eos', 'unk', 'pad'] as const) {
      const value = values.get(`${key}_token`)
      const object = jsonObject(value)
      const content = object ? object.get('content') : value
      if (typeof content !== 'string') continue
      special[key] = content
      flags.set(content, object ?? new Map())
    }
  }
  apply(config)
  const decoder = jsonObject(config.get('added_tokens_decoder'))
  const added = new Map(base.added.map((token) => [token.content, token]))
  for (const [id, token] of decoder ?? []) addToken(added, jsonObject(token), Number(id), folder)
  if (!decoder) {
    // Older folders: what special_tokens_map.json says goes before tokenizer_config.json.
    apply((await optional(join(folder, 'special_tokens_map.json'))) ?? new Map())
    for (const [content, id] of (await optional(join(folder, 'added_tokens.json'))) ?? []) {
      const normalized = !Object.values(special).includes(content)
      addToken(
        added,
        new Map<string, unknown>([
          ['content', content],
          ['normalized', normalized],
        ]),
        id,
        folder,
      )
    }
  }
  for (const content of new Set(Object.values(special))) {
    const id = idOf(base.vocab, content)
    if (added.has(content) || id === undefined) continue
    addToken(added, new Map([...(flags.get(content) ?? []), ['content', content], ['special', true]]), id, folder)
  }
  return { ...base, added: [...added.values()], special }
}

function addToken(added: Map<string, AddedToken>, fields: JsonObject | undefined, id: unknown, source: string): void {
  const content = fields?.get('content')
  if (!fields || typeof content !== 'string' || content === '' || !isId(id)) {
    throw damaged(source, `the added token ${show(fields ? Object.fromEntries(fields) : fields)} of id ${show(id)}`)
  }
  const flag = (key: string, fallback = false): boolean => (fields.get(key) ?? fallback) === true
  const special = flag('special')
  added.set(content, {
    id,
    content,
    special,
    normalized: flag('normalized', !special),
    lstrip: flag('lstrip'),
    rstrip: flag('rstrip'),
    single_word: flag('single_word'),
  })
}

async function fromTokenizerJson(file: string): Promise<Omit<Parts, 'special'>> {
  const root = await readJson(file)
  const model = jsonObject(root.get('model'))
  if (!model) throw damaged(file, 'there is no model in it')
  const suffix = model.get('end_of_word_suffix')
  if (model.get('type') !== 'BPE' || suffix !== END_OF_WORD) {
    throw new SwapError(
      'SWAP_TOKENIZER_UNSUPPORTED',
      `"${file}": a tokenizer of type ${show(model.get('type'))} with the word end ${show(suffix)} is not CLIP's`,
      { hint: 'choose a model of the Stable Diffusion 1.x, 2.x or XL architecture' },
    )
  }
  const merges = model.get('merges')
  if (!Array.isArray(merges)) throw damaged(file, 'there are no merges in it')
  const added = new Map<string, AddedToken>()
  const tokens = root.get('added_tokens') ?? []
  if (!Array.isArray(tokens)) throw damaged(file, 'added_tokens is not a list')
  for (const token of tokens) {
    const fields = jsonObject(token)
    addToken(added, fields, fields?.get('id'), file)
  }
  return {
    ...vocabulary(model.get('vocab'), file),
    merges: merges.map((merge) => (typeof merge === 'string' ? split(merge, file) : pair(merge, file))),
    added: [...added.values()],
  }
}

async function fromVocabAndMerges(folder: string): Promise<Omit<Parts, 'special'>> {
  const [vocabFile, mergesFile] = [join(folder, 'vocab.json'), join(folder, 'merges.txt')]
  for (const file of [vocabFile, mergesFile]) {
    if (await exists(file)) continue
    throw new SwapError('SWAP_TOKENIZER_MISSING', `"${file}" is missing, and so is tokenizer.json`, {
      hint: 'a tokenizer folder has tokenizer.json, or vocab.json and merges.txt',
    })
  }
  const lines = (await readText(mergesFile)).split('\n')
  const merges: [string, string][] = []
  for (const line of lines) {
    const text = line.trimEnd()
    if (text !== '' && !text.startsWith('#version')) merges.push(split(text, mergesFile))
  }
  return { ...vocabulary(await readValue(vocabFile), vocabFile), merges, added: [] }
}

function vocabulary(value: unknown, file: string): Pick<Parts, 'vocab' | 'highest'> {
  const ids: unknown[] = isObject(value) ? Object.values(value) : []
  if (ids.length === 0) throw damaged(file, 'there is no vocabulary in it')
  if (!ids.every(isId)) {
    const [token, id] = Object.entries(value as object).find(([, id]) => !isId(id))!
    throw damaged(file, `the token ${show(token)} has the id ${show(id)}`)
  }
  if (new Set(ids).size !== ids.length) throw damaged(file, 'two tokens have one id')
  return { vocab: value as Vocabulary, highest: ids.reduce((most, id) => Math.max(most, id), 0) }
}

/** A token's id; a token `toString` has none of its own. */
function idOf(vocab: Vocabulary, token: string): number | undefined {
  return Object.hasOwn(vocab, token) ? vocab[token] : undefined
}

/** `pair` of what a space divides, for 50,000 of them. */
function split(merge: string, file: string): [string, string] {
  const space = merge.indexOf(' ')
  if (space > 0 && space + 1 < merge.length && merge.indexOf(' ', space + 1) < 0) {
    return [merge.slice(0, space), merge.slice(space + 1)]
  }
  return pair(merge.split(' '), file)
}

function pair(value: unknown, file: string): [string, string] {
  if (Array.isArray(value) && value.length === 2 && value.every((one) => typeof one === 'string' && one !== '')) {
    return [value[0], value[1]]
  }
  throw damaged(file, `the merge ${show(value)} is not a pair`)
}

function isId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 24
}

async function optional(file: string): Promise<JsonObject | undefined> {
  return (await exists(file)) ? await readJson(file) : undefined
}

async function readJson(file: string): Promise<JsonObject> {
  const object = jsonObject(await readValue(file))
  if (!object) throw damaged(file, 'it holds no JSON object')
  return object
}

async function readValue(file: string): Promise<unknown> {
  const text = await readText(file)
  try {
    return parseJson(text)
  } catch {
    throw damaged(file, 'it is not JSON')
  }
}

async function readText(file: string): Promise<string> {
  const bytes = await readFileLimited(file, FILE_LIMIT)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw damaged(file, 'it is not UTF-8 text')
  }
}

function damaged(file: string, what: string): SwapError {
  return new SwapError('SWAP_TOKENIZER_FILE', `"${file}": ${what}`, { hint: 'get the tokenizer folder again' })
}
