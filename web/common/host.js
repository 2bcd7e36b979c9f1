// What the widgets ask of ComfyUI's frontend. Nothing of it is replaced: a node's own callbacks are chained.

/** Call `after` when ComfyUI calls node[name]; whatever was there still runs first. */
export function chain(node, name, after) {
  const before = node[name]
  node[name] = function (...args) {
    const result = before?.apply(this, args)
    after(...args)
    return result
  }
}

/** Make a change of widgets that the graph's undo takes back in one step. */
export function asOneStep(app, change) {
  app.canvas?.emitBeforeChange?.()
  change()
  app.canvas?.emitAfterChange?.()
}

/** A wheel that is not for the widget is for the graph; in Nodes 2.0 it gets there by itself. */
export function passWheel(event, app) {
  if (globalThis.LiteGraph?.vueNodesMode || !app.canvas?.processMouseWheel) return
  event.preventDefault()
  app.canvas.processMouseWheel(event)
}

/**
 * The node's own pictures are not shown: the widget shows more. Nodes 2.0 goes by the property. The canvas does not: it
 * adds its preview in onDrawBackground while the node has `imgs`, so these are out of sight while that, and whatever
 * other extensions have chained to it, runs.
 */
export function hideOutputImages(node) {
  node.hideOutputImages = true
  const before = node.onDrawBackground
  node.onDrawBackground = function (...args) {
    const images = this.imgs
    this.imgs = undefined
    try {
      return before?.apply(this, args)
    } finally {
      this.imgs ??= images
    }
  }
}
