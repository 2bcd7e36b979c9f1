// Nodes 2.0 puts a widget's element into the page when it makes the place for it, and not again. When the graph's own
// undo makes a new node of one, its place stays, and in it the element of the node that is gone. That element is ours: it
// knows that its node has left, and the next element of the same node takes its place.

const idOf = (node) => `${node.comfyClass} ${node.id}`

/** The node is in the graph (again): its element keeps its place. */
export function enterPlace(element) {
  delete element.dataset.p3sLeft
}

/** The node has left the graph: its element may be replaced. */
export function leavePlace(node, element) {
  element.dataset.p3sLeft = idOf(node)
}

/** Put the element of a node that is shown where the element of its predecessor was left; cheap, call it often. */
export function takePlace(node, element, app) {
  if (element.isConnected || !globalThis.LiteGraph?.vueNodesMode || node.graph !== app.canvas?.graph) return
  document.querySelector(`[data-p3s-left="${CSS.escape(idOf(node))}"]`)?.replaceWith(element)
}
