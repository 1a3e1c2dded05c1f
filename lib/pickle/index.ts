/** Files of torch.save(), read without running any of them. */
export { isTorchFile } from './archive.ts'
export { readTorchArchive, type TorchArchive, TorchTensor } from './torch.ts'
export { Inert } from './unpickler.ts'
