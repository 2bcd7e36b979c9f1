// The editor's state: subjects with their points and boxes, selection, history and commands. No DOM in here: keys come
// by their names (keys.js), pointers through Gestures, and changes are reported to `listener`.

import { t } from '../common/translate.js'
import * as boxes from './boxes.js'
import * as geometry from './geometry.js'
import { Gestures } from './gestures.js'
import { pressKey } from './keys.js'
import * as points from './points.js'
import * as said from './said.js'
import { State } from './state.js'
import * as subjects from './subjects.js'
import { Tool } from './tool.js'
import { Viewport } from './viewport.js'

export class Editor extends Viewport {
  sign = 'positive' // of the next click
  tool = new Tool()
  active = 0 // the subject that is edited
  selection = null // {sign, index} of the active subject
  hover = null // the same; of a box with the part that a press would take
  grid = false
  overlay = 'none' // one of said.OVERLAYS
  gestures = new Gestures(this)
  #state = new State()
  #draft = null // the active subject, as a gesture under way has it
  #listener

  /** listener: {render(), change(text), say(message), subject()}; subject(): another one became active. */
  constructor(listener) {
    super(() => listener.render())
    this.#listener = listener
  }

  // --- value -------------------------------------------------------------------------------------------------------

  /** The text, see State. */
  get value() {
    return this.#state.text
  }

  /** Set from outside: a loaded workflow, the graph's undo. Not an own step. */
  set value(text) {
    this.gestures.abandon()
    if (this.#state.load(text)) this.#afterRead()
  }

  /** The active subject as it is shown, as a gesture under way has it. */
  get points() {
    return this.#draft ?? this.settled
  }

  /** The active subject without that. */
  get settled() {
    return this.#state.subjects[this.active]
  }

  /** All subjects as they are shown. */
  get subjects() {
    return this.#draft ? subjects.replaced(this.#state.subjects, this.active, this.#draft) : this.#state.subjects
  }

  /** Why the saved text cannot be read, or null. */
  get problem() {
    return this.#state.problem
  }

  get canUndo() {
    return this.#state.canUndo
  }

  get canRedo() {
    return this.#state.canRedo
  }

  #afterRead() {
    this.#draft = null
    this.hover = null
    this.#show(Math.min(this.active, this.subjects.length - 1))
    if (!points.get(this.settled, this.selection)) this.selection = null
    this.#listener.render()
  }

  /** Show the active subject with changes that are not settled yet; null shows it as it is. */
  draft(next) {
    this.#draft = next
    this.#listener.render()
  }

  /** Make this the active subject: one step of the history. */
  commit(next, merge = null) {
    // Other lengths are other numbers: what was under the pointer may be another point now, until it moves again.
    if (points.LISTS.some((sign) => next[sign].length !== this.settled[sign].length)) this.hover = null
    this.#commitAll(subjects.replaced(this.#state.subjects, this.active, next), this.active, merge)
  }

