// Mouse, pen and touch: press, drag, pan, pinch. A small state machine that turns events into commands of the editor.
// No DOM in here; positions are stage pixels.

import * as boxes from './boxes.js'
import * as geometry from './geometry.js'
import * as points from './points.js'

const START_DRAG = 3 // stage pixels before a press becomes a drag, so that a click moves no point and draws no box
const RADIUS = { mouse: 12, pen: 14, touch: 24 } // stage pixels in which a press takes a point
const BOX_RADIUS = { mouse: 6, pen: 8, touch: 16 } // in which it takes the edge of a box
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

  /** Whether a box is being drawn or changed just now. */
  get isBoxing() {
    const { kind, moved } = this.#gesture ?? {}
    return kind === 'box' && moved
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
    if (this.#editor.isBoxing) return other ? undefined : this.#pressBoxes(event)
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

  /** Take a box by an edge, a corner or its inside; on the bare picture, draw another one. */
  #pressBoxes(event) {
    const editor = this.#editor
    const { settled } = editor
    const found = this.#hit(event)
    const from = geometry.toImage(event, editor.rect)
    editor.tool.use()
    editor.select(found)
    if (!found && editor.refuseFull('boxes')) return
    const at = found ?? { sign: 'boxes', index: settled.boxes.length }
    const old = found ? settled.boxes[at.index] : null
    this.#gesture = { kind: 'box', id: event.id, at, part: found?.part, old, from, x: event.x, y: event.y, moved: false }
  }

  #shapeBox(event) {
    const editor = this.#editor
    const { at, part, old, from } = this.#gesture
    const to = geometry.toImage(event, editor.rect)
    if (old) {
      const next = boxes.reshape(old, part, to[0] - from[0], to[1] - from[1], editor.picture)
      return editor.draft(points.move(editor.settled, at, next))
    }
    const drawn = boxes.between(geometry.clampPoint(from), geometry.clampPoint(to), editor.picture)
    editor.selection = at
    editor.draft(points.add(editor.settled, 'boxes', drawn))
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
    if (gesture.kind !== 'place' && !gesture.moved) {
      if (Math.hypot(event.x - gesture.x, event.y - gesture.y) < START_DRAG) return
      gesture.moved = true
    }
    if (gesture.kind === 'box') return this.#shapeBox(event)
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
    const carried = this.isCarrying || this.isBoxing
    this.#gesture = null
    this.#placedAt = gesture.kind === 'place' ? event.time : this.#placedAt
    if (!carried) return
    if (gesture.kind !== 'place') this.#placedAt = -Infinity
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
    if (gesture.kind === 'place' || (gesture.kind === 'box' && !gesture.old)) this.#editor.selection = null
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
    const { settled, rect, isBoxing } = this.#editor
    const radius = isBoxing ? BOX_RADIUS : RADIUS
    const reach = radius[event.type] ?? radius.mouse
    if (!isBoxing) return geometry.hit(settled, event, rect, reach)
    const found = boxes.hit(settled.boxes, event, rect, reach)
    return found && { sign: 'boxes', ...found }
  }
}
