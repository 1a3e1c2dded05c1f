// The chart of docs/benchmarks.md: one bar a side for every operation.
const COLOURS = ['#0f766e', '#94a3b8', '#cbd5e1', '#e2e8f0']

export function chart({ opened, results }, labels, title) {
  const names = Object.keys(opened)
  const bars = Object.entries(results).flatMap(([key, cells]) =>
    names.filter((name) => cells[name]).map((name) => ({ key, name, seconds: cells[name].seconds })),
  )
  const longest = Math.max(...bars.map(({ seconds }) => seconds))
  const [left, width, height] = [230, 400, 22]
  let y = 14
  let previous
  const parts = bars.map(({ key, name, seconds }) => {
    const first = key !== previous
    if (first && previous !== undefined) y += 14
    previous = key
    const length = (seconds / longest) * width
    const part = [
      first
        ? `<text x="${left - 10}" y="${y + 15}" text-anchor="end" font-weight="600">${labels[key] ?? key}</text>`
        : '',
      `<rect x="${left}" y="${y}" width="${length.toFixed(1)}" height="${height - 4}" rx="3" fill="${COLOURS[names.indexOf(name)]}"/>`,
      `<text x="${(left + length + 6).toFixed(1)}" y="${y + 14}">${name} ${seconds.toFixed(1)} s</text>`,
    ].join('')
    y += height
    return part
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 ${y + 12}" font-family="system-ui, sans-serif" font-size="13" fill="#1e293b">
<title>${title}</title>
<rect width="760" height="${y + 12}" fill="#ffffff"/>
${parts.join('\n')}
</svg>
`
}
