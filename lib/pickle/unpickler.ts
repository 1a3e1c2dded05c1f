/**
 * A pickle machine that runs nothing: it knows the operations that torch.save() writes, and what a name of Python's
 * may become is the caller's list to say.
 *
 * Nothing here recurses, so depth costs no stack; operations and bytes are counted, so a small file cannot grow large.
 *
 * @see https://docs.python.org/3/library/pickletools.html
 */
import { SwapError } from '../errors.ts'
import { show } from '../model/json.ts'

/** A name that Python would import, e.g. `collections.OrderedDict`. Here it is a name and nothing more. */
export class Global {
  readonly name: string

  constructor(name: string) {
    this.name = name
  }
}

/** Something that stands beside the tensors and that nobody needs: its kind, and the state that it was given. */
export class Inert {
  readonly kind: string
  state: unknown

  constructor(kind: string) {
    this.kind = kind
  }
}

/** What may stand in a file. Every method that refuses throws. */
export interface PickleRules {
  /** May this name stand there at all? */
  allow(name: string): boolean
  /** `name(*args)`; undefined: refused. */
  call(name: string, args: readonly unknown[]): unknown
  /** What a persistent id stands for; undefined: refused. */
  persistent(id: unknown): unknown
}

/** Bytes of a pickle; a checkpoint of 2,000 tensors has some 400 KB. */
export const PICKLE_LIMIT = 16 * 2 ** 20
const OPERATIONS = 4_000_000
const MARKS = 1000
const LINE = 256

/**
 * The value that a pickle describes: strings, numbers, arrays for lists and tuples, `Map` for dicts.
 *
 * @param source what the messages call it
 * @throws SwapError `SWAP_FILE_PICKLE` for an operation or a name that is not allowed, `SWAP_FILE_PICKLE_DAMAGED`
 */
export function unpickle(bytes: Uint8Array, rules: PickleRules, source: string): unknown {
  return new Machine(bytes, rules, source).run()
}

export function refusePickle(source: string, what: string): SwapError {
  return new SwapError('SWAP_FILE_PICKLE', `"${source}" is refused: ${what}`, {
    hint: 'only tensors, numbers, texts, lists and dictionaries are read from pickles; get it as safetensors',
  })
}

export function damagedPickle(source: string, what: string, cause?: unknown): SwapError {
  return new SwapError('SWAP_FILE_PICKLE_DAMAGED', `"${source}" is damaged: ${what}`, {
    hint: 'get the file again',
    cause,
  })
}

class Machine {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #rules: PickleRules
  readonly #source: string
  readonly #text = new TextDecoder('utf-8', { fatal: true })
  #at = 0
  #stack: unknown[] = []
  /** The stacks below each mark. */
  readonly #below: unknown[][] = []
  readonly #memo = new Map<number, unknown>()

  constructor(bytes: Uint8Array, rules: PickleRules, source: string) {
    if (bytes.byteLength > PICKLE_LIMIT) throw refusePickle(source, `its pickle has ${bytes.byteLength} bytes`)
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#rules = rules
    this.#source = source
  }

