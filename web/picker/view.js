// The widget's DOM: a bar of buttons, the stage, a line of status. It hands events to the Editor and paints what the
// Editor says. It knows nothing of ComfyUI; listeners live from attach() to detach().

import { WindowClaims } from '../common/event_capture.js'
import { listener, swallow } from '../common/dom.js'
import { FrameLoop } from '../common/frame_loop.js'
import { stageContext, toStage } from '../common/stage.js'
import { isTab, tabAround } from '../common/tab_focus.js'
import { CachedLayer } from '../common/cached_layer.js'
import { draw } from './draw_stage.js'
import { Editor } from './editor.js'
import * as geometry from './geometry.js'
import { loadImage, sketchOf } from './image.js'
import { MaskClient } from './mask_client.js'
import { MaskOverlay } from './mask_overlay.js'
import { buildParts } from './elements.js'
import { count, toJson } from './points.js'
import { describeMasks, paintBar, paintTexts } from './status.js'

export class PickerView {
  #hooks
  #editor
  #parts = buildParts()
  #image = null // of loadImage
  #emptyText = ''
  #canChoose = false // whether a click in the empty stage chooses a picture
  #asking = null // the pointer of such a click
  #notice = ''
  #warning = ''
  #message = ''
  #frames
  #space = false
  #abort = null
  #claims
  #loading = 0
  #kept = new CachedLayer()
  #overlay = new MaskOverlay()
  #query
  #maskSource = null // {picture, settings}: what the server calls the picture, and how its points will be read
  #masks = { isWired: false, isRunning: false } // of the RNGR Mask that reads the points
  #told = '' // what was last said about the masks

