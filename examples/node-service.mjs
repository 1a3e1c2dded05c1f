// A small web service: learns subjects from photos and draws pictures of them. Work is cancelled when its client
// goes away; a picture that is asked for while a subject is learnt comes first.
//   node node-service.mjs [PORT]
//   curl --data-binary @me.jpg 'http://127.0.0.1:8080/learn?name=alice&class=person'
//   curl 'http://127.0.0.1:8080/draw?prompt=a+photo+of+%3Calice%3E+at+the+beach&seed=1' > alice.png
import { createServer } from 'node:http'
import { Personalizer, SwapError } from '@swap/native'

const MAX_PHOTO = 32 * 2 ** 20
const port = Number(process.argv[2] ?? 8080)
const personalizer = await Personalizer.open({ model: 'mini' })
const subjects = new Map()

async function body(request) {
  const chunks = []
  let size = 0
  for await (const chunk of request) {
    size += chunk.length
    if (size > MAX_PHOTO) throw new SwapError('SWAP_IMAGE_TOO_LARGE', `the photo has more than ${MAX_PHOTO} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** Answers with one JSON object a line: the steps, then the subject. */
async function learn(request, response, query, signal) {
  const steps = query.get('steps')
  const job = personalizer.learn(
    {
      image: await body(request),
      name: query.get('name') ?? undefined,
      class: query.get('class') ?? undefined,
      steps: steps === null ? undefined : Number(steps),
    },
    { signal },
  )
  for await (const event of job) response.write(`${JSON.stringify(event)}\n`)
  const subject = await job
  subjects.set(subject.name, subject)
  response.end(`${JSON.stringify({ type: 'subject', ...subject.toJSON() })}\n`)
}

/** Answers with a PNG. */
async function draw(_request, response, query, signal) {
  const prompt = query.get('prompt') ?? ''
  const named = [...subjects.values()].filter(({ name }) => prompt.includes(`<${name}>`))
  const seed = Number(query.get('seed') ?? 0)
  const [picture] = await personalizer.generate({ prompt, subjects: named, seed }, { signal })
  response.setHeader('content-type', 'image/png').end(await picture.toBuffer('png'))
}

function refuse(response, error) {
  if (response.destroyed) return
  const ours = error instanceof SwapError
  if (!ours) console.error(error)
  const said = JSON.stringify({ type: 'error', ...(ours ? error.toJSON() : { message: 'internal error' }) })
  // The steps of a learning have gone out already: then the error is one more line.
  if (!response.headersSent) response.writeHead(ours ? 400 : 500, { 'content-type': 'application/json' })
  response.end(`${said}\n`)
}

const ROUTES = { 'POST /learn': learn, 'GET /draw': draw }

const server = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost')
  const route = ROUTES[`${request.method} ${pathname}`]
  if (!route) return response.writeHead(404).end()
  const gone = new AbortController()
  response.on('close', () => gone.abort(new Error('the client went away')))
  try {
    await route(request, response, searchParams, gone.signal)
  } catch (error) {
    refuse(response, error)
  }
})

server.listen(port, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`))

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    server.close()
    server.closeAllConnections()
    await personalizer.close()
  })
}
