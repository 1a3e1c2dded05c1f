// A peer in a process of its own: a line of JSON in, a line of JSON out.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

export class Peer {
  #child
  #lines
  #ended

  constructor([program, ...parameters]) {
    // As this package does for itself: threads that spin long while they wait make a shared machine many times slower.
    const env = {
      OMP_WAIT_POLICY: 'PASSIVE',
      GOMP_SPINCOUNT: '2000',
      TRANSFORMERS_VERBOSITY: 'error',
      PYTHONWARNINGS: 'ignore',
      ...process.env,
    }
    this.#child = spawn(program, parameters, { stdio: ['pipe', 'pipe', 'inherit'], env })
    this.#ended = new Promise((resolve) => this.#child.on('close', resolve))
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  /** The next line that is an object; libraries print other lines now and then. */
  async hello() {
    for (;;) {
      const { value, done } = await this.#lines.next()
      if (done) throw new Error(`a peer ended with ${await this.#ended}: ${this.#child.spawnargs.join(' ')}`)
      if (value.startsWith('{')) return JSON.parse(value)
    }
  }

  ask(command) {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`)
    return this.hello()
  }

  end() {
    this.#child.stdin.end()
    return this.#ended
  }
}
