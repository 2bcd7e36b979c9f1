// The files that Load P3S Subject offers: those that exist now, not those of when the page was opened. No DOM in here.

import { nodesOf } from '../common/graph.js'

const NODE = 'P3S_LoadSubject'
const WIDGET = 'subject_file'

/** All Load P3S Subject nodes of a graph, in its subgraphs too. */
export const loadNodesOf = (graph) => [...nodesOf(graph)].filter((node) => node.comfyClass === NODE)

/**
 * Offer the subjects that there are ({ file, family }). A node whose file is not among them takes the only one, if there
 * is just one. The list shows the families behind the files' names, in frontends that have labels for values.
 */
export function offerFiles(node, subjects) {
  const widget = node.widgets?.find((widget) => widget.name === WIDGET)
  if (!widget?.options) return
  const files = subjects.map(({ file }) => file)
  const families = new Map(subjects.map(({ file, family }) => [file, family]))
  widget.options.getOptionLabel = (file) => (families.get(file) ? `${file} (${families.get(file)})` : file ?? '')
  widget.options.values = files
  if (files.length !== 1 || widget.value === files[0]) return
  const before = widget.value
  widget.value = files[0]
  widget.callback?.(files[0])
  node.onWidgetChanged?.(WIDGET, files[0], before, widget)
}

/** Ask the server for the subjects, and offer them in these nodes. */
export async function refreshFiles(nodes, api) {
  if (!nodes.length) return
  const answer = await api.fetchApi('/p3s/subjects').catch(() => null)
  if (!answer?.ok) return
  const subjects = await answer.json()
  for (const node of nodes) offerFiles(node, subjects)
}
