// The curve's widget: the stage and a line with the number of steps. It knows nothing of ComfyUI, and works from
// attach() to detach().

import { add, addKeys, listener, swallow } from '../common/dom.js'
import { EventCapture } from '../common/event_capture.js'
import { FrameLoop } from '../common/frame_loop.js'
import { stageContext, toStage } from '../common/stage.js'
import { isTab, tabAround } from '../common/tab_focus.js'
import { t } from '../common/translate.js'
import { MAX_STEPS } from './curve.js'
import { drawPlot } from './draw_plot.js'
import { describe, ScheduleEditor } from './editor.js'
import { CSS } from './style.js'

const help = () =>
  [
    t('The weight of the subject during denoising, from noise on the left to the image on the right.'),
    t('Tab selects a handle; the arrow keys move it, ten times as far with Shift.'),
    t('If the curve has keyframes, Enter adds one and Delete removes the selected one. Control Z undoes.'),
    t('Escape deselects; pressed again, it leaves the editor.')
  ].join(' ')

export class CurveView {
  #hooks
  #editor
  #capture
  #abort = null
  #frames
  #message = ''

  /** hooks: {change(settings), setSteps(count), select(), leave(), passWheel(event)}, all optional. */
  constructor(hooks = {}) {
    this.#hooks = hooks
    this.element = document.createElement('div')
    this.element.className = 'p3s-curve'
    this.element.title = '' // else the input's tooltip would pop up over the curve
    add(this.element, 'style', '', CSS)
    this.stage = add(this.element, 'div', 'p3s-plot')
    this.canvas = add(this.stage, 'canvas', '')
    this.hint = add(this.stage, 'div', 'p3s-plot-hint')
    this.keys = addKeys(this.stage, t('Weight schedule'), help())
    const row = add(this.element, 'div', 'p3s-curve-row')
    const label = add(row, 'label', '', t('steps'))
    this.steps = add(label, 'input', '')
    Object.assign(this.steps, { type: 'number', min: 1, max: MAX_STEPS })
    this.status = add(row, 'span', 'p3s-curve-status')
    this.live = add(this.element, 'div', 'p3s-unseen')
    this.live.setAttribute('aria-live', 'polite')
    this.#capture = new EventCapture(this.canvas, {})
    this.#frames = new FrameLoop(this.stage, this.canvas, {
      resize: (width, height) => this.#editor.setStage(width, height),
      draw: () => this.#draw()
    })
    this.#editor = new ScheduleEditor({
      render: () => this.#frames.request(),
      change: (settings) => this.#hooks.change?.(settings),
      say: (message) => this.#say(message)
    })
    this.setSteps(this.#editor.steps)
    this.timesteps = null
  }

  /** {kind, alpha, beta, k, value, keyframes}, as the node has them. */
  get settings() {
    return this.#editor.settings
  }

  set settings(settings) {
    if (!this.#editor.isDragging) this.#editor.settings = settings
  }

  /** Whether the settings are shown only. */
  set locked(locked) {
    if (locked === this.#editor.locked) return
    this.#editor.locked = locked
    this.#frames.request()
  }

  setSteps(count) {
    this.#editor.setSteps(count)
    if (this.#editor.timesteps === null && document.activeElement !== this.steps) this.steps.value = String(this.#editor.steps)
  }

  /** The timesteps of a sampler's own steps; [] if only a run can tell them, null if the user says how many. */
  set timesteps(timesteps) {
    const editor = this.#editor
    editor.timesteps = timesteps
    this.steps.disabled = timesteps !== null
    const count = timesteps === null ? editor.steps : timesteps.length || ''
    if (document.activeElement !== this.steps) this.steps.value = String(count)
    this.steps.title = timesteps
      ? t('The steps of the linked sigmas, from the last run')
      : t('How many evenly spaced sampler steps to mark')
  }

  attach() {
    if (this.#abort) return
    this.#abort = new AbortController()
    const on = listener(this.#abort.signal)
    on(this.canvas, 'pointerdown pointermove pointerup pointercancel lostpointercapture', (e) => this.#onPointer(e))
    on(this.canvas, 'pointerenter', () => this.#capture.start())
    on(this.canvas, 'pointerleave', (e) => {
      this.#capture.leave(e)
      this.#editor.leave()
    })
    on(this.element, 'pointerdown', (e) => this.#onPress(e), { capture: true })
    on(this.element, 'mousedown', (e) => e.target !== this.steps && e.preventDefault()) // the focus stays
    on(this.canvas, 'contextmenu dblclick', swallow)
    on(this.keys, 'beforeinput', (e) => e.preventDefault())
    on(this.keys, 'keydown', (e) => this.#onKey(e))
    on(this.keys, 'focus blur', () => this.#frames.request())
    on(this.stage, 'wheel', (e) => this.#hooks.passWheel?.(e), { passive: false })
    on(this.steps, 'input', () => {
      this.#editor.setSteps(Number(this.steps.value))
      this.#hooks.setSteps?.(this.#editor.steps)
    })
    on(this.steps, 'blur', () => this.setSteps(this.#editor.steps))
    on(this.steps, 'keydown', (e) => isTab(e) && tabAround(this.element, e))
    on(this.steps, 'pointerdown mousedown keydown', (e) => e.stopPropagation()) // not the node's
    this.#frames.start()
  }

  detach() {
    this.#abort?.abort()
    this.#abort = null
    this.#capture.stop()
    this.#frames.stop()
  }

  /** Call it when the graph's zoom may have changed. */
  refresh() {
    this.#frames.measure()
  }

  #onPointer(event) {
    const plain = {
      id: event.pointerId,
      ...toStage(event.clientX, event.clientY, this.canvas.getBoundingClientRect(), this.#editor.stage),
      button: event.button,
      type: event.pointerType
    }
    if (event.type === 'pointerdown') {
      if (event.button === 1) return // the graph's
      this.canvas.setPointerCapture(event.pointerId)
      this.#editor.down(plain)
    } else if (event.type === 'pointermove') this.#editor.move(plain)
    else if (event.type === 'pointerup') this.#editor.up(plain)
    else this.#editor.cancel()
    event.stopPropagation()
  }

  /** Any press in the curve selects its node, and brings the keys to it but for those that are typed into a field. */
  #onPress(event) {
    this.#hooks.select?.()
    if (event.target !== this.steps) this.keys.focus({ preventScroll: true })
  }

  #onKey(event) {
    const plain = { key: event.key, ctrl: event.ctrlKey || event.metaKey, shift: event.shiftKey, alt: event.altKey }
    if (this.#editor.key(plain)) return swallow(event)
    if (isTab(event)) return tabAround(this.element, event)
    if (event.key !== 'Escape') return
    swallow(event)
    this.keys.blur()
    this.#hooks.leave?.()
  }

  #say(message) {
    this.#message = message
    this.live.textContent = message
    this.#frames.request()
  }

  #draw() {
    const editor = this.#editor
    if (!editor.settings) return
    const context = stageContext(this.canvas, editor.stage)
    if (context) drawPlot(context, editor)
    this.hint.textContent = editor.problem
    this.status.textContent = this.#statusText()
  }

  #statusText() {
    const editor = this.#editor
    const steps = editor.stepPoints
    if (!steps.length) return editor.problem ? '' : t('The steps are marked once the workflow has run')
    const hovered = steps[editor.hoverStep]
    if (editor.isDragging && editor.handles[editor.selection]) return describe(editor.handles[editor.selection])
    if (hovered) {
      const values = { step: editor.hoverStep + 1, steps: steps.length, weight: hovered.weight.toFixed(3) }
      return t('step {step} of {steps}: weight {weight}', values)
    }
    if (document.activeElement === this.keys && this.#message) return this.#message
    const ends = { first: steps[0].weight.toFixed(2), last: steps.at(-1).weight.toFixed(2) }
    return t('weight {first} at the first step, {last} at the last', ends)
  }
}
