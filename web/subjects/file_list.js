// The files that Load P3S Subject offers: those that exist now, not those of when the page was opened. No DOM in here.

import { nodesOf } from '../common/graph.js'

const NODE = 'P3S_LoadSubject'
const WIDGET = 'subject_file'

/** All Load P3S Subject nodes of a graph, in its subgraphs too. */
export const loadNodesOf = (graph) => [...nodesOf(graph)].filter((node) => node.comfyClass === NODE)

/** Offer the files that there are. A node whose file is not among them takes the only one, if there is just one. */
export function offerFiles(node, files) {
  const widget = node.widgets?.find((widget) => widget.name === WIDGET)
  if (!widget?.options) return
  widget.options.values = files
  if (files.length !== 1 || widget.value === files[0]) return
  const before = widget.value
  widget.value = files[0]
  widget.callback?.(files[0])
  node.onWidgetChanged?.(WIDGET, files[0], before, widget)
}

/** Ask the server for the files, and offer them in these nodes. */
export async function refreshFiles(nodes, api) {
  if (!nodes.length) return
  const answer = await api.fetchApi('/models/p3s').catch(() => null)
  if (!answer?.ok) return
  const files = await answer.json()
  for (const node of nodes) offerFiles(node, files)
}
