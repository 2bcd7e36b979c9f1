// Whether a press means points or boxes: as chosen, or boxes while a key is held. No DOM in here.

export class Tool {
  kind = 'points' // or 'boxes'
  #held = null // while the key is held: {isUsed}, whether anything was pressed since

  get isBoxing() {
    return this.kind === 'boxes' || this.#held !== null
  }

  /** The key went down or up. Returns the kind that it chooses if it was pressed alone, else null. */
  hold(isHeld) {
    const held = this.#held
    if (isHeld) this.#held ??= { isUsed: false } // the key repeats
    else this.#held = null
    if (isHeld || !held || held.isUsed) return null
    return this.kind === 'boxes' ? 'points' : 'boxes'
  }

  /** A press while boxes are meant. */
  use() {
    if (this.#held) this.#held.isUsed = true
  }

  /** The focus has gone, and with it the key. */
  letGo() {
    this.#held = null
  }
}