  /** Make these the subjects, and show one of them. */
  #commitAll(list, active, merge = null) {
    this.#draft = null
    const changed = this.#state.settle(list, merge)
    this.#show(active)
    if (changed) this.#listener.change(this.value)
    this.#listener.render()
  }

  /** Take the last step back without a redo. */
  discard() {
    if (!this.#state.travel('discard')) return
    this.selection = null
    this.#afterRead()
    this.#listener.change(this.value)
  }

  undo() {
    return this.#travel('undo')
  }

  redo() {
    return this.#travel('redo')
  }

  /** Shows the subject that the step changed. */
  #travel(direction) {
    this.gestures.abandon()
    const before = this.subjects
    if (!this.#state.travel(direction)) return false
    this.#afterRead()
    const changed = subjects.firstChanged(before, this.subjects)
    if (changed !== null) this.#show(Math.min(changed, this.subjects.length - 1))
    this.#listener.change(this.value)
    this.#say(direction === 'undo' ? t('Undone.') : t('Redone.'))
    return true
  }

  /** Points from outside, as State.setSeed takes them. */
  setSeed(text) {
    const before = this.#state.subjects
    if (!this.#state.setSeed(text)) return
    const changed = subjects.firstChanged(before, this.#state.subjects) !== null
    if (changed) this.gestures.abandon()
    if (changed) this.#afterRead()
    else this.#listener.render()
  }

  get isSeedShown() {
    return this.#state.isSeedShown
  }

  get isSeedAwaited() {
    return this.#state.isSeedAwaited
  }

  get hasOtherSeed() {
    return this.#state.hasOtherSeed
  }

  /** Give up the user's points for those from outside. */
  takeSeed() {
    this.gestures.abandon()
    if (!this.#state.takeSeed()) return
    this.selection = null
    this.#afterRead()
    this.#listener.change(this.value)
    this.#say(t('The points from points_in are shown.'))
  }

  // --- subjects ----------------------------------------------------------------------------------------------------

  /** Show a subject, or add it where it is the next one. */
  goToSubject(index) {
    if (index === this.subjects.length) return this.addSubject()
    this.gestures.abandon()
    if (index >= this.subjects.length) return
    this.select(null)
    this.#show(index)
    this.#say(said.subject(this.subjects, index))
  }

  /** The same without a word. */
  showSubject(index) {
    if (index >= 0 && index < this.subjects.length) this.#show(index)
  }

  addSubject() {
    this.gestures.abandon()
    const count = this.subjects.length
    if (count >= subjects.MAX_SUBJECTS) return this.#say(t('There can be {count} subjects.', { count }))
    this.selection = null
    this.#commitAll([...this.subjects, points.EMPTY], count)
    this.#say(said.subject(this.subjects, count))
  }

  /** The last one goes; one before it is emptied, since the numbers are those of the outputs. */
  removeSubject() {
    this.gestures.abandon()
    const number = this.active + 1
    this.selection = null
    if (number > 1 && number === this.subjects.length) {
      this.#commitAll(this.subjects.slice(0, -1), number - 2)
      return this.#say(t('Subject {number} removed.', { number }))
    }
    this.commit(points.EMPTY)
    this.#say(t('Subject {number} emptied.', { number }))
  }

  #show(index) {
    if (index === this.active) return
    this.active = index
    this.selection = null
    this.hover = null
    this.#listener.subject?.()
    this.#listener.render()
  }

  // --- commands ----------------------------------------------------------------------------------------------------

  key(event) {
    return pressKey(this, event)
  }

  select(at) {
    this.#state.seal()
    this.selection = at && { sign: at.sign, index: at.index }
    if (at) this.saySelected()
    this.#listener.render()
  }

  /** The next (step 1) or previous (-1) point or box. Returns whether there is one. */
  selectNext(step) {
    this.gestures.abandon()
    this.select(points.neighbour(this.settled, this.selection, step))
    return this.selection !== null
  }

  setHover(at) {
    if (JSON.stringify(at) === JSON.stringify(this.hover)) return
    this.hover = at
    this.#listener.render()
  }

  setSign(sign) {
    this.sign = sign
    this.tool.kind = 'points'
    this.#listener.render()
  }

  setTool(kind) {
    this.gestures.abandon()
    this.tool.kind = kind
    this.hover = null
    this.#say(kind === 'boxes' ? t('A drag draws a box.') : t('A click places a point.'))
    this.#listener.render()
  }

  /** The B key: held it draws boxes; pressed alone it changes the tool. */
  holdBoxes(isHeld) {
    const chosen = this.tool.hold(isHeld)
    this.hover = null
    if (chosen) this.setTool(chosen)
    else this.#listener.render()
  }

  /** Whether a press means boxes. */
  get isBoxing() {
    return this.tool.isBoxing
  }

  setGrid(on) {
    this.grid = on
    this.#listener.render()
  }

  nextOverlay() {
    const names = Object.keys(said.OVERLAYS)
    this.overlay = names[(names.indexOf(this.overlay) + 1) % names.length]
    this.#say(said.OVERLAYS[this.overlay]())
    this.#listener.render()
  }

  clear(sign) {
    this.gestures.abandon()
    if (this.selection?.sign === sign) this.selection = null
    this.commit(points.clear(this.settled, sign))
    this.#say(said.cleared(sign))
  }

  removeSelected() {
    this.gestures.abandon()
    const at = this.selection
    if (!at) return
    const next = points.remove(this.settled, at)
    const { length } = next[at.sign]
    this.selection = length ? { sign: at.sign, index: Math.min(at.index, length - 1) } : null
    this.commit(next)
    this.#say(said.removed(at.sign))
  }

  flipSelected() {
    this.gestures.abandon()
    const at = this.selection
    if (!at) return this.setSign(points.opposite(this.sign))
    if (at.sign === 'boxes') return
    const sign = points.opposite(at.sign)
    if (this.refuseFull(sign)) return
    this.selection = { sign, index: this.settled[sign].length }
    this.commit(points.flip(this.settled, at))
    this.saySelected()
  }

  /** Add a point, or a box half as large as what is seen, in the middle of the view: the keyboard's click. */
  addInMiddle() {
    this.gestures.abandon()
    const sign = this.isBoxing ? 'boxes' : this.sign
    if (!this.picture || this.refuseFull(sign)) return
    const { x, y } = this.view
    this.selection = { sign, index: this.settled[sign].length }
    this.commit(points.add(this.settled, sign, sign === 'boxes' ? boxes.inMiddle(this.rect, this.stage, this.picture) : [x, y]))
    this.saySelected()
  }

  /** Move what is selected by pixels of the picture; with `corner`, the lower right one of a box. */
  nudgeSelected(dx, dy, corner = false) {
    const { sign, index } = this.selection
    const old = this.settled[sign][index]
    const next = sign === 'boxes' ? boxes.nudge(old, dx, dy, this.picture, corner) : geometry.nudge(old, dx, dy, this.picture)
    this.commit(points.move(this.settled, this.selection, next), `nudge ${this.active} ${sign} ${index} ${corner}`)
    this.saySelected()
  }

  /** Take points from a text. False if it is no point list, so that the paste may mean something else. */
  paste(text) {
    try {
      const all = subjects.fromPasted(text)
      const pasted = all ?? points.fromPasted(text, this.sign, this.picture)
      if (!pasted) return false
      this.gestures.abandon()
      this.selection = null
      const { sign, points: placed } = pasted
      if (all) this.#commitAll(all, Math.min(this.active, all.length - 1))
      else this.commit(sign ? { ...this.settled, [sign]: placed[sign] } : { ...placed, boxes: this.settled.boxes })
      const count = all ? subjects.count(all) : points.count(pasted.points)
      this.#say(t('{count} points pasted.', { count }))
    } catch (error) {
      this.#say(error.message)
    }
    return true
  }

  /** Another picture (or none): the points stay where they are in 0..1. */
  setPicture(picture) {
    this.gestures.abandon()
    super.setPicture(picture)
  }

  // --- messages ----------------------------------------------------------------------------------------------------

  refuseFull(sign) {
    if (!points.isFull(this.settled, sign)) return false
    this.#say(said.full(sign))
    return true
  }

  saySelected() {
    const item = points.get(this.settled, this.selection)
    if (item && this.picture) this.#say(said.selected(item, this.selection, this.picture))
  }

  #say(message) {
    this.#listener.say(message.charAt(0).toUpperCase() + message.slice(1))
  }
}
