// Mouse, pen and touch: press, drag, pan, pinch. A small state machine that turns events into commands of the editor.
// No DOM in here; positions are stage pixels.

import * as geometry from './geometry.js'
import * as points from './points.js'

const START_DRAG = 3 // stage pixels before a press on a point becomes a drag, so that a click does not move it
const RADIUS = { mouse: 12, pen: 14, touch: 24 } // stage pixels in which a press takes a point
const DOUBLE_CLICK = 500 // milliseconds

/** Events are {id, x, y, button, alt, pan, type: 'mouse' | 'pen' | 'touch', time}. */
export class Gestures {
  #editor
  #pointers = new Map()
  #gesture = null
  #placedAt = -Infinity // when the last click placed a point

  constructor(editor) {
    this.#editor = editor
  }

  get isBusy() {
    return this.#gesture !== null
  }

  /** Whether a point is being placed or moved just now. */
  get isCarrying() {
    const { kind, moved } = this.#gesture ?? {}
    return kind === 'place' || (kind === 'drag' && moved)
  }

  down(event) {
    if (!this.#editor.picture) return
    this.#pointers.set(event.id, event)
    if (this.#pointers.size === 2) return this.#startPinch()
    if (this.#gesture) return
    if (event.button === 1 || event.pan) {
      this.#gesture = { kind: 'pan', id: event.id, x: event.x, y: event.y }
      return
    }
    const other = event.button === 2 || event.alt
    const at = this.#hit(event)
    if (!at) return this.#pressPicture(event, other)
    this.#editor.select(at)
    if (other) this.#editor.flipSelected()
    else this.#pressPoint(at, event)
  }

  #pressPoint(at, event) {
    const point = geometry.fromImage(points.get(this.#editor.settled, at), this.#editor.rect)
    // Kept while dragging, so that the point does not jump under the pointer.
    const grip = { x: point.x - event.x, y: point.y - event.y }
    this.#gesture = { kind: 'drag', id: event.id, at, x: event.x, y: event.y, grip, moved: false }
  }

  #pressPicture(event, other) {
    const editor = this.#editor
    const sign = other ? points.opposite(editor.sign) : editor.sign
    const point = geometry.toImage(event, editor.rect)
    editor.select(null)
    if (!geometry.isInside(point) || editor.refuseFull(sign)) return
    editor.selection = { sign, index: editor.settled[sign].length }
    this.#gesture = { kind: 'place', id: event.id, at: editor.selection, grip: { x: 0, y: 0 } }
    editor.draft(points.add(editor.settled, sign, point))
  }

  move(event) {
    if (!this.#editor.picture) return
    if (this.#pointers.has(event.id)) this.#pointers.set(event.id, event)
    const gesture = this.#gesture
    if (!gesture) return this.#editor.setHover(this.#hit(event))
    if (gesture.kind === 'pinch') return this.#pinch()
    if (gesture.id !== event.id) return
    if (gesture.kind === 'pan') this.#pan(event)
    else this.#carry(event)
  }

  #pan(event) {
    const gesture = this.#gesture
    this.#gesture = { ...gesture, x: event.x, y: event.y }
    this.#editor.pan(event.x - gesture.x, event.y - gesture.y)
  }

  #carry(event) {
    const gesture = this.#gesture
    if (gesture.kind === 'drag' && !gesture.moved) {
      if (Math.hypot(event.x - gesture.x, event.y - gesture.y) < START_DRAG) return
      gesture.moved = true
    }
    const target = { x: event.x + gesture.grip.x, y: event.y + gesture.grip.y }
    const point = geometry.clampPoint(geometry.toImage(target, this.#editor.rect))
    this.#editor.draft(points.move(this.#editor.points, gesture.at, point))
  }

  up(event) {
    this.#pointers.delete(event.id)
    const gesture = this.#gesture
    if (!gesture) return
    if (gesture.kind === 'pinch') {
      if (this.#pointers.size < 2) this.#gesture = null
      return
    }
    if (gesture.id !== event.id) return
    const carried = this.isCarrying
    this.#gesture = null
    this.#placedAt = gesture.kind === 'place' ? event.time : this.#placedAt
    if (!carried) return
    if (gesture.kind === 'drag') this.#placedAt = -Infinity
    this.#editor.commit(this.#editor.points)
    this.#editor.saySelected()
  }

  /** The system took the pointer away: as if the gesture had not begun. */
  cancel(event) {
    if (!this.#pointers.delete(event.id)) return
    this.abandon()
    this.#editor.draft(null)
  }

  leave() {
    if (!this.#gesture) this.#editor.setHover(null)
  }

  /** Fit the picture. If the first of the two clicks placed a point, that was not meant. */
  doubleClick(event) {
    if (!this.#editor.isZoomed) return
    if (event.time - this.#placedAt < DOUBLE_CLICK) this.#editor.discard()
    this.#placedAt = -Infinity
    this.#editor.fit()
  }

  /** End the gesture without a change. */
  abandon() {
    const gesture = this.#gesture
    if (!gesture) return
    this.#gesture = null
    if (gesture.kind === 'place') this.#editor.selection = null
    this.#editor.draft(null)
  }

  #startPinch() {
    this.abandon()
    this.#gesture = { kind: 'pinch', from: this.#spread(), view: this.#editor.view }
  }

  #pinch() {
    const { from, view } = this.#gesture
    const now = this.#spread()
    const factor = from.distance > 0 && now.distance > 0 ? now.distance / from.distance : 1
    this.#editor.setView(view, factor, from, now)
  }

  #spread() {
    const [a, b] = [...this.#pointers.values()]
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, distance: Math.hypot(a.x - b.x, a.y - b.y) }
  }

  #hit(event) {
    const editor = this.#editor
    return geometry.hit(editor.settled, event, editor.rect, RADIUS[event.type] ?? RADIUS.mouse)
  }
}
