// Which RNGR Mask reads the points, and with which settings? Found by reading the graph. No DOM in here.

import { BYPASSED, findLink, findSubgraphNode, isConnected, isSubgraphOutput, MAX_STEPS, MUTED, widgetValue } from '../common/graph.js'

const NAMES = ['value_range', 'blur', 'fill_region', 'grow', 'features', 'tiles', 'refine']
const GIVEN = ['subject_mask', 'negative_mask']

/** The RNGR Mask node that a node's output is wired to, or null. */
export function findMaskNode(node, outputName, rootGraph) {
  const slot = node.outputs?.findIndex((output) => output.name === outputName) ?? -1
  return slot < 0 ? null : followOutput(node, slot, rootGraph, MAX_STEPS)
}

/**
 * The settings of an RNGR Mask node: {name: value}, less what only a run can tell, and mask_vision: true if a model is
 * linked there; {} for null.
 */
export function maskSettings(maskNode, rootGraph) {
  const values = maskNode ? NAMES.map((name) => [name, widgetValue(maskNode, name, rootGraph)]) : []
  if (isConnected(maskNode, 'mask_vision', rootGraph)) values.push(['mask_vision', true])
  return Object.fromEntries(values.filter(([, value]) => value !== undefined))
}

/** Whether a mask is connected to an RNGR Mask node, which it uses instead of one made from points; false for null. */
export function hasGivenMask(maskNode, rootGraph) {
  return GIVEN.some((name) => isConnected(maskNode, name, rootGraph))
}

function followOutput(node, slot, rootGraph, steps) {
  return followLinks(node.graph, node.outputs?.[slot]?.links, rootGraph, steps)
}

function followLinks(graph, ids, rootGraph, steps) {
  for (const id of ids ?? []) {
    const link = steps > 0 ? findLink(graph, id) : null
    const found = link && followLink(graph, link, rootGraph, steps - 1)
    if (found) return found
  }
  return null
}

function followLink(graph, link, rootGraph, steps) {
  if (isSubgraphOutput(link.target_id)) {
    const outer = findSubgraphNode(rootGraph, graph, steps)
    return outer ? followOutput(outer, link.target_slot, rootGraph, steps) : null
  }
  const target = graph.getNodeById(link.target_id)
  if (!target || target.mode === MUTED || target.mode === BYPASSED) return null
  if (target.comfyClass === 'P3S_RNGRMask') return target
  if (target.subgraph) {
    return followLinks(target.subgraph, target.subgraph.inputs?.[link.target_slot]?.linkIds, rootGraph, steps)
  }
  return target.isVirtualNode ? followOutput(target, 0, rootGraph, steps) : null
}
