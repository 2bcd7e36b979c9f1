// Which picture does the node work on? Found by reading the graph; nothing is changed, and no DOM is needed.
//
// A picture is named by the node that gives it, and its inputs, as nodes/host/picker_pictures.py reads them:
// {node: 'P3S_PointPicker' or 'LoadImage', image: 'folder/name.png [input]'}, {node: 'P3S_ToyWorld', animal, scene}

import { BYPASSED, findLink, findSubgraphNode, isSubgraphInput, MAX_STEPS, MUTED, widgetValue } from '../common/graph.js'

const FOLDER = / \[(input|output|temp)\]$/

/** 'folder/name.png [output]', as core writes picked files, with a bracket in any case; null for no file. */
export function annotatedPath(text) {
  if (typeof text !== 'string') return null
  const path = text.replace(FOLDER, '').replaceAll('\\', '/')
  if (!path || path.endsWith('/')) return null
  return `${path} [${text.match(FOLDER)?.[1] ?? 'input'}]`
}

/** The picture that a run has shown for a linked input: {filename, subfolder, type}, as nodes report files. */
export function outputPicture({ filename, subfolder = '', type = 'temp' }) {
  return filePicture(`${subfolder ? `${subfolder}/` : ''}${filename} [${type}]`)
}

/** The route that shows a picture, and the key that changes whenever another one is meant. */
export const pictureRoute = (picture) => `/p3s/picture?${new URLSearchParams(picture)}`

/**
 * The picture of a node with a file widget `fileName` and an optional linked input `linkName`.
 * {kind: 'known', picture}: known now. {kind: 'linked'}: comes over a link whose picture only a run can tell.
 * {kind: 'none'}: nothing chosen.
 */
export function findPicture(node, fileName, linkName, rootGraph) {
  const slot = node.inputs?.findIndex((input) => input.name === linkName) ?? -1
  if (slot >= 0 && node.inputs[slot].link != null) {
    const picture = isFirstFrame(node, rootGraph, MAX_STEPS) && pictureOfInput(node, slot, rootGraph, MAX_STEPS)
    return picture ? { kind: 'known', picture } : { kind: 'linked' }
  }
  const picture = filePicture(widgetValue(node, fileName, rootGraph))
  return picture ? { kind: 'known', picture } : { kind: 'none' }
}

/** Whether a picker takes the first picture of a batch: of what gives several, no other is known before a run. */
function isFirstFrame(node, rootGraph, steps) {
  const frame = widgetValue(node, 'frame', rootGraph, steps)
  return frame === 0 || (frame === undefined && !node.inputs?.some(({ name, link }) => name === 'frame' && link != null))
}

function filePicture(text) {
  const image = annotatedPath(text)
  return image && { node: 'P3S_PointPicker', image }
}

/** The picture that a link carries unchanged from its source, through reroutes, bypassed nodes and subgraphs. */
function pictureOfInput(node, slot, rootGraph, steps) {
  return followLink(node.graph, node.inputs?.[slot]?.link, rootGraph, steps)
}

function followLink(graph, id, rootGraph, steps) {
  const link = graph && id != null && steps > 0 ? findLink(graph, id) : null
  if (!link) return null
  if (isSubgraphInput(link.origin_id)) {
    const outer = findSubgraphNode(rootGraph, graph, steps)
    return outer ? pictureOfInput(outer, link.origin_slot, rootGraph, steps - 1) : null
  }
  const origin = graph.getNodeById(link.origin_id)
  return origin ? pictureOfOutput(origin, link.origin_slot, rootGraph, steps - 1) : null
}

function pictureOfOutput(node, slot, rootGraph, steps) {
  if (node.mode === MUTED) return null
  if (node.mode === BYPASSED) {
    const type = node.outputs?.[slot]?.type
    const through = node.inputs?.findIndex((input) => input.type === type && input.link != null) ?? -1
    return through < 0 ? null : pictureOfInput(node, through, rootGraph, steps)
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
  if (node.comfyClass === 'P3S_ToyWorld') return toyWorldPicture(node, slot, rootGraph, steps)
  return slot === 0 ? loadedPicture(node, rootGraph, steps) : null
}

function toyWorldPicture(node, slot, rootGraph, steps) {
  const [animal, scene] = ['animal', 'scene'].map((name) => widgetValue(node, name, rootGraph, steps))
  const known = node.outputs?.[slot]?.type === 'IMAGE' && animal !== undefined && scene !== undefined
  return known ? { node: 'P3S_ToyWorld', animal, scene } : null
}

/** The file behind the first output of a node that loads a picture (Load Image and its like, another picker). */
function loadedPicture(node, rootGraph, steps) {
  const isPicker = node.comfyClass === 'P3S_PointPicker'
  const linked = node.inputs?.findIndex((input) => input.name === 'linked_image') ?? -1
  if (isPicker && linked >= 0 && node.inputs[linked].link != null) {
    return isFirstFrame(node, rootGraph, steps) ? pictureOfInput(node, linked, rootGraph, steps) : null
  }
  const inputs = { ...node.constructor?.nodeData?.input?.required }
  const uploads = Object.keys(inputs).filter((name) => inputs[name]?.[1]?.image_upload && name !== 'upload')
  if (!uploads.length || node.outputs?.[0]?.type !== 'IMAGE') return null
  const image = annotatedPath(widgetValue(node, uploads[0], rootGraph, steps))
  return image && { node: isPicker ? 'P3S_PointPicker' : 'LoadImage', image }
}
