// Which picture does the node work on? Found by reading the graph; nothing is changed, and no DOM is needed.
//
// A picture is named by the node that gives it, and its inputs, as nodes/host/picker_pictures.py reads them:
// {node: 'P3S_PointPicker' or 'LoadImage', image: 'folder/name.png [input]'}, {node: 'P3S_ToyWorld', animal, scene}

import { findSource, MAX_STEPS, widgetValue } from '../common/graph.js'

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
  if (isLinked(node, linkName)) {
    const picture = isFirstFrame(node, rootGraph) && pictureOfInput(node, linkName, rootGraph, MAX_STEPS)
    return picture ? { kind: 'known', picture } : { kind: 'linked' }
  }
  const picture = filePicture(widgetValue(node, fileName, rootGraph))
  return picture ? { kind: 'known', picture } : { kind: 'none' }
}

/** Whether a picker takes the first picture of a batch: of what gives several, no other is known before a run. */
function isFirstFrame(node, rootGraph) {
  const frame = widgetValue(node, 'frame', rootGraph)
  return frame === 0 || (frame === undefined && !isLinked(node, 'frame'))
}

const isLinked = (node, name) => node.inputs?.some((input) => input.name === name && input.link != null) ?? false

function filePicture(text) {
  const image = annotatedPath(text)
  return image && { node: 'P3S_PointPicker', image }
}

/** The picture that an input is given unchanged from its source. */
function pictureOfInput(node, name, rootGraph, steps) {
  const source = findSource(node, name, rootGraph, steps)
  if (!source) return null
  if (source.node.comfyClass === 'P3S_ToyWorld') return toyWorldPicture(source, rootGraph)
  return source.slot === 0 ? loadedPicture(source.node, rootGraph, steps - 1) : null
}

function toyWorldPicture({ node, slot }, rootGraph) {
  const [animal, scene] = ['animal', 'scene'].map((name) => widgetValue(node, name, rootGraph))
  const known = node.outputs?.[slot]?.type === 'IMAGE' && animal !== undefined && scene !== undefined
  return known ? { node: 'P3S_ToyWorld', animal, scene } : null
}

/** The file behind the first output of a node that loads a picture (Load Image and its like, another picker). */
function loadedPicture(node, rootGraph, steps) {
  const isPicker = node.comfyClass === 'P3S_PointPicker'
  if (isPicker && isLinked(node, 'linked_image')) {
    return isFirstFrame(node, rootGraph) ? pictureOfInput(node, 'linked_image', rootGraph, steps) : null
  }
  const inputs = { ...node.constructor?.nodeData?.input?.required }
  const uploads = Object.keys(inputs).filter((name) => inputs[name]?.[1]?.image_upload && name !== 'upload')
  if (!uploads.length || node.outputs?.[0]?.type !== 'IMAGE') return null
  const image = annotatedPath(widgetValue(node, uploads[0], rootGraph))
  return image && { node: isPicker ? 'P3S_PointPicker' : 'LoadImage', image }
}
