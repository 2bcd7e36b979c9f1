// Which part of the picture the stage shows: zoom and pan. No DOM in here.

import * as geometry from './geometry.js'

export class Viewport {
  view = geometry.FIT
  picture = null // {width, height} in its own pixels
  stage = { width: 0, height: 0 }
  #render

  /** render(): called after every change. */
  constructor(render) {
    this.#render = render
  }

  /** Another picture, or none. */
  setPicture(picture) {
    this.picture = picture
    this.fit()
  }

  setStage(width, height) {
    this.stage = { width, height }
    if (this.picture) this.view = geometry.clampView(this.view, this.stage, this.picture)
    this.#render()
  }

  get rect() {
    return geometry.pictureRect(this.stage, this.picture, this.view)
  }

  get isZoomed() {
    return this.view.zoom > 1.001
  }

  fit() {
    this.view = geometry.FIT
    this.#render()
  }

  zoom(factor, at = { x: this.stage.width / 2, y: this.stage.height / 2 }) {
    if (!this.picture) return
    this.view = geometry.zoomAt(this.view, factor, at, this.stage, this.picture)
    this.#render()
  }

  /** The view that shows under `to` what `view` shows under `from`, zoomed by a factor: two fingers. */
  setView(view, factor, from, to) {
    const { stage, picture } = this
    const zoomed = geometry.zoomAt(view, factor, from, stage, picture)
    this.view = geometry.panBy(zoomed, to.x - from.x, to.y - from.y, stage, picture)
    this.#render()
  }

  pan(dx, dy) {
    if (!this.picture) return
    this.view = geometry.panBy(this.view, dx, dy, this.stage, this.picture)
    this.#render()
  }
}
