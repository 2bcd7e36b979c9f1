// The editor's state: points, selection, view, history, commands and keys. No DOM in here: keys come by their names,
// pointers through Gestures, and changes are reported to `listener`.

import { History } from '../common/history.js'
import { t } from '../common/translate.js'
import * as geometry from './geometry.js'
import { Gestures } from './gestures.js'
import * as points from './points.js'

// In the order in which M cycles through them.
const OVERLAYS = {
  none: () => t('Masks hidden.'),
  masks: () => t('Masks shown.'),
  similarity: () => t('Similarity shown.')
}
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

export class Editor {
  sign = 'positive' // of the next click
  selection = null // {sign, index}
  hover = null
  view = geometry.FIT
  picture = null // {width, height} in its own pixels
  stage = { width: 0, height: 0 }
  grid = false
  overlay = 'none' // one of OVERLAYS
  problem = null // why the saved text cannot be read
  gestures = new Gestures(this)
  #points = points.EMPTY
  #draft = null
  #history = new History(points.toJson(points.EMPTY))
  #listener

  /** listener: {render(), change(text), say(message)} */
  constructor(listener) {
    this.#listener = listener
  }

  // --- value -------------------------------------------------------------------------------------------------------

  /** The saved text. A text that cannot be read is given back untouched until the user edits. */
  get value() {
    return this.#history.value
  }

