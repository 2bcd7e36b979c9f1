// What the widgets ask of ComfyUI's frontend. Nothing of it is replaced: a node's own callbacks are chained.

/** The events of ComfyUI's api that end a run. */
export const RUN_ENDED = ['execution_success', 'execution_error', 'execution_interrupted']

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

/** A click into a widget selects its node, and no other: keys that reach the graph mean what is selected. */
export function selectOnly(app, node) {
  const { canvas } = app
  if (!canvas || node.graph !== canvas.graph) return
  const selected = Object.values(canvas.selected_nodes ?? {})
  if (selected.length === 1 && selected[0] === node) return
  if (canvas.selectItems) canvas.selectItems([node])
  else canvas.selectNode?.(node)
}

/** The keys go back to the graph, in which nothing is selected that the next of them could remove. */
export function leaveToGraph(app) {
  app.canvas?.deselectAll?.()
  app.canvas?.canvas?.focus?.({ preventScroll: true })
}

/**
 * Run one output node and what it needs, and nothing else. Resolves to whether something is waiting or running then; a
 * run that was refused is shown by ComfyUI itself.
 */
export async function runNode(app, api, id) {
  await app.queuePrompt(0, 1, [id])
  const queue = await api.fetchApi('/queue').then((response) => response.json(), () => ({}))
  return Boolean(queue.queue_running?.length || queue.queue_pending?.length)
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
