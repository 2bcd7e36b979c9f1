// Draws a stage at most once per frame, and only when something changed.

import { backingSize } from './stage.js'

export class FrameLoop {
  #stage
  #canvas
  #resize
  #draw
  #size = { width: 0, height: 0 }
  #frame = 0
  #observer = null // while it runs

  /** resize(width, height): the stage has this size in CSS pixels from now on. draw(): draw everything. */
  constructor(stage, canvas, { resize, draw }) {
    this.#stage = stage
    this.#canvas = canvas
    this.#resize = resize
    this.#draw = draw
  }

  start() {
    if (this.#observer) return
    this.#observer = new ResizeObserver(() => this.measure())
    this.#observer.observe(this.#stage)
    this.measure()
    this.request()
  }

  stop() {
    this.#observer?.disconnect()
    this.#observer = null
    cancelAnimationFrame(this.#frame)
    this.#frame = 0
  }

  /** Draw in the next frame. */
  request() {
    if (!this.#observer || this.#frame) return
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0
      this.#draw()
    })
  }

  /** Notice another size, or another zoom of the graph, of which no event tells. */
  measure() {
    const { clientWidth: width, clientHeight: height } = this.#stage
    if (width !== this.#size.width || height !== this.#size.height) {
      this.#size = { width, height }
      this.#resize(width, height)
      this.request()
    } else if (backingSize(this.#canvas)[0] !== this.#canvas.width) this.request()
  }
}
