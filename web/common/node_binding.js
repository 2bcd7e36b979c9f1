// Ties an editor's view to a node: it works while the node is in a graph, and everything ends with the node. A view has
// an element, attach(), detach() and refresh().

import { chain, hideOutputImages, leaveToGraph, passWheel, selectOnly } from './comfyui.js'
import { markPresent, markRemoved, replaceRemoved } from './replaced_element.js'

const WATCH = 300 // milliseconds; typing, loading, undo and changes of other nodes raise no common event

/** The hooks of a view that concern the graph around it. */
export function graphHooks(node, app) {
  return {
    select: () => selectOnly(app, node),
    leave: () => leaveToGraph(app),
    passWheel: (event) => passWheel(event, app)
  }
}

/** Show a view in its node; options as addDOMWidget takes them. Returns the widget. */
export function addViewWidget(node, name, type, view, options) {
  return node.addDOMWidget(name, type, view.element, {
    hideOnZoom: false,
    hideInPanel: true, // there is one element; in the side panel it would be missing in the node
    onDraw: () => view.refresh(),
    ...options
  })
}

/**
 * Start the view when the node is added to a graph, stop it when it is removed. In between, update() reads what the
 * view shows from the graph: regularly, after a workflow was loaded, and after a run. Optional: added(), removed(), and
 * executed(output) with what the node sent after a run.
 */
export function bindView(node, view, app, { update, added, removed, executed }) {
  let timer = 0

  function read() {
    replaceRemoved(node, view.element, app)
    view.refresh()
    update()
  }

  function start() {
    if (timer) return
    node.properties ??= {}
    markPresent(view.element)
    view.attach()
    added?.()
    timer = setInterval(read, WATCH)
    read()
  }

  function stop() {
    clearInterval(timer)
    timer = 0
    removed?.()
    view.detach()
    markRemoved(node, view.element)
  }

  chain(node, 'onAdded', start)
  chain(node, 'onRemoved', stop)
  chain(node, 'onConfigure', () => timer && read())
  chain(node, 'onExecuted', (output) => {
    executed?.(output)
    read()
  })
  hideOutputImages(node)
}