  run(): unknown {
    for (let count = 0; ; count++) {
      if (count > OPERATIONS) throw refusePickle(this.#source, `it has more than ${OPERATIONS} operations`)
      const operation = this.#byte()
      if (operation === STOP) break
      if (!this.#step(operation)) {
        const code = `0x${operation.toString(16).padStart(2, '0')}`
        throw refusePickle(this.#source, `the pickle operation ${code} at byte ${this.#at - 1} is not one that is read`)
      }
    }
    if (this.#below.length > 0 || this.#stack.length !== 1) throw this.#damaged('the pickle does not end in one value')
    return this.#stack[0]
  }

  /** False for an operation that is not on the list. */
  #step(operation: number): boolean {
    const stack = this.#stack
    switch (operation) {
      case 0x80: {
        const version = this.#byte()
        if (version !== 2 && version !== 3) throw refusePickle(this.#source, `its pickle is of protocol ${version}`)
        break
      }
      case 0x28: // MARK
        if (this.#below.length >= MARKS) throw refusePickle(this.#source, `its pickle nests more than ${MARKS} deep`)
        this.#below.push(stack)
        this.#stack = []
        break
      case 0x4e: // NONE
        stack.push(null)
        break
      case 0x88: // NEWTRUE
      case 0x89: // NEWFALSE
        stack.push(operation === 0x88)
        break
      case 0x4a: // BININT
        stack.push(this.#view.getInt32(this.#skip(4), true))
        break
      case 0x4b: // BININT1
        stack.push(this.#byte())
        break
      case 0x4d: // BININT2
        stack.push(this.#view.getUint16(this.#skip(2), true))
        break
      case 0x8a: // LONG1
        stack.push(this.#long(this.#byte()))
        break
      case 0x47: // BINFLOAT
        stack.push(this.#view.getFloat64(this.#skip(8)))
        break
      case 0x58: // BINUNICODE
        stack.push(this.#string(this.#length()))
        break
      case 0x55: // SHORT_BINSTRING, of Python 2
        stack.push(this.#string(this.#byte()))
        break
      case 0x43: // SHORT_BINBYTES
        stack.push(this.#take(this.#byte()))
        break
      case 0x42: // BINBYTES
        stack.push(this.#take(this.#length()))
        break
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        stack.push([])
        break
      case 0x7d: // EMPTY_DICT
        stack.push(new Map())
        break
      case 0x74: // TUPLE
        this.#push(this.#popMark())
        break
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        stack.push(this.#popMany(operation - 0x84))
        break
      case 0x61: // APPEND
        this.#append(this.#popMany(1))
        break
      case 0x65: // APPENDS
        this.#append(this.#popMark())
        break
      case 0x73: // SETITEM
        this.#set(this.#popMany(2))
        break
      case 0x75: // SETITEMS
        this.#set(this.#popMark())
        break
      case 0x71: // BINPUT
        this.#memo.set(this.#byte(), this.#top())
        break
      case 0x72: // LONG_BINPUT
        this.#memo.set(this.#length(), this.#top())
        break
      case 0x68: // BINGET
        stack.push(this.#remembered(this.#byte()))
        break
      case 0x6a: // LONG_BINGET
        stack.push(this.#remembered(this.#length()))
        break
      case 0x63: // GLOBAL
        stack.push(this.#global())
        break
      case 0x52: // REDUCE
      case 0x81: // NEWOBJ
        this.#call()
        break
      case 0x62: // BUILD
        this.#build()
        break
      case 0x51: {
        // BINPERSID
        const meant = this.#rules.persistent(this.#popMany(1)[0])
        if (meant === undefined) throw refusePickle(this.#source, 'a persistent id in it is no storage of tensors')
        stack.push(meant)
        break
      }
      default:
        return false
    }
    return true
  }

  #call(): void {
    const [callable, args] = this.#popMany(2)
    const name = callable instanceof Global ? callable.name : undefined
    const made = name !== undefined && Array.isArray(args) ? this.#rules.call(name, args) : undefined
    if (made === undefined) {
      throw refusePickle(this.#source, `it would call ${name === undefined ? 'what is no name' : show(name)}`)
    }
    this.#push(made)
  }

  /** `object.__setstate__(state)`: kept of what nobody needs, passed over for a dict (its attributes). */
  #build(): void {
    const [object, state] = this.#popMany(2)
    if (object instanceof Inert) object.state = state
    else if (!(object instanceof Map)) throw refusePickle(this.#source, 'it would set the state of an object')
    this.#push(object)
  }

  #global(): Global {
    const name = `${this.#line()}.${this.#line()}`
    if (!this.#rules.allow(name)) throw refusePickle(this.#source, `it would import ${show(name)}`)
    return new Global(name)
  }

  #append(values: unknown[]): void {
    const list = this.#top()
    if (!Array.isArray(list)) throw this.#damaged('something is appended to what is no list')
    // not push(...values): a call has room for some ten thousand arguments only
    for (const value of values) list.push(value)
  }

  #set(values: unknown[]): void {
    const map = this.#top()
    if (!(map instanceof Map) || values.length % 2 !== 0) throw this.#damaged('an item is set in what is no dictionary')
    for (let k = 0; k < values.length; k += 2) map.set(values[k], values[k + 1])
  }

  #remembered(index: number): unknown {
    if (!this.#memo.has(index)) throw this.#damaged(`the pickle speaks of its value ${index}, which is not there`)
    return this.#memo.get(index)
  }

  #push(value: unknown): void {
    this.#stack.push(value)
  }

  #top(): unknown {
    if (this.#stack.length === 0) throw this.#damaged('the pickle takes a value where none is')
    return this.#stack.at(-1)
  }

  #popMany(count: number): unknown[] {
    if (this.#stack.length < count) throw this.#damaged('the pickle takes a value where none is')
    return this.#stack.splice(-count, count)
  }

  #popMark(): unknown[] {
    const below = this.#below.pop()
    if (!below) throw this.#damaged('the pickle goes back to a mark where none is')
    const values = this.#stack
    this.#stack = below
    return values
  }

  /** A whole number of at most eight bytes, two's complement. */
  #long(length: number): number {
    if (length > 8) throw refusePickle(this.#source, `it has a whole number of ${length} bytes`)
    let value = 0n
    for (const [k, byte] of this.#take(length).entries()) value |= BigInt(byte) << BigInt(8 * k)
    return Number(BigInt.asIntN(8 * length, value))
  }

  #length(): number {
    return this.#view.getUint32(this.#skip(4), true)
  }

  #string(length: number): string {
    const bytes = this.#take(length)
    try {
      return this.#text.decode(bytes)
    } catch (cause) {
      throw damagedPickle(this.#source, 'a text in its pickle is not UTF-8', cause)
    }
  }

  #line(): string {
    const end = this.#bytes.indexOf(10, this.#at)
    const length = (end < 0 ? this.#bytes.byteLength : end) - this.#at
    if (length > LINE) throw refusePickle(this.#source, `a name in it has more than ${LINE} letters`)
    const text = this.#string(length)
    this.#skip(1)
    return text
  }

  #take(length: number): Uint8Array {
    const from = this.#skip(length)
    return this.#bytes.subarray(from, from + length)
  }

  #byte(): number {
    return this.#bytes[this.#skip(1)]!
  }

  /** Goes on by so many bytes, and says where they begin. */
  #skip(length: number): number {
    const from = this.#at
    if (length > this.#bytes.byteLength - from) {
      throw this.#damaged(`its pickle ends in the middle of ${length} bytes at byte ${from}`)
    }
    this.#at += length
    return from
  }

  #damaged(what: string): SwapError {
    return damagedPickle(this.#source, what)
  }
}

const STOP = 0x2e
