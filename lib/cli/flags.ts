/** The library's sentences speak of its options; who types commands knows them by their flags. */

/** Flags that are not simply the option's name in kebab case, and arguments. */
const FLAGS: Record<string, string> = {
  'attention.levels': '--levels',
  'generate.prompt': 'the prompt',
  'learn.image': 'the photo',
  loras: '--lora',
  subjects: '--subject',
  templates: '--template',
}

function flag(name: string, call: string): string {
  const plain = name.replaceAll(/\[\d+\]/g, '')
  const known = FLAGS[`${call}.${plain}`] ?? FLAGS[plain]
  return known ?? `--${plain.replaceAll('.', '-').replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
}

/** `option "guidanceScale" of generate()` -> `--guidance-scale`, `device: 'auto'` -> `--device auto`. */
export function asTyped(sentence: string): string {
  return sentence
    .replaceAll(/\boption "([\w.[\]]+)" of (\w+)(?:\(\))?/g, (_, name: string, call: string) => flag(name, call))
    .replaceAll(
      /\b(device|dtype|scheduler|predictionType):? '([\w.:+-]+)'/g,
      (_, name: string, value: string) => `${flag(name, '')} ${value}`,
    )
}
