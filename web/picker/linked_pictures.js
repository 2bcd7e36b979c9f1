// The pictures that came to linked pickers in runs, for as long as the page lives. The graph's own undo takes a
// node's properties back to what they were before the run, but the run has been. No DOM in here.

import { findLink } from '../common/graph.js'

const pictures = new Map()

/** What a picture belongs to: a node and what its input is wired to, in one of the open workflows. */
function keyOf(node, inputName, app) {
  const input = node.inputs?.find((input) => input.name === inputName)
  const link = node.graph && input?.link != null ? findLink(node.graph, input.link) : null
  if (!link) return null
  const workflow = app.extensionManager?.workflow?.activeWorkflow?.path
  return JSON.stringify([workflow, node.graph.id, node.id, link.origin_id, link.origin_slot].map(String))
}

/** Remember the file that a run gave for a linked input. */
export function rememberLinkedPicture(node, inputName, app, file) {
  const key = keyOf(node, inputName, app)
  if (key) pictures.set(key, file)
}

/** The file that the last run gave for this node and link, or undefined. */
export function linkedPicture(node, inputName, app) {
  return pictures.get(keyOf(node, inputName, app))
}

/** The graph was cleared, and its ids may come again. The pictures of other tabs go too; those fall back to what is saved
 * with them. */
export function forgetLinkedPictures() {
  pictures.clear()
}
