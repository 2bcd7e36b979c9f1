// The state of the curve's editor: settings, selection, drag, history and keys. No DOM in here.

import { History } from '../common/history.js'
import { t } from '../common/translate.js'
import * as curves from './curve.js'
import * as scale from './plot_scale.js'

const RADIUS = { mouse: 10, pen: 12, touch: 22 } // stage pixels in which a press takes a handle
const STEP = { percent: 0.01, weight: 0.01 } // of an arrow key; ten times as much with Shift
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }

export class ScheduleEditor {
  stage = { width: 0, height: 0 }
  steps = 20 // of the sampler whose weights are marked, evenly spaced
  #timesteps = null // of a sampler's own steps, marked instead; [] while they are not known
  selection = -1 // index of a handle
  hoverStep = -1
  locked = false // shown only: the settings come from elsewhere
  #settings = null
  #draft = null // settings of a drag under way
  #drag = null // {id, index, from: the settings at its begin, box}
  #history = null
  #listener

  /** listener: {render(), change(settings), say(message)} */
  constructor(listener) {
    this.#listener = listener
  }

  /** What is shown, also while it is dragged; null before the first settings came. */
  get settings() {
    return this.#draft ?? this.#settings
  }

  /** Set from outside: typed into the node, loaded, undone by the graph. Not an own step. */
  set settings(settings) {
    const text = JSON.stringify(settings)
    if (text === this.#history?.value) return
    this.#history ??= new History(text)
    this.#history.reset(text)
    this.#read()
  }

  get isDragging() {
    return this.#drag !== null
  }

  get handles() {
    return this.settings && !this.locked ? curves.handles(this.settings) : []
  }

  /** Why there is no curve, as a text for the user, or ''. */
  get problem() {
    try {
      curves.makeCurve(this.settings)
      return ''
    } catch (error) {
      return error.message
    }
  }

  /** {percent, weight} of each of the sampler's steps. */
  get stepPoints() {
    if (this.problem) return []
    const curve = curves.makeCurve(this.settings)
    const timesteps = this.#timesteps ?? curves.stepTimesteps(this.steps)
    return timesteps.map((timestep) => ({ percent: curves.percentOf(timestep), weight: curve(timestep) }))
  }

  /** {percent, weight} along the curve, close enough to draw it. */
  get line() {
    if (this.problem) return []
    const curve = curves.makeCurve(this.settings)
    const count = Math.max(50, Math.round(this.stage.width))
    const at = (percent) => ({ percent, weight: curve(curves.timestepOf(percent)) })
    const corners = this.settings.kind === 'keyframes' ? curves.handles(this.settings).map(({ percent }) => percent) : []
    const percents = [...Array.from({ length: count + 1 }, (_, i) => i / count), ...corners]
    return percents.sort((a, b) => a - b).map(at)
  }

  get #mayAdd() {
    return this.settings?.kind === 'keyframes' && !this.locked
  }

  get box() {
    // While a handle is dragged the scale is fixed, or the handle would run away from the pointer.
    return this.#drag?.box ?? scale.plotBox(this.stage, Math.max(0, ...this.line.map(({ weight }) => weight)))
  }

  setStage(width, height) {
    this.stage = { width, height }
    this.#listener.render()
  }

  setSteps(count) {
    this.steps = Math.min(curves.MAX_STEPS, Math.max(1, Math.round(count) || 1))
    this.#listener.render()
  }

  /** The timesteps of a sampler's steps, [] if a run will tell them, null for evenly spaced ones. */
  get timesteps() {
    return this.#timesteps
  }

