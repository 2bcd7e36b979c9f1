import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { originOf, visionOrigin } from '../../web/picker/origin.js'

// The same cases as prompts are those of tests/host/test_origin.py.
const CASES = JSON.parse(readFileSync(new URL('../data/origins.json', import.meta.url)))

/** A graph like litegraph's: nodes {id, ...}, of which one may show a subgraph, and links [id, from, slot, to, slot]. */
function makeGraph({ nodes, links, outputs = [] }) {
  const graph = { nodes, outputs, links: {}, getNodeById: (id) => nodes.find((node) => node.id === id) }
  for (const node of nodes) {
    node.graph = graph
    if (node.subgraph) node.subgraph = makeGraph(node.subgraph)
  }
  for (const [id, origin_id, origin_slot, target_id, target_slot] of links) {
    graph.links[id] = { id, origin_id, origin_slot, target_id, target_slot }
    const target = graph.getNodeById(target_id)
    if (target) target.inputs[target_slot].link = id
  }
  return graph
}

for (const { name, graph, origin } of CASES) {
  test(`where a model comes from: ${name}`, () => {
    const made = makeGraph(structuredClone(graph))
    assert.deepEqual(originOf(made.getNodeById(9), 'clip_vision', made), origin)
  })
}

test('the model at mask_vision is the one that is compared, where one is linked', () => {
  const loader = (id) => ({ id, comfyClass: `Loader${id}`, inputs: [], outputs: [{}] })
  const mask = { id: 9, comfyClass: 'P3S_RNGRMask', inputs: [{ name: 'clip_vision' }, { name: 'mask_vision' }] }
  const origin = (...links) => {
    const made = makeGraph(structuredClone({ nodes: [loader(1), loader(2), mask], links }))
    return visionOrigin(made.getNodeById(9), made)?.nodes[0][0]
  }
  assert.equal(origin([1, 1, 0, 9, 0]), 'Loader1')
  assert.equal(origin([1, 1, 0, 9, 0], [2, 2, 0, 9, 1]), 'Loader2')
  assert.equal(origin(), undefined)
  assert.equal(visionOrigin(null, {}), null)
})
