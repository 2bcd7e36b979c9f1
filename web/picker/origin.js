// Where the vision model of an RNGR Mask comes from, as nodes/host/origin.py tells it of a run: only readings of that
// model are shown. No DOM in here.

import { findSource, isConnected, widgetValue } from '../common/graph.js'

const SAME_MODELS = ['P3S_ToyWorld'] // nodes that give the same models whatever their inputs are

/** Of the model whose patches are compared: that at mask_vision, else that at clip_vision; null for none. */
export function visionOrigin(maskNode, rootGraph) {
  const name = isConnected(maskNode, 'mask_vision', rootGraph) ? 'mask_vision' : 'clip_vision'
  return maskNode && originOf(maskNode, name, rootGraph)
}

/** What a run would find linked to a node's input: {slot, nodes: [[class, inputs], ...]}, or null for nothing. */
export function originOf(node, name, rootGraph) {
  const source = findSource(node, name, rootGraph)
  if (!source) return null
  const found = [source.node]
  const nodes = []
  for (const each of found) nodes.push([each.comfyClass, inputsOf(each, found, rootGraph)]) // `found` grows meanwhile
  return { slot: source.slot, nodes }
}

/** {input: value, or [number of the node that it is linked to, slot]}; nodes that are new are added to `found`. */
function inputsOf(node, found, rootGraph) {
  const told = {}
  if (SAME_MODELS.includes(node.comfyClass)) return told
  const saved = (node.widgets ?? []).filter(({ name, options }) => name && options?.serialize !== false)
  for (const name of [...new Set([...saved, ...(node.inputs ?? [])].map((each) => each.name))].sort()) {
    const source = findSource(node, name, rootGraph)
    if (source && !found.includes(source.node)) found.push(source.node)
    const value = source ? [found.indexOf(source.node), source.slot] : widgetValue(node, name, rootGraph)
    if (source || ['string', 'number', 'boolean'].includes(typeof value)) told[name] = value
  }
  return told
}