  set timesteps(timesteps) {
    if (JSON.stringify(timesteps) === JSON.stringify(this.#timesteps)) return
    this.#timesteps = timesteps
    this.hoverStep = -1
    this.#listener.render()
  }

  // --- pointers: {id, x, y, button, type} --------------------------------------------------------------------------

  down(event) {
    if (this.#drag || !this.settings) return
    const index = scale.hit(this.handles, event, this.box, RADIUS[event.type] ?? RADIUS.mouse)
    if (event.button === 2) {
      this.select(index)
      if (index >= 0) this.removeSelected()
      return
    }
    const box = this.box
    if (index >= 0) {
      this.select(index)
      this.#drag = { id: event.id, index, from: this.settings, box }
    } else this.#addAt(scale.fromStage(event, box), { id: event.id, box })
  }

  #addAt({ percent, weight }, drag) {
    this.select(-1)
    if (!this.#mayAdd || percent < -0.05 || percent > 1.05) return
    const added = curves.addKeyframe(this.settings, percent, Math.min(weight, drag.box.top))
    if (!added) return
    this.selection = added.index
    this.#drag = { ...drag, index: added.index, from: added.settings }
    this.#setDraft(added.settings)
  }

  move(event) {
    if (!this.#drag) return this.#hover(event)
    if (this.#drag.id !== event.id) return
    const { index, from, box } = this.#drag
    const { percent, weight } = scale.fromStage(event, box)
    this.#setDraft(curves.moveHandle(from, index, percent, Math.min(weight, box.top)))
  }

  up(event) {
    if (this.#drag?.id !== event.id) return
    const next = this.#draft
    this.#drag = null
    this.#draft = null
    if (next) this.#commit(next)
    else this.#listener.render()
  }

  /** End a drag without a change. */
  cancel() {
    if (!this.#drag) return false
    this.#drag = null
    this.#setDraft(null)
    if (this.selection >= this.handles.length) this.selection = -1
    return true
  }

  leave() {
    if (this.hoverStep < 0) return
    this.hoverStep = -1
    this.#listener.render()
  }

  #hover(event) {
    const { percent } = scale.fromStage(event, this.box)
    const away = this.stepPoints.map((point) => Math.abs(point.percent - percent))
    const step = percent >= -0.02 && percent <= 1.02 ? away.indexOf(Math.min(...away)) : -1
    if (step === this.hoverStep) return
    this.hoverStep = step
    this.#listener.render()
  }

  #setDraft(settings) {
    this.#draft = settings
    this.#listener.render()
  }

  // --- commands ----------------------------------------------------------------------------------------------------

  select(index) {
    this.#history?.seal()
    this.selection = index
    this.#saySelected()
    this.#listener.render()
  }

  removeSelected() {
    this.cancel()
    if (this.settings?.kind !== 'keyframes' || this.selection < 0) return
    if (this.handles.length === 1) return this.#listener.say(t('The only keyframe cannot be removed.'))
    const next = curves.removeKeyframe(this.settings, this.selection)
    this.selection = Math.min(this.selection, this.handles.length - 2)
    this.#commit(next)
  }

  /** The keyboard's click: a keyframe in the widest gap after the selected one. */
  addInGap() {
    this.cancel()
    if (!this.#mayAdd) return
    const places = [0, ...this.handles.map(({ percent }) => percent), 1]
    const gaps = places.slice(1).map((place, i) => ({ middle: (place + places[i]) / 2, width: place - places[i] }))
    const { middle } = gaps.reduce((best, gap) => (gap.width > best.width ? gap : best))
    const weight = this.problem ? 1 : curves.makeCurve(this.settings)(curves.timestepOf(middle))
    const added = curves.addKeyframe(this.settings, middle, weight)
    if (!added) return
    this.selection = added.index
    this.#commit(added.settings)
  }

  undo() {
    return this.#travel('undo')
  }

  redo() {
    return this.#travel('redo')
  }

  #travel(direction) {
    this.cancel()
    if (!this.#history?.[direction]()) return
    this.#read()
    this.#listener.change(this.#settings)
    this.#listener.say(direction === 'undo' ? t('Undone.') : t('Redone.'))
  }

  #commit(settings, merge = null) {
    this.#settings = settings
    if (this.#history.push(JSON.stringify(settings), merge)) this.#listener.change(settings)
    this.#saySelected()
    this.#listener.render()
  }

  #read() {
    this.#drag = null
    this.#draft = null
    this.#settings = JSON.parse(this.#history.value)
    if (this.selection >= this.handles.length) this.selection = -1
    this.#listener.render()
  }

  // --- keys --------------------------------------------------------------------------------------------------------

  /** event: {key, ctrl, shift, alt}. Returns whether the key was for the editor. */
  key({ key, ctrl, shift, alt }) {
    const name = key.length === 1 ? key.toLowerCase() : key
    if (alt) return false
    if (ctrl) {
      if (name === 'z') shift ? this.redo() : this.undo()
      else if (name === 'y' && !shift) this.redo()
      else return false
      return true
    }
    if (name in ARROWS) return this.#arrow(ARROWS[name], shift ? 10 : 1)
    if (name === 'Tab') return this.#tab(shift ? -1 : 1)
    if (name === 'Escape') {
      const used = this.cancel() || this.selection >= 0
      this.select(-1)
      return used
    }
    if (name === 'Delete' || name === 'Backspace') this.removeSelected() // also with nothing selected: not the node
    else if (name === 'Enter') this.addInGap()
    else return false
    return true
  }

  #arrow([dx, dy], times) {
    const handle = this.handles[this.selection]
    if (this.#drag || !handle) return true
    const percent = handle.percent + dx * STEP.percent * times
    const weight = Math.min(curves.MAX_WEIGHT, Math.max(0, handle.weight + dy * STEP.weight * times))
    this.#commit(curves.moveHandle(this.settings, this.selection, percent, weight), `nudge ${this.selection}`)
    return true
  }

  #tab(step) {
    this.cancel()
    const next = this.selection < 0 && step < 0 ? this.handles.length - 1 : this.selection + step
    this.select(next >= 0 && next < this.handles.length ? next : -1)
    return this.selection >= 0 // past the last handle, Tab leads to the number of steps
  }

  #saySelected() {
    const handle = this.handles[this.selection]
    if (handle) this.#listener.say(describe(handle))
  }
}

/** A handle in words. */
export function describe({ name, percent, weight }) {
  const values = { name: nameOf(name), percent: Math.round(percent * 100), weight: weight.toFixed(2) }
  return t('{name}: {percent} %, weight {weight}', values)
}

function nameOf(name) {
  if (name === 'start') return t('Start')
  if (name === 'end') return t('End')
  if (name === 'value') return t('Value')
  return t('Keyframe {number}', { number: name.split(' ')[1] })
}
