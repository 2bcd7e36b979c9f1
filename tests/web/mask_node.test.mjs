import assert from 'node:assert/strict'
import { test } from 'node:test'
import { executionId } from '../../web/common/graph.js'
import { findMaskNode, hasGivenMask, maskSettings } from '../../web/picker/mask_node.js'

/** A graph of nodes {id, ...} and links [id, from, slot, to, slot]. */
function makeGraph(nodes, links) {
  const graph = { nodes, links: {}, getNodeById: (id) => nodes.find((node) => node.id === id) }
  for (const node of nodes) node.graph = graph
  for (const [id, origin_id, origin_slot, target_id, target_slot] of links) {
    graph.links[id] = { id, origin_id, origin_slot, target_id, target_slot }
    const from = graph.getNodeById(origin_id)
    const output = from && (from.outputs[origin_slot] ??= { name: `out ${origin_slot}` })
    if (output) (output.links ??= []).push(id)
    const input = graph.getNodeById(target_id)?.inputs?.[target_slot]
    if (input) input.link = id
  }
  return graph
}

const picker = (id = 1) => ({ id, outputs: [{ name: 'image' }, { name: 'points' }] })
const mask = (id, blur, more = {}) => ({
  id,
  comfyClass: 'P3S_RNGRMask',
  inputs: [{ name: 'clip_vision' }, { name: 'image' }, { name: 'points' }, { name: 'blur', widget: { name: 'blur' } }],
  widgets: [
    { name: 'fill', value: 'telea' },
    { name: 'fill_region', value: 'background' },
    { name: 'value_range', value: 'minmax' },
    { name: 'blur', value: blur },
    { name: 'grow', value: 0.5 }
  ],
  ...more
})
const findNode = (graph, root = graph) => findMaskNode(graph.getNodeById(1), 'points', root)
const find = (graph, root = graph) => maskSettings(findNode(graph, root), root)
const ALL = { value_range: 'minmax', blur: 2, fill_region: 'background', grow: 0.5 }

test('without a mask node the defaults hold', () => {
  assert.deepEqual(find(makeGraph([picker()], [])), {})
  const image = makeGraph([picker(), mask(2, 2)], [[1, 1, 0, 2, 1]])
  assert.deepEqual(find(image), {}, 'only the points are followed')
})

test('the settings of the node that the points are wired to', () => {
  assert.deepEqual(find(makeGraph([picker(), mask(2, 2)], [[1, 1, 1, 2, 2]])), ALL)
})

test('a connected mask is used instead of the points', () => {
  const given = (name, linked) => {
    const node = mask(2, 2)
    node.inputs.push({ name, link: null })
    const from = { id: 3, outputs: [{}] }
    const links = [[1, 1, 1, 2, 2], ...(linked ? [[2, 3, 0, 2, 4]] : [])]
    return hasGivenMask(findNode(makeGraph([picker(), node, from], links)))
  }
  assert.equal(given('subject_mask', true), true)
  assert.equal(given('negative_mask', true), true)
  assert.equal(given('subject_mask', false), false)
  assert.equal(given('inpainted', true), false)
  assert.equal(hasGivenMask(null), false)
})

test('a link that brings nothing in a run is none', () => {
  const connected = (more, extra = [], links = [[2, 3, 0, 2, 4]]) => {
    const node = mask(2, 2)
    node.inputs.push({ name: 'subject_mask', link: null })
    const from = { id: 3, outputs: [{ type: 'MASK' }], ...more }
    return hasGivenMask(findNode(makeGraph([picker(), node, from, ...extra], [[1, 1, 1, 2, 2], ...links])))
  }
  const source = { id: 4, outputs: [{ type: 'MASK' }] }
  const through = [[2, 3, 0, 2, 4], [3, 4, 0, 3, 0]]
  assert.equal(connected({}), true)
  assert.equal(connected({ mode: 2 }), false) // muted
  assert.equal(connected({ mode: 4, inputs: [{ name: 'image', type: 'IMAGE' }] }), false) // bypassed: it passes no mask
  assert.equal(connected({ mode: 4, inputs: [{ name: 'mask', type: 'MASK' }] }, [source], through), true)
  assert.equal(connected({ isVirtualNode: true, inputs: [{ name: '' }] }, [source], through), true) // a reroute
  assert.equal(connected({ isVirtualNode: true, inputs: [{ name: '' }] }), false) // that leads nowhere
})

test('a mask that a subgraph takes from outside is one if something is connected there', () => {
  const given = (outside) => {
    const inner = mask(2, 2)
    inner.inputs.push({ name: 'subject_mask', link: null })
    const subgraph = makeGraph([inner], [[5, -10, 0, 2, 4]])
    const shown = { id: 7, subgraph, inputs: [{ name: 'mask' }], outputs: [] }
    const root = makeGraph([shown, { id: 8, outputs: [{}] }], outside ? [[1, 8, 0, 7, 0]] : [])
    return hasGivenMask(inner, root)
  }
  assert.equal(given(true), true)
  assert.equal(given(false), false)
})