  /**
   * hooks: {change(text), select(), leave(), passWheel(event), dragOver(event), drop(event), pasteFiles(files),
   * choosePicture(), askMasks(request), runMasks()}, all optional; askMasks as MaskClient takes it.
   */
  constructor(hooks = {}) {
    this.#hooks = hooks
    this.#claims = new WindowClaims(this.#canvas, {
      pointer: (event) => this.#onPointer(event),
      wheel: (event) => this.#isOwnWheel(event) && this.#onWheel(event)
    })
    this.#query = new MaskClient(hooks.askMasks, () => this.#frames.request())
    this.#editor = new Editor({
      render: () => this.#frames.request(),
      change: (text) => this.#hooks.change?.(text),
      say: (message) => this.#say(message)
    })
    this.#frames = new FrameLoop(this.#parts.stage, this.#canvas, {
      resize: (width, height) => this.#editor.setStage(width, height),
      draw: () => this.#paint()
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

  /** What the shown picture looks like, for looksOther; null if there is none. */
  get sketch() {
    return this.#image && (this.#image.sketch ??= sketchOf(this.#image))
  }

  // --- life --------------------------------------------------------------------------------------------------------

  attach() {
    if (this.#abort) return
    this.#abort = new AbortController()
    const on = listener(this.#abort.signal)
    on(this.#canvas, 'pointerdown pointermove pointerup pointercancel lostpointercapture', (e) => this.#onPointer(e))
    on(this.#canvas, 'pointerenter', () => this.#claims.watch())
    on(this.#canvas, 'pointerleave', (e) => this.#onLeave(e))
    on(this.#canvas, 'dblclick', (e) => this.#onDoubleClick(e))
    on(this.element, 'mousedown', (e) => e.preventDefault()) // the focus stays; no autoscroll
    on(this.element, 'pointerdown', (e) => this.#onPress(e), { capture: true })
    on(this.#canvas, 'contextmenu', swallow)
    on(this.#keys, 'blur', () => this.#setSpace(false))
    on(this.#keys, 'beforeinput', (e) => e.preventDefault())
    on(this.element, 'wheel', (e) => this.#onWheel(e), { passive: false })
    on(this.element, 'keydown keyup', (e) => this.#onKey(e))
    on(this.element, 'paste', (e) => this.#onPaste(e))
    on(this.element, 'dragover', (e) => this.#hooks.dragOver?.(e) && swallow(e))
    on(this.element, 'drop', (e) => this.#hooks.drop?.(e) && swallow(e))
    on(this.element, 'click', (e) => this.#onButton(e))
    on(this.element, 'pointerdown mousedown', (e) => e.target.closest('button') && e.stopPropagation()) // moves no node
    this.#frames.start()
  }

  detach() {
    this.#abort?.abort()
    this.#abort = null
    this.#claims.end()
    this.#query.want(null)
    this.#frames.stop()
  }

  /** Measure and paint again; call it when the graph's zoom may have changed. */
  refresh() {
    this.#frames.measure()
  }

  // --- picture -----------------------------------------------------------------------------------------------------

  /**
   * Show the picture at a URL. `size` is its true size if the file is a reduced preview. Resolves to whether it loaded.
   * While it loads, and if it fails, `emptyText` stands in the empty stage.
   */
  async showPicture(url, { size = null, emptyText = '', notice = '' } = {}) {
    const ticket = ++this.#loading
    const image = await loadImage(url).catch(() => null)
    if (ticket !== this.#loading) return false
    if (image === null) {
      this.showNothing(emptyText)
      return false
    }
    this.#image = image
    this.#notice = notice
    this.#emptyText = ''
    this.#canChoose = false
    this.#editor.setPicture(size ?? { width: image.full.naturalWidth, height: image.full.naturalHeight })
    return true
  }

  /** An empty stage with a text; `canChoose`: a click there asks for a picture. */
  showNothing(emptyText, canChoose = false) {
    this.#loading++
    this.#image = null
    this.#notice = ''
    this.#emptyText = emptyText
    this.#canChoose = canChoose
    this.#editor.setPicture(null)
  }

  /** A warning above the status; '' takes it away. */
  warn(text) {
    this.#warning = text
    this.#frames.request()
  }

  /** What to ask for the masks: {picture, settings}, or null where they cannot be known; `isWired`: RNGR Mask is there. */
  setMaskSource(source, isWired = false) {
    if (isWired === this.#masks.isWired && JSON.stringify(source) === JSON.stringify(this.#maskSource)) return
    this.#maskSource = source
    this.#masks.isWired = isWired
    this.#frames.request()
  }

  /** Whether RNGR Mask was told to run and has not come to an end. */
  setRunning(isRunning) {
    this.#masks.isRunning = isRunning
    this.#frames.request()
  }

  /** After a run the server may know more. */
  refreshMasks() {
    this.#query.refresh()
  }

  #wantMasks() {
    const { overlay, points, gestures } = this.#editor
    const shown = overlay !== 'none' && points.positive.length
    const wanted = (shown || this.#editor.grid) && this.#image && this.#maskSource // the answer also tells the grid
    this.#query.want(wanted ? { ...this.#maskSource, points: toJson(points) } : null)
    if (!shown) this.#told = ''
    if (!shown || !wanted || gestures.isBusy || !this.#query.isSettled) return
    const text = describeMasks(this.#query, this.#masks)
    if (text === this.#told) return
    this.#told = text
    this.#say(text)
    if (!this.#query.masks) this.#message = '' // it stands in the picture
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
      masks: () => editor.nextOverlay(),
      grid: () => editor.setGrid(!editor.grid),
      fit: () => editor.fit(),
      run: () => this.#hooks.runMasks?.(),
      clearPositive: () => editor.clear('positive'),
      clearNegative: () => editor.clear('negative')
    }
    commands[command]?.()
    if (event.detail > 0) this.#keys.focus({ preventScroll: true }) // pressed by pointer: keys go to the stage
  }

  /** Any press in the editor selects its node and brings the keys to the stage. */
  #onPress(event) {
    this.#hooks.select?.()
    if (!event.target.closest('button')) this.#keys.focus({ preventScroll: true })
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
      this.#canvas.setPointerCapture(event.pointerId)
      this.#message = ''
      this.#asking = this.#canChoose && event.button === 0 ? event.pointerId : null
      gestures.down(plain)
    } else if (event.type === 'pointermove') gestures.move(plain)
    else if (event.type === 'pointerup') {
      if (this.#asking === event.pointerId && this.#canChoose) this.#hooks.choosePicture?.()
      gestures.up(plain)
    } else gestures.cancel(plain)
    this.#showCursor()
  }

  #onLeave(event) {
    this.#claims.leave(event)
    this.#editor.gestures.leave()
  }

  #onDoubleClick(event) {
    event.stopPropagation()
    this.#editor.gestures.doubleClick({ ...this.#position(event), time: event.timeStamp })
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
    const onStage = event.target === this.#keys
    if (onStage && this.#editor.key(plain)) return swallow(event)
    if (isTab(event)) return tabAround(this.element, event)
    if (event.key === 'Escape') return this.#stepOut(event, onStage)
    // On a button, only the keys that would else delete the node are the editor's.
    if (!onStage && ['Delete', 'Backspace'].includes(event.key) && this.#editor.key(plain)) swallow(event)
  }

  /** From a button to the stage, from the stage to the graph. */
  #stepOut(event, onStage) {
    swallow(event)
    if (!onStage) return this.#keys.focus({ preventScroll: true })
    this.#keys.blur()
    this.#hooks.leave?.()
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
    return toStage(event.clientX, event.clientY, this.#canvas.getBoundingClientRect(), this.#editor.stage)
  }

  // --- painting ----------------------------------------------------------------------------------------------------

  #paint() {
    const editor = this.#editor
    this.#wantMasks()
    const context = stageContext(this.#canvas, editor.stage)
    if (context) {
      draw(context, {
        editor,
        image: this.#image,
        rect: this.#image && editor.rect,
        pixelRatio: this.#canvas.width / editor.stage.width,
        kept: this.#kept,
        patches: this.#query.grid,
        overlay: (context, scene) => this.#overlay.draw(context, scene, this.#query.masks)
      })
    }
    paintBar(this.#parts, editor)
    paintTexts(this.#parts, editor, {
      hasPicture: this.#image !== null,
      emptyText: this.#emptyText,
      warning: this.#warning,
      message: this.#message || this.#notice,
      query: this.#query,
      masks: this.#masks
    })
    this.#showCursor()
  }

  #showCursor() {
    const editor = this.#editor
    const panning = this.#space ? (editor.gestures.isBusy ? 'grabbing' : 'grab') : null
    this.#canvas.dataset.cursor = panning ?? (this.#canChoose ? 'pointer' : !editor.picture ? 'default' : editor.hover ? 'move' : 'cross')
  }

  #say(message) {
    this.#message = message
    this.#parts.live.textContent = message
    this.#frames.request()
  }
}
