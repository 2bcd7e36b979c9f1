// A drawing that is kept as pixels: frames in which it is unchanged only copy it.

export class CachedLayer {
  #canvas = document.createElement('canvas')
  #key = null

  /**
   * Draw onto a context of the same size as always: `paint(context)` is called, in stage pixels, only if `key` (a list
   * that JSON can hold, or objects that compare as themselves) is another than the last time.
   */
  draw(context, pixelRatio, key, paint) {
    const { width, height } = context.canvas
    const now = [...key, pixelRatio, width, height]
    if (!this.#key || now.some((part, i) => part !== this.#key[i])) {
      this.#key = now
      Object.assign(this.#canvas, { width, height }) // empties it
      const own = this.#canvas.getContext('2d')
      own.scale(pixelRatio, pixelRatio)
      paint(own)
    }
    context.setTransform(1, 0, 0, 1, 0, 0)
    context.drawImage(this.#canvas, 0, 0)
  }
}
