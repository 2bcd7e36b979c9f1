// Which picture does the node work on? Found by reading the graph; nothing is changed, and no DOM is needed.

import { BYPASSED, findLink, findSubgraphNode, isSubgraphInput, MAX_STEPS, MUTED, widgetValue } from '../common/graph.js'

/** 'sub/name.png [output]' to {filename, subfolder, type}, as core writes picked files. */
export function parseAnnotated(text) {
  if (typeof text !== 'string' || !text) return null
  const match = text.match(/^(.*?)(?: \[(input|output|temp)\])?$/s)
  const path = match[1].replaceAll('\\', '/')
  const slash = path.lastIndexOf('/')
  if (!path.slice(slash + 1)) return null
  return { filename: path.slice(slash + 1), subfolder: slash < 0 ? '' : path.slice(0, slash), type: match[2] ?? 'input' }
}

/** The other way. */
export function annotated({ filename, subfolder = '', type = 'input' }) {
  return `${subfolder ? `${subfolder}/` : ''}${filename} [${type}]`
}

/** The route of ComfyUI's server that shows a file. */
export function viewRoute({ filename, subfolder = '', type = 'input' }) {
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`
}

/**
 * The picture of a node with a file widget `fileName` and an optional linked input `linkName`.
 * {kind: 'file', file}: known now. {kind: 'linked'}: comes over a link whose picture only a run can tell.
 * {kind: 'none'}: nothing chosen.
 */
export function findPicture(node, fileName, linkName, rootGraph) {
  const slot = node.inputs?.findIndex((input) => input.name === linkName) ?? -1
  if (slot >= 0 && node.inputs[slot].link != null) {
    const file = upstreamFile(node, slot, rootGraph, MAX_STEPS)
    return file ? { kind: 'file', file, linked: true } : { kind: 'linked' }
  }
  const file = parseAnnotated(widgetValue(node, fileName, rootGraph))
  return file ? { kind: 'file', file, linked: false } : { kind: 'none' }
}

/** The file that a link carries unchanged from a loader node, through reroutes, bypassed nodes and subgraphs. */
function upstreamFile(node, slot, rootGraph, steps) {
  return followLink(node.graph, node.inputs?.[slot]?.link, rootGraph, steps)
}

function followLink(graph, id, rootGraph, steps) {
  const link = graph && id != null && steps > 0 ? findLink(graph, id) : null
  if (!link) return null
  if (isSubgraphInput(link.origin_id)) {
    const outer = findSubgraphNode(rootGraph, graph, steps)
    return outer ? upstreamFile(outer, link.origin_slot, rootGraph, steps - 1) : null
  }
  const origin = graph.getNodeById(link.origin_id)
  return origin ? fileOf(origin, link.origin_slot, rootGraph, steps - 1) : null
}

function fileOf(node, slot, rootGraph, steps) {
  if (node.mode === MUTED) return null
  if (node.mode === BYPASSED) {
    const type = node.outputs?.[slot]?.type
    const through = node.inputs?.findIndex((input) => input.type === type && input.link != null) ?? -1
    return through < 0 ? null : upstreamFile(node, through, rootGraph, steps)
  }
  if (node.subgraph) {
    const links = node.subgraph.outputs?.[slot]?.linkIds
    return followLink(node.subgraph, links?.[0], rootGraph, steps)
  }
  if (node.isVirtualNode) {
    // A Get node says by getInputLink which link it stands for; a reroute just passes on what comes in.
    const meant = node.getInputLink?.(slot)
    return followLink(node.graph, meant?.id ?? node.inputs?.[0]?.link, rootGraph, steps)
  }
  return loaderFile(node, slot, rootGraph, steps)
}

/** The file behind the first output of a node that loads a picture (Load Image, another picker). */
function loaderFile(node, slot, rootGraph, steps) {
  if (slot !== 0) return null
  const linked = node.inputs?.findIndex((input) => input.name === 'linked_image') ?? -1
  if (node.comfyClass === 'P3S_PointPicker' && linked >= 0 && node.inputs[linked].link != null) {
    return upstreamFile(node, linked, rootGraph, steps)
  }
  const inputs = { ...node.constructor?.nodeData?.input?.required }
  const uploads = Object.keys(inputs).filter((name) => inputs[name]?.[1]?.image_upload && name !== 'upload')
  if (!uploads.length || node.outputs?.[0]?.type !== 'IMAGE') return null
  return parseAnnotated(widgetValue(node, uploads[0], rootGraph, steps))
}