test('what is compared, and whether another model is linked for it', () => {
  const node = mask(2, 2)
  const newer = { features: 'value-value', tiles: 2, refine: 'grabcut' }
  for (const [name, value] of Object.entries(newer)) node.widgets.push({ name, value })
  node.inputs.push({ name: 'mask_vision' })
  const loader = { id: 3, outputs: [{}] }
  assert.deepEqual(find(makeGraph([picker(), node, loader], [[1, 1, 1, 2, 2]])), { ...ALL, ...newer })
  const linked = makeGraph([picker(), node, loader], [[1, 1, 1, 2, 2], [2, 3, 0, 2, 4]])
  assert.deepEqual(find(linked), { ...ALL, ...newer, mask_vision: true })
})

test('through reroutes, past other users and muted or bypassed nodes', () => {
  const reroute = { id: 3, isVirtualNode: true, inputs: [{}], outputs: [{}] }
  const other = { id: 4, comfyClass: 'PreviewAny', inputs: [{}], outputs: [] }
  const nodes = [picker(), other, mask(5, 7, { mode: 2 }), mask(6, 8, { mode: 4 }), reroute, mask(2, 2)]
  const links = [[1, 1, 1, 4, 0], [2, 1, 1, 5, 2], [3, 1, 1, 6, 2], [4, 1, 1, 3, 0], [5, 3, 0, 2, 2]]
  assert.deepEqual(find(makeGraph(nodes, links)), ALL)
})

test('a setting that comes over a wire is not known', () => {
  const number = { id: 3, outputs: [{}] }
  const { blur, ...rest } = ALL
  assert.deepEqual(find(makeGraph([picker(), mask(2, 2), number], [[1, 1, 1, 2, 2], [2, 3, 0, 2, 3]])), rest)
})

test('a setting that a subgraph promotes is read outside', () => {
  const inner = makeGraph([mask(2, 2)], [[8, -10, 1, 2, 3]])
  inner.links[9] = { id: 9, origin_id: -10, origin_slot: 0, target_id: 2, target_slot: 2 }
  inner.inputs = [{ linkIds: [9] }, { linkIds: [8] }]
  const outer = { id: 5, subgraph: inner, inputs: [{ name: 'points' }, { name: 'soft' }], outputs: [], widgets: [{ name: 'soft', value: 3 }] }
  assert.deepEqual(find(makeGraph([picker(), outer], [[1, 1, 1, 5, 0]])), { ...ALL, blur: 3 })
})

test('into a subgraph and out of one', () => {
  const inner = makeGraph([mask(2, 2)], [])
  inner.links[9] = { id: 9, origin_id: -10, origin_slot: 0, target_id: 2, target_slot: 2 }
  inner.inputs = [{ linkIds: [9] }]
  const around = makeGraph([picker(), { id: 5, subgraph: inner, inputs: [{}], outputs: [] }], [[1, 1, 1, 5, 0]])
  assert.deepEqual(find(around), ALL)
  assert.equal(executionId(findNode(around), around), '5:2')

  const holder = makeGraph([picker()], [])
  holder.links[9] = { id: 9, origin_id: 1, origin_slot: 1, target_id: -20, target_slot: 0 }
  holder.nodes[0].outputs[1].links = [9]
  const root = makeGraph([{ id: 5, subgraph: holder, outputs: [{}] }, mask(2, 2)], [[1, 5, 0, 2, 2]])
  assert.deepEqual(find(holder, root), ALL)
  assert.equal(executionId(findNode(holder, root), root), '2')
})

test('the id by which a node is run goes through every subgraph around it', () => {
  const innermost = makeGraph([mask(2, 2)], [])
  const middle = makeGraph([{ id: 7, subgraph: innermost, inputs: [], outputs: [] }], [])
  const root = makeGraph([picker(), { id: 5, subgraph: middle, inputs: [], outputs: [] }], [])
  assert.equal(executionId(innermost.nodes[0], root), '5:7:2')
  assert.equal(executionId(makeGraph([mask(2, 2)], []).nodes[0], root), null)
})

test('a circle of wires ends', () => {
  const a = { id: 3, isVirtualNode: true, inputs: [{}], outputs: [{}] }
  const b = { id: 4, isVirtualNode: true, inputs: [{}], outputs: [{}] }
  assert.deepEqual(find(makeGraph([picker(), a, b], [[1, 1, 1, 3, 0], [2, 3, 0, 4, 0], [3, 4, 0, 3, 0]])), {})
})
