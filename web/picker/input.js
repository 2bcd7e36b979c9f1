// What the user does in the widget: passes the DOM's events to the Editor, and to the graph through hooks, from
// attach() to detach().

import { listener, swallow } from '../common/dom.js'
import { EventCapture } from '../common/event_capture.js'
import { toStage } from '../common/stage.js'
import { isTab, tabAround } from '../common/tab_focus.js'
import { wheelFactor } from './geometry.js'

export class PickerInput {
  canChoose = false // whether a click in the empty stage chooses a picture
  #elements
  #editor
  #hooks
  #capture
  #abort = null
  #choosing = null // the pointer of a click in the empty stage
  #isSpaceHeld = false

  /**
   * elements: of buildElements. hooks: {select(), leave(), passWheel(event), dragOver(event), drop(event),
   * pasteFiles(files), choosePicture(), runMasks(), press()}, all optional; press() at the start of a gesture.
   */
  constructor(elements, editor, hooks) {
    this.#elements = elements
    this.#editor = editor
    this.#hooks = hooks
    this.#capture = new EventCapture(elements.canvas, {
      pointer: (event) => this.#onPointer(event),
      wheel: (event) => this.#isOwnWheel(event) && this.#onWheel(event)
    })
  }

  attach() {
    if (this.#abort) return
    this.#abort = new AbortController()
    const { root, canvas, keys } = this.#elements
    const on = listener(this.#abort.signal)
    on(canvas, 'pointerdown pointermove pointerup pointercancel lostpointercapture', (e) => this.#onPointer(e))
    on(canvas, 'pointerenter', () => this.#capture.start())
    on(canvas, 'pointerleave', (e) => this.#onLeave(e))
    on(canvas, 'dblclick', (e) => this.#onDoubleClick(e))
    on(root, 'mousedown', (e) => e.preventDefault()) // the focus stays; no autoscroll
    on(root, 'pointerdown', (e) => this.#onPress(e), { capture: true })
    on(canvas, 'contextmenu', swallow)
    on(keys, 'blur', () => this.#letGo())
    on(keys, 'beforeinput', (e) => e.preventDefault())
    on(root, 'wheel', (e) => this.#onWheel(e), { passive: false })
    on(root, 'keydown keyup', (e) => this.#onKey(e))
    on(root, 'paste', (e) => this.#onPaste(e))
    on(root, 'dragover', (e) => this.#hooks.dragOver?.(e) && swallow(e))
    on(root, 'drop', (e) => this.#hooks.drop?.(e) && swallow(e))
    on(root, 'click', (e) => this.#onButton(e))
    on(root, 'pointerdown mousedown', (e) => e.target.closest('button') && e.stopPropagation()) // moves no node
  }

  detach() {
    this.#abort?.abort()
    this.#abort = null
    this.#capture.stop()
  }

  /** The cursor says what a press would do. */
  showCursor() {
    const { gestures, picture, hover } = this.#editor
    const panning = this.#isSpaceHeld ? (gestures.isBusy ? 'grabbing' : 'grab') : null
    this.#elements.canvas.dataset.cursor =
      panning ?? (this.canChoose ? 'pointer' : !picture ? 'default' : hover ? cursorOf(hover) : 'cross')
  }

  #onButton(event) {
    const command = event.target.closest('button')?.dataset.command
    const editor = this.#editor
    const commands = {
      take: () => editor.takeSeed(),
      addSubject: () => editor.addSubject(),
      removeSubject: () => editor.removeSubject(),
      boxes: () => editor.setTool(editor.tool.kind === 'boxes' ? 'points' : 'boxes'),
      clearBoxes: () => editor.clear('boxes'),
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
    const tab = this.#elements.tabs.indexOf(event.target.closest('button'))
    if (tab >= 0) editor.goToSubject(tab)
    commands[command]?.()
    if (event.detail > 0) this.#focusStage() // pressed by pointer: keys go to the stage
  }

  /** Any press in the editor selects its node and brings the keys to the stage. */
  #onPress(event) {
    this.#hooks.select?.()
    if (!event.target.closest('button')) this.#focusStage()
  }

  #focusStage() {
    this.#elements.keys.focus({ preventScroll: true })
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
      pan: this.#isSpaceHeld,
      type: event.pointerType,
      time: event.timeStamp
    }
    event.stopPropagation()
    if (event.type === 'pointerdown') {
      if (event.button > 2) return
      this.#elements.canvas.setPointerCapture(event.pointerId)
      this.#hooks.press?.()
      this.#choosing = this.canChoose && event.button === 0 ? event.pointerId : null
      gestures.down(plain)
    } else if (event.type === 'pointermove') gestures.move(plain)
    else if (event.type === 'pointerup') {
      if (this.#choosing === event.pointerId && this.canChoose) this.#hooks.choosePicture?.()
      gestures.up(plain)
    } else gestures.cancel(plain)
    this.showCursor()
  }

  #onLeave(event) {
    this.#capture.leave(event)
    this.#editor.gestures.leave()
  }

  #onDoubleClick(event) {
    event.stopPropagation()
    this.#editor.gestures.doubleClick({ ...this.#position(event), time: event.timeStamp })
  }

  #isOwnWheel(event) {
    const { canvas, keys } = this.#elements
    const focused = document.activeElement === keys
    return event.target === canvas && this.#editor.picture && (focused || event.ctrlKey || event.metaKey)
  }

  #onWheel(event) {
    if (!this.#isOwnWheel(event)) return this.#hooks.passWheel?.(event)
    swallow(event)
    this.#editor.zoom(wheelFactor(event.deltaY, event.deltaMode), this.#position(event))
  }

  #onKey(event) {
    const { root, keys } = this.#elements
    if (event.key === ' ' && event.target === keys) {
      this.#setSpace(event.type === 'keydown')
      return swallow(event)
    }
    if (event.key.toLowerCase() === 'b' && event.target === keys && !event.ctrlKey && !event.metaKey && !event.altKey) {
      this.#editor.holdBoxes(event.type === 'keydown')
      this.showCursor()
      return swallow(event)
    }
    if (event.type === 'keyup') return
    const plain = { key: event.key, ctrl: event.ctrlKey || event.metaKey, shift: event.shiftKey, alt: event.altKey }
    const onStage = event.target === keys
    if (onStage && this.#editor.key(plain)) return swallow(event)
    if (isTab(event)) return tabAround(root, event)
    if (event.key === 'Escape') return this.#stepOut(event, onStage)
    // On a button, only the keys that would otherwise delete the node are the editor's.
    if (!onStage && ['Delete', 'Backspace'].includes(event.key) && this.#editor.key(plain)) swallow(event)
  }

  /** From a button to the stage, from the stage to the graph. */
  #stepOut(event, onStage) {
    swallow(event)
    if (!onStage) return this.#focusStage()
    this.#elements.keys.blur()
    this.#hooks.leave?.()
  }

  /** The focus went, and with it the keys that were held. */
  #letGo() {
    this.#editor.tool.letGo()
    this.#setSpace(false)
  }

  #setSpace(isHeld) {
    this.#isSpaceHeld = isHeld
    this.showCursor()
  }

  #onPaste(event) {
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith('image/'))
    const text = event.clipboardData?.getData('text/plain') ?? ''
    if (files.length ? this.#hooks.pasteFiles?.(files) : this.#editor.paste(text)) swallow(event)
  }

  #position(event) {
    const { canvas } = this.#elements
    return toStage(event.clientX, event.clientY, canvas.getBoundingClientRect(), this.#editor.stage)
  }
}

/** Of what a press would take: a point or a box, or one of the box's edges or corners. */
function cursorOf({ part }) {
  if (!part || (!part.x && !part.y)) return 'move'
  if (!part.y) return 'ew-resize'
  if (!part.x) return 'ns-resize'
  return part.x === part.y ? 'nwse-resize' : 'nesw-resize'
}
