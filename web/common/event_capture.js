// The graph takes touches, and in Nodes 2.0 middle drags and Ctrl+wheel, before they reach a widget. While the pointer
// is over a widget's canvas they mean the canvas, so they are captured at the window.

const NAMES = ['wheel', 'pointerdown', 'pointermove', 'pointerup', 'touchstart', 'touchmove', 'touchend', 'touchcancel']

export class EventCapture {
  #target
  #handlers
  #abort = null

  /** handlers: {pointer(event) for the middle button, wheel(event)}; what they leave alone reaches the graph. */
  constructor(target, handlers) {
    this.#target = target
    this.#handlers = handlers
  }

  /** Call it when a pointer enters the target. */
  start() {
    if (this.#abort) return
    this.#abort = new AbortController()
    const options = { capture: true, passive: false, signal: this.#abort.signal }
    for (const name of NAMES) window.addEventListener(name, (event) => this.#onEvent(event), options)
  }

  /** Call it when a pointer leaves the target: a touch is still captured until it ends. */
  leave(event) {
    if (event.pointerType !== 'touch') this.stop()
  }

  stop() {
    this.#abort?.abort()
    this.#abort = null
  }

  #onEvent(event) {
    if (event.target !== this.#target) return
    if (event.type.startsWith('touch')) return this.#onTouch(event)
    if (event.type === 'wheel') return this.#handlers.wheel?.(event)
    if (event.button === 1 || event.buttons & 4) this.#handlers.pointer?.(event)
  }

  /** All of a touch or nothing, or the graph miscounts fingers. It comes as pointer events too. */
  #onTouch(event) {
    event.stopPropagation()
    if (event.touches.length === 0) this.stop()
  }
}
