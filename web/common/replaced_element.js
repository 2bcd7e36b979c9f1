// Nodes 2.0 puts a widget's element into the page when it makes the place for it, and not again. When the graph's own
// undo replaces a node by a new one, the place stays, and in it the element of the removed node. That element is ours:
// it is marked as removed, and the element of the new node replaces it.

const idOf = (node) => `${node.comfyClass} ${node.id}`

/** The node is in the graph (again): its element keeps its place. */
export function markPresent(element) {
  delete element.dataset.p3sRemoved
}

/** The node was removed from the graph: its element may be replaced. */
export function markRemoved(node, element) {
  element.dataset.p3sRemoved = idOf(node)
}

/** Put the element of a node that is shown where that of its predecessor was left; fast, call it often. */
export function replaceRemoved(node, element, app) {
  if (element.isConnected || !globalThis.LiteGraph?.vueNodesMode || node.graph !== app.canvas?.graph) return
  document.querySelector(`[data-p3s-removed="${CSS.escape(idOf(node))}"]`)?.replaceWith(element)
}
