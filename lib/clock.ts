/** Estimates the time left from the mean of the steps so far, phase by phase. */
export class StepClock {
  #phase: string
  #first: { step: number; time: number }

  /** @param done steps that were done before the clock started */
  constructor(phase: string, done = 0) {
    this.#phase = phase
    this.#first = { step: done, time: performance.now() }
  }

  /** The engine's own estimate where it has one (0 or more). */
  secondsLeft(phase: string, step: number, steps: number, own: number): number {
    const time = performance.now()
    if (phase !== this.#phase) {
      this.#phase = phase
      this.#first = { step: 0, time }
    }
    if (own >= 0) return own
    const done = Math.max(1, step - this.#first.step)
    return ((time - this.#first.time) / 1000 / done) * (steps - step)
  }
}