  /** Set from outside: a loaded workflow, the graph's undo. Not an own step. */
  set value(text) {
    const next = text === undefined || text === null || text === '' ? points.toJson(points.EMPTY) : text
    if (next === this.#history.value) return
    this.#history.reset(next)
    this.#read()
  }

  /** What is shown: the points, as a gesture under way has them. */
  get points() {
    return this.#draft ?? this.#points
  }

  /** The points as they are saved. */
  get settled() {
    return this.#points
  }

  get canUndo() {
    return this.#history.canUndo
  }

  get canRedo() {
    return this.#history.canRedo
  }

  #read() {
    this.gestures.abandon()
    try {
      this.#points = points.fromJson(this.#history.value)
      this.problem = null
    } catch (error) {
      this.#points = points.EMPTY
      this.problem = error.message
    }
    if (!points.get(this.#points, this.selection)) this.selection = null
    this.hover = null
    this.#listener.render()
  }

  /** Show points that are not settled yet; null shows the settled ones again. */
  draft(next) {
    this.#draft = next
    this.#listener.render()
  }

  /** Make these the points: one step of the history. */
  commit(next, merge = null) {
    this.#draft = null
    const text = points.toJson(next)
    // Other lengths are other numbers: what was under the pointer may be another point now, until it moves again.
    if (points.SIGNS.some((sign) => next[sign].length !== this.#points[sign].length)) this.hover = null
    this.#points = points.fromJson(text)
    this.problem = null
    if (this.#history.push(text, merge)) this.#listener.change(text)
    this.#listener.render()
  }

  /** Take the last step back without a redo. */
  discard() {
    if (!this.#history.discard()) return
    this.selection = null
    this.#read()
    this.#listener.change(this.#history.value)
  }

  undo() {
    return this.#travel('undo')
  }

  redo() {
    return this.#travel('redo')
  }

  #travel(direction) {
    this.gestures.abandon()
    if (!this.#history[direction]()) return false
    this.#read()
    this.#listener.change(this.#history.value)
    this.#say(direction === 'undo' ? t('Undone.') : t('Redone.'))
    return true
  }

  // --- commands ----------------------------------------------------------------------------------------------------

  select(at) {
    this.#history.seal()
    this.selection = at
    if (at) this.saySelected()
    this.#listener.render()
  }

  setHover(at) {
    if (at?.sign === this.hover?.sign && at?.index === this.hover?.index) return
    this.hover = at
    this.#listener.render()
  }

  setSign(sign) {
    this.sign = sign
    this.#listener.render()
  }

  setGrid(on) {
    this.grid = on
    this.#listener.render()
  }

  nextOverlay() {
    const names = Object.keys(OVERLAYS)
    this.overlay = names[(names.indexOf(this.overlay) + 1) % names.length]
    this.#say(OVERLAYS[this.overlay]())
    this.#listener.render()
  }

  clear(sign) {
    this.gestures.abandon()
    if (this.selection?.sign === sign) this.selection = null
    this.commit(points.clear(this.#points, sign))
    this.#say(sign === 'positive' ? t('All positive points removed.') : t('All negative points removed.'))
  }

  removeSelected() {
    this.gestures.abandon()
    if (!this.selection) return
    const at = this.selection
    const next = points.remove(this.#points, at)
    this.selection = next[at.sign].length ? { sign: at.sign, index: Math.min(at.index, next[at.sign].length - 1) } : null
    this.commit(next)
    this.#say(at.sign === 'positive' ? t('Positive point removed.') : t('Negative point removed.'))
  }

  flipSelected() {
    this.gestures.abandon()
    const at = this.selection
    if (!at) return this.setSign(points.opposite(this.sign))
    const sign = points.opposite(at.sign)
    if (this.refuseFull(sign)) return
    this.selection = { sign, index: this.#points[sign].length }
    this.commit(points.flip(this.#points, at))
    this.saySelected()
  }

  /** Add a point in the middle of the view: the keyboard's click. */
  addInMiddle() {
    this.gestures.abandon()
    if (!this.picture || this.refuseFull(this.sign)) return
    this.selection = { sign: this.sign, index: this.#points[this.sign].length }
    this.commit(points.add(this.#points, this.sign, [this.view.x, this.view.y]))
    this.saySelected()
  }

  /** Take points from a text. False if it is no point list, so that the paste may mean something else. */
  paste(text) {
    try {
      const pasted = points.fromPasted(text, this.sign, this.picture)
      if (!pasted) return false
      this.gestures.abandon()
      this.selection = null
      this.commit(pasted.sign ? { ...this.#points, [pasted.sign]: pasted.points[pasted.sign] } : pasted.points)
      this.#say(t('{count} points pasted.', { count: points.count(pasted.points) }))
    } catch (error) {
      this.#say(error.message)
    }
    return true
  }

  // --- picture and view --------------------------------------------------------------------------------------------

  /** Another picture (or none): the points stay where they are in 0..1. */
  setPicture(picture) {
    this.gestures.abandon()
    this.picture = picture
    this.fit()
  }

  setStage(width, height) {
    this.stage = { width, height }
    if (this.picture) this.view = geometry.clampView(this.view, this.stage, this.picture)
    this.#listener.render()
  }

  get rect() {
    return geometry.pictureRect(this.stage, this.picture, this.view)
  }

  get isZoomed() {
    return this.view.zoom > 1.001
  }

  fit() {
    this.view = geometry.FIT
    this.#listener.render()
  }

  zoom(factor, at = { x: this.stage.width / 2, y: this.stage.height / 2 }) {
    if (!this.picture) return
    this.view = geometry.zoomAt(this.view, factor, at, this.stage, this.picture)
    this.#listener.render()
  }

  /** The view that shows under `to` what `view` shows under `from`, zoomed by a factor: two fingers. */
  setView(view, factor, from, to) {
    const { stage, picture } = this
    const zoomed = geometry.zoomAt(view, factor, from, stage, picture)
    this.view = geometry.panBy(zoomed, to.x - from.x, to.y - from.y, stage, picture)
    this.#listener.render()
  }

  pan(dx, dy) {
    if (!this.picture) return
    this.view = geometry.panBy(this.view, dx, dy, this.stage, this.picture)
    this.#listener.render()
  }

  // --- keys --------------------------------------------------------------------------------------------------------

  /** event: {key, ctrl, shift, alt, time}. Returns whether the key was for the editor. */
  key(event) {
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key
    if (event.ctrl) {
      if (event.alt) return false
      if (name === 'z') event.shift ? this.redo() : this.undo()
      else if (name === 'y' && !event.shift) this.redo()
      else return false
      return true // even with nothing to undo: the graph's undo must not jump in
    }
    if (event.alt) return false
    if (name in ARROWS) return this.#arrow(ARROWS[name], event.shift)
    if (name === 'Tab') return this.#tab(event.shift ? -1 : 1)
    if (name === 'Escape') return this.#escape()
    const command = {
      Delete: () => this.removeSelected(), // handled without a selection too: the graph would delete the node
      Backspace: () => this.removeSelected(),
      Enter: () => this.addInMiddle(),
      x: () => this.flipSelected(),
      '+': () => this.setSign('positive'),
      '=': () => this.setSign('positive'),
      '-': () => this.setSign('negative'),
      g: () => this.setGrid(!this.grid),
      f: () => this.fit(),
      m: () => this.nextOverlay()
    }[name]
    command?.()
    return Boolean(command)
  }

  #arrow([dx, dy], far) {
    const step = far ? 10 : 1
    if (this.gestures.isBusy || !this.picture) return true
    if (!this.selection) this.pan(-dx * step * 5, -dy * step * 5)
    else {
      const { sign, index } = this.selection
      const moved = geometry.nudge(this.#points[sign][index], dx * step, dy * step, this.picture)
      this.commit(points.move(this.#points, this.selection, moved), `nudge ${sign} ${index}`)
      this.saySelected()
    }
    return true
  }

  #tab(step) {
    this.gestures.abandon()
    this.select(points.neighbour(this.#points, this.selection, step))
    return this.selection !== null // past the last point, Tab leads to the buttons
  }

  #escape() {
    const used = this.gestures.isBusy || this.selection !== null
    this.gestures.abandon()
    this.select(null)
    return used
  }

  // --- messages ----------------------------------------------------------------------------------------------------

  refuseFull(sign) {
    if (!points.isFull(this.#points, sign)) return false
    const values = { count: points.MAX_POINTS }
    this.#say(
      sign === 'positive'
        ? t('There are already {count} positive points; remove one first.', values)
        : t('There are already {count} negative points; remove one first.', values)
    )
    return true
  }

  saySelected() {
    const point = points.get(this.#points, this.selection)
    if (!point || !this.picture) return
    const [x, y] = geometry.toPixel(point, this.picture)
    const values = { number: this.selection.index + 1, x, y }
    this.#say(
      this.selection.sign === 'positive'
        ? t('Positive point {number} at {x}, {y}', values)
        : t('Negative point {number} at {x}, {y}', values)
    )
  }

  #say(message) {
    this.#listener.say(message.charAt(0).toUpperCase() + message.slice(1))
  }
}
