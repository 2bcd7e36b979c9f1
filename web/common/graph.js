// Reading litegraph's graph, as far as finding pictures and settings needs it; nothing is changed, no DOM in here.

export const MUTED = 2
export const BYPASSED = 4
// Litegraph's ids of a subgraph's own two sides; newer frontends write ids as texts.
export const isSubgraphInput = (id) => Number(id) === -10
export const isSubgraphOutput = (id) => Number(id) === -20
export const MAX_STEPS = 100 // a graph may be circular while it is edited

export function findLink(graph, id) {
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id] ?? null
}

/** The nodes of a graph, and those in its subgraphs. */
export function* nodesOf(graph, steps = MAX_STEPS) {
  for (const node of graph?.nodes ?? graph?._nodes ?? []) {
    yield node
    if (node.subgraph && steps > 0) yield* nodesOf(node.subgraph, steps - 1)
  }
}

/** A node that shows this subgraph from outside (the first, if it is used several times). */
export function findSubgraphNode(graph, subgraph, steps) {
  if (!graph || steps <= 0) return null
  for (const node of graph.nodes ?? graph._nodes ?? []) {
    if (!node.subgraph) continue
    if (node.subgraph === subgraph) return node
    const found = findSubgraphNode(node.subgraph, subgraph, steps - 1)
    if (found) return found
  }
  return null
}

/** The id by which ComfyUI runs a node: "3", or "7:3" inside of the subgraph that node 7 shows; null if it is in none. */
export function executionId(node, rootGraph, steps = MAX_STEPS) {
  if (node.graph === rootGraph) return String(node.id)
  const outer = steps > 0 ? findSubgraphNode(rootGraph, node.graph, steps) : null
  const before = outer && executionId(outer, rootGraph, steps - 1)
  return before && `${before}:${node.id}`
}

/**
 * The value of a node's widget that a run would use: its own; where a subgraph promotes it, the one outside; where a
 * primitive feeds it, that one's. undefined if only a run can tell.
 */
export function widgetValue(node, name, rootGraph, steps = MAX_STEPS) {
  const own = node.widgets?.find((widget) => widget.name === name)?.value
  const input = node.inputs?.find((input) => input.name === name)
  if (input?.link == null) return own
  const link = steps > 0 ? findLink(node.graph, input.link) : null
  if (link && isSubgraphInput(link.origin_id)) {
    const outer = findSubgraphNode(rootGraph, node.graph, steps)
    const slot = outer?.inputs?.[link.origin_slot]
    return slot && widgetValue(outer, slot.name, rootGraph, steps - 1)
  }
  const origin = link && node.graph.getNodeById(link.origin_id)
  return origin?.isVirtualNode ? origin.widgets?.[0]?.value : undefined
}

/**
 * The output that reaches a node's input in a run, {node, slot}: through reroutes, Get nodes, bypassed nodes, and into and
 * out of subgraphs. null where nothing does: from a muted node, or a subgraph's input that nothing is connected to.
 */
export function findSource(node, name, rootGraph, steps = MAX_STEPS) {
  return sourceOfInput(node, node?.inputs?.findIndex((input) => input.name === name) ?? -1, rootGraph, steps)
}

export const isConnected = (node, name, rootGraph) => findSource(node, name, rootGraph) !== null

function sourceOfInput(node, index, rootGraph, steps) {
  return followLink(node?.graph, node?.inputs?.[index]?.link, rootGraph, steps)
}

function followLink(graph, id, rootGraph, steps) {
  const link = graph && id != null && steps > 0 ? findLink(graph, id) : null
  if (!link) return null
  if (isSubgraphInput(link.origin_id)) {
    return sourceOfInput(findSubgraphNode(rootGraph, graph, steps), link.origin_slot, rootGraph, steps - 1)
  }
  const origin = graph.getNodeById(link.origin_id)
  return origin ? sourceOfOutput(origin, link.origin_slot, rootGraph, steps - 1) : null
}

function sourceOfOutput(node, slot, rootGraph, steps) {
  if (node.mode === MUTED) return null
  if (node.mode === BYPASSED) {
    const passes = (input) => input?.type === node.outputs?.[slot]?.type
    const index = passes(node.inputs?.[slot]) ? slot : (node.inputs?.findIndex(passes) ?? -1)
    return sourceOfInput(node, index, rootGraph, steps)
  }
  if (node.subgraph) return followLink(node.subgraph, node.subgraph.outputs?.[slot]?.linkIds?.[0], rootGraph, steps)
  if (!node.isVirtualNode) return { node, slot }
  // A Get node says by getInputLink which link it stands for; a reroute just passes on what comes in.
  return followLink(node.graph, node.getInputLink?.(slot)?.id ?? node.inputs?.[0]?.link, rootGraph, steps)
}
