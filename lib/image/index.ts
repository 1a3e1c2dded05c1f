/** Pictures: in from whatever holds one, out with how they came to be. */

export { readControlImage } from './control.ts'
export { type Crop, type ImageInput, openImage } from './decode.ts'
export { type Described, describedIn, parametersIn } from './described.ts'
export { formatOf, GeneratedImage, type GeneratedImageFields, type ImageFormat } from './generated.ts'
export { type InitialPicture, initialSize, readInitial } from './initial.ts'
export { readMask, readPhoto } from './photo.ts'
export { contactSheet, type SheetCell, type SheetOptions } from './sheet.ts'
