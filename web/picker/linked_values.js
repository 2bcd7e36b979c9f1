// The pictures and points that came to linked pickers in runs, for as long as the page lives. The graph's own undo takes a
// node's properties back to what they were before the run, but the run has been. No DOM in here.

import { findLink } from '../common/graph.js'

const values = new Map()

/** What a value belongs to: a node's input and what it is wired to, in one of the open workflows. */
function keyOf(node, inputName, app) {
  const input = node.inputs?.find((input) => input.name === inputName)
  const link = node.graph && input?.link != null ? findLink(node.graph, input.link) : null
  if (!link) return null
  const workflow = app.extensionManager?.workflow?.activeWorkflow?.path
  return JSON.stringify([inputName, workflow, node.graph.id, node.id, link.origin_id, link.origin_slot].map(String))
}

/** Remember what a run gave for a linked input: the file of a picture, or a text. */
export function rememberLinked(node, inputName, app, value) {
  const key = keyOf(node, inputName, app)
  if (key) values.set(key, value)
}

/** What the last run gave for this node and link, or undefined. */
export function linkedValue(node, inputName, app) {
  return values.get(keyOf(node, inputName, app))
}

/** The graph was cleared, and its ids may come again. The values of other tabs go too; those fall back to what is saved
 * with them. */
export function forgetLinked() {
  values.clear()
}
