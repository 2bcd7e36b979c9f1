// The widget's DOM: a bar of buttons, the stage, a line of status. It hands events to the Editor and paints what the
// Editor says. It knows nothing of ComfyUI; listeners live from attach() to detach().

import { draw } from './draw.js'
import { Editor } from './editor.js'
import * as geometry from './geometry.js'
import { buildParts } from './parts.js'
import { count, get } from './points.js'

const REDUCED_SIDE = 2048 // pixels; larger pictures are drawn from a copy of this size while zoomed out
const MAX_BACKING = 4096 // pixels of the canvas's store, however far the graph is zoomed in
const CLAIMED = ['wheel', 'pointerdown', 'pointermove', 'pointerup', 'touchstart', 'touchmove', 'touchend', 'touchcancel']

export class PickerView {
  #hooks
  #editor
  #parts = buildParts()
  #image = null // {full, reduced}
  #emptyText = ''
  #notice = ''
  #warning = ''
  #message = ''
  #frame = 0
  #space = false
  #abort = null
  #overAbort = null
  #loading = 0

  /** hooks: {change(text), passWheel(event), dragOver(event), drop(event), pasteFiles(files)}, all optional. */
  constructor(hooks = {}) {
    this.#hooks = hooks
    this.#editor = new Editor({
      render: () => this.#schedule(),
      change: (text) => this.#hooks.change?.(text),
      say: (message) => this.#say(message)
    })
  }

  get element() {
    return this.#parts.root
  }

  get #canvas() {
    return this.#parts.canvas
  }

  get #keys() {
    return this.#parts.keys
  }

  get value() {
    return this.#editor.value
  }

  set value(text) {
    this.#editor.value = text
  }

  get pointCount() {
    return count(this.#editor.settled)
  }

  /** The shown picture's true size {width, height}, or null. */
  get picture() {
    return this.#editor.picture
  }

  // --- life --------------------------------------------------------------------------------------------------------

  attach() {
    if (this.#abort) return
    this.#abort = new AbortController()
    const options = { signal: this.#abort.signal }
    const on = (target, names, handler, more) => {
      for (const name of names.split(' ')) target.addEventListener(name, handler, { ...options, ...more })
    }
    on(this.#canvas, 'pointerdown pointermove pointerup pointercancel lostpointercapture', (e) => this.#onPointer(e))
    on(this.#canvas, 'pointerenter', () => this.#watchWindow())
    on(this.#canvas, 'pointerleave', (e) => this.#onLeave(e))
    on(this.#canvas, 'dblclick', (e) => this.#onDoubleClick(e))
    on(this.#canvas, 'mousedown', (e) => e.preventDefault()) // the focus stays; no autoscroll
    on(this.#canvas, 'contextmenu', swallow)
    on(this.#keys, 'blur', () => this.#setSpace(false))
    on(this.#keys, 'beforeinput', (e) => e.preventDefault())
    on(this.element, 'wheel', (e) => this.#onWheel(e), { passive: false })
    on(this.element, 'keydown keyup', (e) => this.#onKey(e))
    on(this.element, 'paste', (e) => this.#onPaste(e))
    on(this.element, 'dragover', (e) => this.#hooks.dragOver?.(e) && swallow(e))
    on(this.element, 'drop', (e) => this.#hooks.drop?.(e) && swallow(e))
    on(this.#parts.bar, 'click', (e) => this.#onButton(e))
    on(this.#parts.bar, 'pointerdown mousedown', (e) => this.#onBarPress(e))
    const observer = new ResizeObserver(() => this.refresh())
    observer.observe(this.#parts.stage)
    this.#abort.signal.addEventListener('abort', () => observer.disconnect())
    this.refresh()
  }

  detach() {
    this.#abort?.abort()
    this.#abort = null
    this.#unwatchWindow()
    cancelAnimationFrame(this.#frame)
    this.#frame = 0
  }

  /** Measure and paint again; call it when the graph's zoom may have changed. */
  refresh() {
    const { clientWidth, clientHeight } = this.#parts.stage
    const { width, height } = this.#editor.stage
    if (clientWidth !== width || clientHeight !== height) this.#editor.setStage(clientWidth, clientHeight)
    else if (this.#backingSize()[0] !== this.#canvas.width) this.#schedule()
  }

  // --- picture -----------------------------------------------------------------------------------------------------

  /**
   * Show the picture at a URL. `size` is its true size if the file is a reduced preview. Resolves to whether it loaded.
   * While it loads, and if it fails, `emptyText` stands in the empty stage.
   */
  async showPicture(url, { size = null, emptyText = '', notice = '' } = {}) {
    const ticket = ++this.#loading
    const image = new Image()
    image.src = url
    try {
      await image.decode()
    } catch {
      if (ticket === this.#loading) this.showNothing(emptyText)
      return false
    }
    if (ticket !== this.#loading) return false
    this.#image = { full: image, reduced: reduce(image) }
    this.#notice = notice
    this.#emptyText = ''
    this.#editor.setPicture(size ?? { width: image.naturalWidth, height: image.naturalHeight })
    return true
  }

  showNothing(emptyText) {
    this.#loading++
    this.#image = null
    this.#notice = ''
    this.#emptyText = emptyText
    this.#editor.setPicture(null)
  }

  /** A warning above the status; '' takes it away. */
  warn(text) {
    this.#warning = text
    this.#schedule()
  }

  // --- events ------------------------------------------------------------------------------------------------------

  #onButton(event) {
    const command = event.target.closest('button')?.dataset.command
    const editor = this.#editor
    const commands = {
      positive: () => editor.setSign('positive'),
      negative: () => editor.setSign('negative'),
      undo: () => editor.undo(),
      redo: () => editor.redo(),
      remove: () => editor.removeSelected(),
      grid: () => editor.setGrid(!editor.grid),
      fit: () => editor.fit(),
      clearPositive: () => editor.clear('positive'),
      clearNegative: () => editor.clear('negative')
    }
    commands[command]?.()
    if (event.detail > 0) this.#keys.focus({ preventScroll: true }) // pressed by pointer: keys go to the stage
  }

  #onBarPress(event) {
    if (event.target.closest('button')) event.stopPropagation() // else the node would be dragged
    if (event.type === 'mousedown') event.preventDefault() // the stage keeps the focus
  }

  #onPointer(event) {
    const { gestures } = this.#editor
    const { x, y } = this.#position(event)
    const plain = {
      id: event.pointerId,
      x,
      y,
      button: event.button,
      alt: event.altKey,
      pan: this.#space,
      type: event.pointerType,
      time: event.timeStamp
    }
    event.stopPropagation()
    if (event.type === 'pointerdown') {
      if (event.button > 2) return
      this.#keys.focus({ preventScroll: true })
      this.#canvas.setPointerCapture(event.pointerId)
      this.#message = ''
      gestures.down(plain)
    } else if (event.type === 'pointermove') gestures.move(plain)
    else if (event.type === 'pointerup') gestures.up(plain)
    else gestures.cancel(plain)
    this.#showCursor()
  }

  #onLeave(event) {
    if (event.pointerType !== 'touch') this.#unwatchWindow() // a touch ends after its pointer has left
    this.#editor.gestures.leave()
  }

  #onDoubleClick(event) {
    event.stopPropagation()
    this.#editor.gestures.doubleClick({ ...this.#position(event), time: event.timeStamp })
  }

  /**
   * The graph takes touches, and in Nodes 2.0 middle drags and Ctrl+wheel, before they reach a widget. While the
   * pointer is over the picture they mean the picture, so they are caught at the window.
   */
  #watchWindow() {
    if (this.#overAbort) return
    this.#overAbort = new AbortController()
    const options = { capture: true, passive: false, signal: this.#overAbort.signal }
    for (const name of CLAIMED) {
      window.addEventListener(name, (event) => this.#claim(event), options)
    }
  }

  #unwatchWindow() {
    this.#overAbort?.abort()
    this.#overAbort = null
  }

  #claim(event) {
    if (event.target !== this.#canvas) return
    if (event.type.startsWith('touch')) return this.#claimTouch(event)
    if (event.type === 'wheel') return this.#isOwnWheel(event) && this.#onWheel(event)
    if (event.button === 1 || event.buttons & 4) this.#onPointer(event)
  }

  /** All of a touch or nothing, else the graph miscounts fingers. It comes as pointer events too. */
  #claimTouch(event) {
    event.stopPropagation()
    if (event.touches.length === 0) this.#unwatchWindow()
  }

  #isOwnWheel(event) {
    const focused = document.activeElement === this.#keys
    return event.target === this.#canvas && this.#editor.picture && (focused || event.ctrlKey || event.metaKey)
  }

  #onWheel(event) {
    if (!this.#isOwnWheel(event)) return this.#hooks.passWheel?.(event)
    swallow(event)
    this.#editor.zoom(geometry.wheelFactor(event.deltaY, event.deltaMode), this.#position(event))
  }

  #onKey(event) {
    if (event.key === ' ' && event.target === this.#keys) {
      this.#setSpace(event.type === 'keydown')
      return swallow(event)
    }
    if (event.type === 'keyup') return
    const plain = { key: event.key, ctrl: event.ctrlKey || event.metaKey, shift: event.shiftKey, alt: event.altKey }
    // On a button, only the keys that would else delete the node are the editor's.
    if (event.target !== this.#keys && !['Delete', 'Backspace'].includes(event.key)) return
    if (this.#editor.key(plain)) swallow(event)
  }

  #setSpace(held) {
    this.#space = held
    this.#showCursor()
  }

  #onPaste(event) {
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith('image/'))
    const text = event.clipboardData?.getData('text/plain') ?? ''
    if (files.length ? this.#hooks.pasteFiles?.(files) : this.#editor.paste(text)) swallow(event)
  }

  #position(event) {
    return geometry.toStage(event.clientX, event.clientY, this.#canvas.getBoundingClientRect(), this.#editor.stage)
  }

  // --- painting ----------------------------------------------------------------------------------------------------

  #schedule() {
    if (!this.#abort || this.#frame) return
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0
      this.#paint()
    })
  }

  #backingSize() {
    const { width, height } = this.#canvas.getBoundingClientRect()
    const scale = Math.min(window.devicePixelRatio || 1, MAX_BACKING / Math.max(width, height, 1))
    return [Math.round(width * scale), Math.round(height * scale)]
  }

  #paint() {
    const editor = this.#editor
    const [width, height] = this.#backingSize()
    if (width && height && editor.stage.width) {
      if (this.#canvas.width !== width) this.#canvas.width = width
      if (this.#canvas.height !== height) this.#canvas.height = height
      const context = this.#canvas.getContext('2d')
      const pixelRatio = width / editor.stage.width
      context.setTransform(pixelRatio, 0, 0, height / editor.stage.height, 0, 0)
      draw(context, { editor, image: this.#image, rect: this.#image && editor.rect, pixelRatio })
    }
    this.#paintBar()
    this.#paintTexts()
    this.#showCursor()
  }

  #paintBar() {
    const editor = this.#editor
    const { buttons } = this.#parts
    const press = (name, on) => buttons[name].setAttribute('aria-pressed', String(on))
    press('positive', editor.sign === 'positive')
    press('negative', editor.sign === 'negative')
    press('grid', editor.grid)
    buttons.undo.disabled = !editor.canUndo
    buttons.redo.disabled = !editor.canRedo
    buttons.remove.disabled = !editor.selection
    buttons.fit.disabled = !editor.isZoomed
    buttons.clearPositive.disabled = !editor.points.positive.length
    buttons.clearNegative.disabled = !editor.points.negative.length
  }

  #paintTexts() {
    const editor = this.#editor
    const { picture } = editor
    const write = (part, text) => {
      if (this.#parts[part].textContent !== text) this.#parts[part].textContent = text
    }
    const hint = this.#image
      ? count(editor.points) || editor.gestures.isBusy
        ? ''
        : 'Click the subject. Right-click what to leave out.'
      : this.#emptyText
    write('hint', hint)
    this.#parts.hint.classList.toggle('p3s-alone', !this.#image)
    write('warning', editor.problem ? `${editor.problem} Clicking starts anew.` : this.#warning)
    const shown = get(editor.points, editor.hover ?? editor.selection)
    const { sign, index } = editor.hover ?? editor.selection ?? {}
    const at = shown && picture ? geometry.toPixel(shown, picture) : null
    const mark = sign === 'positive' ? '+' : '−'
    const counts = `+ ${editor.points.positive.length}   − ${editor.points.negative.length}`
    write('left', at ? `${mark}${index + 1} at ${at[0]}, ${at[1]}` : this.#message || this.#notice || counts)
    const zoom = editor.isZoomed ? `${Math.round(editor.view.zoom * 100)} % · ` : ''
    write('right', picture ? `${zoom}${picture.width} × ${picture.height}` : '')
  }

  #showCursor() {
    const editor = this.#editor
    const panning = this.#space ? (editor.gestures.isBusy ? 'grabbing' : 'grab') : null
    this.#canvas.dataset.cursor = panning ?? (!editor.picture ? 'default' : editor.hover ? 'move' : 'cross')
  }

  #say(message) {
    this.#message = message
    this.#parts.live.textContent = message
    this.#schedule()
  }
}

function swallow(event) {
  event.preventDefault()
  event.stopPropagation()
}

/** A smaller copy of a large picture, so that a drag repaints quickly; small pictures are their own copy. */
function reduce(image) {
  const scale = REDUCED_SIDE / Math.max(image.naturalWidth, image.naturalHeight)
  if (scale >= 1) return image
  const canvas = document.createElement('canvas')
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale))
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale))
  const context = canvas.getContext('2d')
  context.imageSmoothingQuality = 'high'
  context.drawImage(image, 0, 0, canvas.width, canvas.height)
  return canvas
}
