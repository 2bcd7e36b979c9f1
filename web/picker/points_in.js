// The points that came to a picker over its input points_in in the last run. No DOM in here.

import { findLink } from '../common/graph.js'
import { linkedValue, rememberLinked } from './linked_values.js'

const INPUT = 'points_in'
const KEY = 'p3s_points_in' // saved with the node: {from, text}

/** What the input is wired to, as a text; null without a wire. */
function originOf(node) {
  const input = node.inputs?.find(({ name }) => name === INPUT)
  const link = node.graph && input?.link != null ? findLink(node.graph, input.link) : null
  return link && `${link.origin_id} ${link.origin_slot}`
}

/** The text of the points, '' while only a run can tell them, null without a wire: as State.setSeed takes it. */
export function pointsIn(node, app) {
  const from = originOf(node)
  if (!from) return null
  const saved = node.properties?.[KEY]
  return linkedValue(node, INPUT, app) ?? (saved?.from === from ? saved.text : '')
}

/** What a run told: the text, or undefined where none came in. */
export function rememberPointsIn(node, app, text = '') {
  rememberLinked(node, INPUT, app, text)
  savePointsIn(node, app)
}

/** Keep them with the node. */
export function savePointsIn(node, app) {
  const text = pointsIn(node, app)
  if (text) node.properties[KEY] = { from: originOf(node), text }
  else delete node.properties[KEY]
}
