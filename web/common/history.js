// Undo and redo over values that are compared as texts. No DOM in here.

const LIMIT = 200

export class History {
  #past = []
  #future = []
  #now
  #merge = null

  constructor(value) {
    this.#now = value
  }

  get value() {
    return this.#now
  }

  get canUndo() {
    return this.#past.length > 0
  }

  get canRedo() {
    return this.#future.length > 0
  }

  /** A new value. Steps that carry the same `merge` key in a row (held arrow keys) count as one. */
  push(value, merge = null) {
    if (value === this.#now) return false
    if (merge === null || merge !== this.#merge) {
      this.#past.push(this.#now)
      if (this.#past.length > LIMIT) this.#past.shift()
    }
    this.#merge = merge
    this.#now = value
    this.#future = []
    if (this.#past[this.#past.length - 1] === value) this.#past.pop() // merged steps that led back to their start
    return true
  }

  /** The next push is a step of its own. */
  seal() {
    this.#merge = null
  }

  undo() {
    return this.#step(this.#past, this.#future)
  }

  redo() {
    return this.#step(this.#future, this.#past)
  }

  /** Take the last step back as if it had never been (no redo). */
  discard() {
    const done = this.undo()
    if (done) this.#future.pop()
    return done
  }

  /** Start again from a value that came from outside (a loaded workflow, the graph's own undo). */
  reset(value) {
    this.#past = []
    this.#future = []
    this.#now = value
    this.#merge = null
  }

  #step(from, to) {
    if (!from.length) return false
    to.push(this.#now)
    this.#now = from.pop()
    this.#merge = null
    return true
  }
}
