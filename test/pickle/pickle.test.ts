/** Files of torch.save(): what PyTorch wrote is read as it was meant, and what anybody else wrote runs nothing. */
import { existsSync, mkdtempSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { toFloat32 } from '../../lib/model/safetensors.ts'
import { packageRoot } from '../../lib/paths.ts'
import { Inert, readTorchArchive } from '../../lib/pickle/index.ts'
import { zip } from '../libtorch/fixtures.ts'
import { archive, global, int, named, type Piece, pickle, tensor, text, tuple, uint32 } from './kit.ts'

const golden = (name: string): string => join(packageRoot(), 'test', 'pickle', 'goldens', name)
/** `NUMBER(row) + column / 64`, as tools/reference/embeddings.py fills its tensors. */
const rows = (start: number, count: number, width = 6): number[] =>
  Array.from({ length: count * width }, (_, k) => start + Math.floor(k / width) + (k % width) / 64)

describe('what PyTorch wrote', () => {
  test('a checkpoint: names, kinds, shapes, and the numbers where they are said to lie', async () => {
    const path = golden('ckpt.pt')
    const { tensors, root } = await readTorchArchive(path)
    expect(tensors.map(({ name, dtype, shape }) => [name, dtype, shape])).toEqual([
      ['a.weight', 'F32', [2, 6]],
      ['a.half', 'F16', [2, 6]],
      ['a.bfloat', 'BF16', [1, 6]],
      ['a.double', 'F64', [1, 6]],
      ['a.count', 'I64', []],
      ['a.view', 'F32', [2, 6]],
      ['a.empty', 'F32', [0, 3]],
    ])
    const bytes = readFileSync(path)
    const numbers = (name: string): number[] => {
      const { begin, end, dtype } = tensors.find((one) => one.name === name)!
      return [...toFloat32(bytes.subarray(begin, end), dtype)!]
    }
    expect(numbers('a.weight')).toEqual(rows(1, 2))
    expect(numbers('a.half')).toEqual(rows(2, 2))
    expect(numbers('a.double')).toEqual(rows(4, 1))
    // A view begins in the middle of its storage.
    expect(numbers('a.view')).toEqual(rows(6, 2))
    const plain = [...(root as Map<string, unknown>)].filter(([key]) => key !== 'state_dict')
    expect(plain).toEqual([
      ['epoch', 3],
      ['global_step', 2 ** 40],
      ['lr', 1e-4],
      ['hparams', null],
    ])
  })

  test("a module's state, with the attributes of its dict", async () => {
    const { tensors } = await readTorchArchive(golden('state.pt'))
    expect(tensors.map(({ name, shape }) => [name, shape])).toEqual([['weight', [2, 6]]])
  })

  test('from bytes as from a file', async () => {
    const [path, bytes] = [
      await readTorchArchive(golden('a1111.pt')),
      await readTorchArchive(readFileSync(golden('a1111.pt'))),
    ]
    expect(bytes).toEqual(path)
  })

  test('a module among the values is a name with its state', async () => {
    const root = (await readTorchArchive(golden('first.pt'))).root as Map<string, unknown>
    const module = root.get('string_to_param')
    expect(module).toBeInstanceOf(Inert)
    expect((module as Inert).kind).toBe('torch.nn.modules.container.ParameterDict')
  })

  test('in the old form, and with strides: refused', async () => {
    await expect(readTorchArchive(golden('legacy.pt'))).rejects.toMatchObject({ code: 'SWAP_FILE_PICKLE_LEGACY' })
    await expect(readTorchArchive(golden('strided.pt'))).rejects.toMatchObject({
      code: 'SWAP_FILE_PICKLE_TENSOR',
      message: expect.stringContaining('[6,3]'),
    })
  })
})

test('the pieces of this file make an archive that is read', async () => {
  const { tensors } = await readTorchArchive(archive(named(...tensor())))
  expect(tensors).toMatchObject([{ name: 'a', dtype: 'F32', shape: [2, 3] }])
  expect(tensors[0]!.end - tensors[0]!.begin).toBe(24)
})

const mark = join(mkdtempSync(join(tmpdir(), 'swap-pickle-')), 'was-here')
const call = (module: string, name: string, ...args: Piece[]): Buffer =>
  named(global(module, name), ...tuple(...args), 'R')

describe('hostile pickles run nothing', () => {
  const command = text(`touch ${mark}`)
  const many = (piece: string, count: number): Buffer => Buffer.alloc(count * piece.length, piece, 'latin1')
  const inner = { extra: { 'archive/data/1': 'x' } }
  test.each<[string, Buffer, string, string]>([
    ['os.system', archive(call('os', 'system', command)), 'SWAP_FILE_PICKLE', 'os.system'],
    ['posix.system', archive(call('posix', 'system', command)), 'SWAP_FILE_PICKLE', 'posix.system'],
    ['builtins.eval', archive(call('builtins', 'eval', command)), 'SWAP_FILE_PICKLE', 'builtins.eval'],
    ['subprocess.Popen', archive(call('subprocess', 'Popen', command)), 'SWAP_FILE_PICKLE', 'subprocess.Popen'],
    [
      'a name beside an allowed one',
      archive(named(global('torch._utils', '_rebuild_qtensor'))),
      'SWAP_FILE_PICKLE',
      '_rebuild_qtensor',
    ],
    [
      'a dotted way out of an allowed module',
      archive(named(global('collections', 'OrderedDict.__class__'))),
      'SWAP_FILE_PICKLE',
      'OrderedDict.__class__',
    ],
    [
      'a name that only looks allowed',
      archive(named(global('collections.OrderedDict', ''))),
      'SWAP_FILE_PICKLE',
      'collections.OrderedDict.',
    ],
    ['__proto__ as a name', archive(named(global('__proto__', 'constructor'))), 'SWAP_FILE_PICKLE', '__proto__'],
    ['torch.load in a pickle', archive(call('torch', 'load', command)), 'SWAP_FILE_PICKLE', 'torch.load'],
    [
      'an allowed type that is called',
      archive(call('torch', 'FloatStorage', int(1))),
      'SWAP_FILE_PICKLE',
      'torch.FloatStorage',
    ],
    ['a text that is called', archive(named(text('os.system'), ...tuple(command), 'R')), 'SWAP_FILE_PICKLE', 'no name'],
    ['INST', archive(named('(', command, 'ios\nsystem\n')), 'SWAP_FILE_PICKLE', '0x69'],
    ['OBJ', archive(named('(', global('collections', 'OrderedDict'), 'o')), 'SWAP_FILE_PICKLE', '0x6f'],
    ['STACK_GLOBAL', archive(named(text('os'), text('system'), 0x93)), 'SWAP_FILE_PICKLE', '0x93'],
    ['EXT1', archive(named(0x82, 1)), 'SWAP_FILE_PICKLE', '0x82'],
    ['NEWOBJ_EX', archive(named(0x92)), 'SWAP_FILE_PICKLE', '0x92'],
    ['a state for a list', archive(named(']', '}', 'b')), 'SWAP_FILE_PICKLE', 'state of an object'],
    ['a state for a tensor', archive(named(...tensor(), '}', 'b')), 'SWAP_FILE_PICKLE', 'state of an object'],
    ['a persistent id of its own', archive(named(text('/etc/passwd'), 'Q')), 'SWAP_FILE_PICKLE', 'persistent id'],
    [
      'a storage out of the archive',
      archive(named(...tensor({ key: '../../etc/passwd' }))),
      'SWAP_FILE_PICKLE_DAMAGED',
      'etc/passwd',
    ],
    ['a storage of another size', archive(named(...tensor({ count: 7 }))), 'SWAP_FILE_PICKLE_DAMAGED', '24 bytes'],
    ['a storage of a negative size', archive(named(...tensor({ count: -6 }))), 'SWAP_FILE_PICKLE', 'persistent id'],
    [
      'a tensor larger than its storage',
      archive(named(...tensor({ shape: [3, 3] }))),
      'SWAP_FILE_PICKLE_DAMAGED',
      '[3,3]',
    ],
    ['a tensor behind its storage', archive(named(...tensor({ offset: 1 }))), 'SWAP_FILE_PICKLE_DAMAGED', 'at 1'],
    [
      'a tensor before its storage',
      archive(named(...tensor({ offset: -1 }))),
      'SWAP_FILE_PICKLE',
      '_rebuild_tensor_v2',
    ],
    [
      'a tensor of 2^62 numbers',
      archive(named(...tensor({ shape: [2 ** 31 - 1, 2 ** 31 - 1], strides: [0, 0] }))),
      'SWAP_FILE_PICKLE_DAMAGED',
      '2147483647',
    ],
    [
      'one number repeated by strides of 0',
      archive(named(...tensor({ strides: [0, 0] }))),
      'SWAP_FILE_PICKLE_TENSOR',
      '[0,0]',
    ],
    ['negative strides', archive(named(...tensor({ strides: [-3, -1] }))), 'SWAP_FILE_PICKLE', '_rebuild_tensor_v2'],
    [
      'more strides than lengths',
      archive(named(...tensor({ strides: [6, 3, 1] }))),
      'SWAP_FILE_PICKLE',
      '_rebuild_tensor_v2',
    ],
    ['a text of 4 GB', archive(named('X', uint32(0xffffffff))), 'SWAP_FILE_PICKLE_DAMAGED', '4294967295 bytes'],
    ['bytes of 2 GB', archive(named('B', uint32(0x7fffffff))), 'SWAP_FILE_PICKLE_DAMAGED', '2147483647 bytes'],
    ['a number of 255 bytes', archive(named(0x8a, 255, many('\xff', 255))), 'SWAP_FILE_PICKLE', '255 bytes'],
    ['a name of a megabyte', archive(named('c', many('x', 2 ** 20), '\n\n')), 'SWAP_FILE_PICKLE', 'letters'],
    [
      'a memo that was never written',
      archive(named('j', uint32(0xffffffff))),
      'SWAP_FILE_PICKLE_DAMAGED',
      '4294967295',
    ],
    ['2 million marks', archive(pickle(many('(', 2_000_000))), 'SWAP_FILE_PICKLE', 'nests'],
    ['10 million operations', archive(pickle(many(')', 10_000_000))), 'SWAP_FILE_PICKLE', 'operations'],
    ['17 MB of pickle', archive(pickle(many(' ', 17 * 2 ** 20))), 'SWAP_FILE_PICKLE', 'bytes'],
    ['a value taken from nothing', archive(pickle('}s')), 'SWAP_FILE_PICKLE_DAMAGED', 'where none is'],
    ['a mark that is not there', archive(pickle('t')), 'SWAP_FILE_PICKLE_DAMAGED', 'mark'],
    ['two values at the end', archive(pickle(')', ')')), 'SWAP_FILE_PICKLE_DAMAGED', 'one value'],
    ['nothing at all', archive(Buffer.alloc(0)), 'SWAP_FILE_PICKLE_DAMAGED', 'ends'],
    [
      'a dict that gets half an item',
      archive(pickle('}', '(', text('a'), 'u')),
      'SWAP_FILE_PICKLE_DAMAGED',
      'dictionary',
    ],
    [
      'an item set in a list',
      archive(pickle(']', text('a'), text('b'), 's')),
      'SWAP_FILE_PICKLE_DAMAGED',
      'dictionary',
    ],
    ['a text that is no text', archive(named('X', uint32(1), 0xff)), 'SWAP_FILE_PICKLE_DAMAGED', 'UTF-8'],
    ['protocol 5', archive(Buffer.from([0x80, 5, 0x4e, 0x2e])), 'SWAP_FILE_PICKLE', 'protocol 5'],
    [
      'two pickles',
      archive(named(...tensor()), { extra: { 'other/data.pkl': 'x' } }),
      'SWAP_FILE_PICKLE_DAMAGED',
      'torch.save',
    ],
    ['an entry twice', archive(named(...tensor()), { extra: { 'archive/data/0': 'x' } }), 'SWAP_FILE_PICKLE', 'twice'],
    [
      'numbers of another order',
      zip([
        { name: 'a/data.pkl', data: named(...tensor()) },
        { name: 'a/byteorder', data: 'big' },
      ]),
      'SWAP_FILE_PICKLE',
      'big-endian',
    ],
    ['a zip of other things', zip([{ name: 'photo.png', data: 'x' }]), 'SWAP_FILE_PICKLE_DAMAGED', 'torch.save'],
    ['a name that climbs out', zip([{ name: '../data.pkl', data: 'x' }]), 'SWAP_FILE_PICKLE_DAMAGED', '..'],
    [
      'an archive cut short',
      archive(named(...tensor()), inner).subarray(0, -30),
      'SWAP_FILE_PICKLE_DAMAGED',
      'archive',
    ],
    ['no archive', Buffer.from('not an archive'), 'SWAP_FILE_PICKLE_DAMAGED', 'torch.save'],
    ['no bytes', Buffer.alloc(0), 'SWAP_FILE_PICKLE_DAMAGED', 'torch.save'],
    [
      'a bare pickle',
      pickle(global('os', 'system'), ...tuple(command), 'R'),
      'SWAP_FILE_PICKLE_LEGACY',
      'without an archive',
    ],
  ])('%s', async (_, bytes, code, part) => {
    const error = await readTorchArchive(bytes).catch((raised: unknown) => raised)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code, message: expect.stringContaining(part) })
    expect((error as Error).message.length).toBeLessThan(400)
    expect(existsSync(mark)).toBe(false)
  })

  test('lists that hold themselves, and a memo that repeats itself, stay small', async () => {
    const loops = [']', 'q', 0, 'h', 0, 'a']
    const laughs = Array.from({ length: 60 }, (_, k) => [
      ']',
      'q',
      k + 1,
      ...(k ? ['h', k, 'a', 'h', k, 'a'] : []),
    ]).flat()
    const { root } = await readTorchArchive(archive(pickle('(', ...loops, ...laughs, 't')))
    expect(root).toHaveLength(61)
  })

  test('entries that are compressed or larger than the file', async () => {
    const whole = archive(named(...tensor()))
    const central = whole.indexOf('PK\x01\x02', 0, 'latin1')
    const deflated = Buffer.from(whole)
    deflated.writeUInt16LE(8, central + 10)
    await expect(readTorchArchive(deflated)).rejects.toMatchObject({ code: 'SWAP_FILE_PICKLE' })
    const larger = Buffer.from(whole)
    larger.writeUInt32LE(1e9, central + 20)
    larger.writeUInt32LE(1e9, central + 24)
    await expect(readTorchArchive(larger)).rejects.toMatchObject({ code: 'SWAP_FILE_PICKLE_DAMAGED' })
  })

  test('a file that is missing, and one that is cut short', async () => {
    await expect(readTorchArchive('/no/such/file')).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
    const path = `${mark}.pt`
    writeFileSync(path, readFileSync(golden('ckpt.pt')))
    truncateSync(path, 1000)
    await expect(readTorchArchive(path)).rejects.toMatchObject({ code: 'SWAP_FILE_PICKLE_DAMAGED' })
  })
})
