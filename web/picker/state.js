// The subjects with their history, and the points that come in from outside: what is saved, and what is shown. No DOM in
// here.
//
// Points from outside are shown while the user has none. The first change makes them the user's, and the text then keeps
// a sketch of what they were, so that others that come in later are noticed, and that points taken away stay away.

import { History } from '../common/history.js'
import * as subjects from './subjects.js'

const EMPTY_TEXT = subjects.toText(subjects.NOTHING)

export class State {
  subjects = subjects.NOTHING.subjects // as they are shown
  problem = null // why the saved text cannot be read
  #saved = subjects.NOTHING // what the text says
  #seed = null // the points from outside: their text, '' while only a run can tell, null without any
  #history = new History(EMPTY_TEXT)

  /** The saved text. A text that cannot be read is given back untouched until the user edits. */
  get text() {
    return this.#history.value
  }

  get canUndo() {
    return this.#history.canUndo
  }

  get canRedo() {
    return this.#history.canRedo
  }

  /** A text from outside. Returns whether it is another one. */
  load(text) {
    const next = text === undefined || text === null || text === '' ? EMPTY_TEXT : text
    if (next === this.text) return false
    this.#history.reset(next)
    this.#read()
    return true
  }

  /** Make these the subjects: one step. Returns whether the text is another one. */
  settle(list, merge = null) {
    const text = subjects.toText({ subjects: list, seed: this.#seedOfEdits() })
    this.#saved = subjects.fromText(text)
    this.subjects = this.#saved.subjects
    this.problem = null
    return this.#history.push(text, merge)
  }

  /** The next step is one of its own. */
  seal() {
    this.#history.seal()
  }

  /** 'undo', 'redo' or 'discard'. Returns whether there was such a step. */
  travel(direction) {
    const done = this.#history[direction]()
    if (done) this.#read()
    return done
  }

  #read() {
    try {
      this.#saved = subjects.fromText(this.text)
      this.problem = null
    } catch (error) {
      this.#saved = subjects.NOTHING
      this.problem = error.message
    }
    this.subjects = (this.isSeedShown ? subjects.fromText(this.#seed) : this.#saved).subjects
  }

  /** What comes in: a text of subjects, '' while only a run can tell, null without a wire. Returns whether it changed. */
  setSeed(text) {
    if (text === this.#seed) return false
    this.#seed = text
    this.#read()
    return true
  }

  /** Whether the points from outside are shown, because the user has none. */
  get isSeedShown() {
    return Boolean(this.#seed) && !this.problem && subjects.isUntouched(this.#saved)
  }

  /** Whether some come in that only a run can tell, and the user has none. */
  get isSeedAwaited() {
    return this.#seed === '' && !this.problem && subjects.isUntouched(this.#saved)
  }

  /** Whether other points came in than those that the user's are made of. */
  get hasOtherSeed() {
    if (!this.#seed || this.problem || this.isSeedShown || this.#saved.seed === subjects.sketch(this.#seed)) return false
    // As this editor writes both.
    return subjects.toText({ ...this.#saved, seed: '' }) !== subjects.toText(subjects.fromText(this.#seed))
  }

  /** Give up the user's points for those from outside: one step. */
  takeSeed() {
    if (!this.hasOtherSeed || !this.#history.push(EMPTY_TEXT)) return false
    this.#read()
    return true
  }

  #seedOfEdits() {
    if (this.#seed === null) return ''
    return this.#saved.seed || (this.#seed && subjects.sketch(this.#seed))
  }
}
