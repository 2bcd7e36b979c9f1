import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findPicture, parseAnnotated, viewRoute } from '../../web/picker/sources.js'

/** A graph like litegraph's: nodes by id, links [id, from, slot, to, slot]. */
function graph(nodes, links) {
  const made = {
    nodes: [],
    links: new Map(links.map(([id, from, slot, to, input]) => [id, { id, origin_id: from, origin_slot: slot, target_id: to, target_slot: input }])),
    getNodeById: (id) => made.nodes.find((node) => node.id === id)
  }
  for (const [id, node] of Object.entries(nodes)) {
    made.nodes.push({ id: Number(id), graph: made, ...node })
  }
  for (const [id, , , to, input] of links) {
    const target = made.getNodeById(to)
    if (target) target.inputs[input].link = id
  }
  return made
}

const loader = (file) => ({
  comfyClass: 'LoadImage',
  constructor: { nodeData: { input: { required: { image: [['a.png'], { image_upload: true }], upload: ['IMAGEUPLOAD', { image_upload: true }] } } } },
  inputs: [],
  outputs: [{ type: 'IMAGE' }, { type: 'MASK' }],
  widgets: [{ name: 'image', value: file }]
})
const picker = (file) => ({
  comfyClass: 'P3S_PointPicker',
  constructor: loader('').constructor,
  inputs: [{ name: 'linked_image', type: 'IMAGE', link: null }],
  outputs: [{ type: 'IMAGE' }],
  widgets: [{ name: 'image', value: file }]
})
const passing = (more) => ({ inputs: [{ name: 'x', type: 'IMAGE', link: null }], outputs: [{ type: 'IMAGE' }], ...more })
const find = (made, id = 1, root = made) => findPicture(made.getNodeById(id), 'image', 'linked_image', root)
const file = (filename, subfolder = '', type = 'input') => ({ filename, subfolder, type })

test('annotated names, as core writes them', () => {
  assert.deepEqual(parseAnnotated('a.png'), file('a.png'))
  assert.deepEqual(parseAnnotated('x/y/a b.png [output]'), file('a b.png', 'x/y', 'output'))
  assert.deepEqual(parseAnnotated('clipspace\\m.png [input]'), file('m.png', 'clipspace'))
  assert.deepEqual(parseAnnotated('odd [name].png'), file('odd [name].png'))
  for (const nothing of ['', null, undefined, 3, 'folder/']) assert.equal(parseAnnotated(nothing), null)
})

test('names are escaped in the route', () => {
  assert.equal(viewRoute(file('a&b ?.png', 'x/y')), '/view?filename=a%26b+%3F.png&subfolder=x%2Fy&type=input')
})

test('without a link, the own file; without a file, nothing', () => {
  assert.deepEqual(find(graph({ 1: picker('own.png') }, [])), { kind: 'file', file: file('own.png'), linked: false })
  assert.deepEqual(find(graph({ 1: picker('') }, [])), { kind: 'none' })
})

test('a linked Load Image is known before any run', () => {
  const made = graph({ 1: picker('own.png'), 2: loader('up.png') }, [[5, 2, 0, 1, 0]])
  assert.deepEqual(find(made), { kind: 'file', file: file('up.png'), linked: true })
})

test('through reroutes, bypassed nodes, Get nodes and another picker', () => {
  const setter = passing()
  const getter = { isVirtualNode: true, outputs: [{ type: 'IMAGE' }], inputs: [], getInputLink: () => ({ id: 4 }) }
  const made = graph(
    {
      1: picker('own.png'),
      2: passing({ isVirtualNode: true }),
      3: passing({ mode: 4 }),
      4: picker('other.png'),
      5: getter,
      6: setter,
      7: loader('up.png')
    },
    [
      [1, 2, 0, 1, 0],
      [2, 3, 0, 2, 0],
      [3, 4, 0, 3, 0],
      [6, 5, 0, 4, 0],
      [4, 7, 0, 6, 0]
    ]
  )
  assert.deepEqual(find(made).file, file('up.png'))
})

test('into and out of subgraphs', () => {
  const inner = graph({ 1: picker('own.png') }, [[1, -10, 0, 1, 0]])
  const outer = graph({ 8: passing({ subgraph: inner }), 9: loader('up.png') }, [[2, 9, 0, 8, 0]])
  assert.deepEqual(find(inner, 1, outer).file, file('up.png'))

  const holder = graph({ 3: loader('deep.png') }, [[7, 3, 0, -20, 0]])
  holder.outputs = [{ linkIds: [7] }]
  const made = graph({ 1: picker('own.png'), 2: passing({ subgraph: holder }) }, [[1, 2, 0, 1, 0]])
  assert.deepEqual(find(made).file, file('deep.png'))
})

test('a file name that subgraphs promote, a primitive gives, or only a run can tell', () => {
  const withSlot = { ...picker('stale.png'), inputs: [{ name: 'image', type: 'COMBO', link: null }] }
  const inner = graph({ 1: withSlot }, [[1, '-10', 0, 1, 0]]) // as newer frontends write it
  const outside = (slot, file) => ({
    subgraph: inner,
    inputs: [{ name: slot, type: 'COMBO', link: null }],
    outputs: [],
    widgets: [{ name: slot, value: file }]
  })
  assert.deepEqual(find(inner, 1, graph({ 8: outside('photo', 'out.png') }, [])).file, file('out.png'))

  const middle = graph({ 8: outside('photo', 'stale.png') }, [[3, -10, 0, 8, 0]])
  const root = graph({ 9: { ...outside('which', 'outermost.png'), subgraph: middle } }, [])
  assert.deepEqual(find(inner, 1, root).file, file('outermost.png'))

  const fed = (more) => graph({ 1: withSlot, 2: { outputs: [{}], widgets: [{ name: 'value', value: 'prim.png' }], ...more } }, [[1, 2, 0, 1, 0]])
  assert.deepEqual(find(fed({ isVirtualNode: true })).file, file('prim.png'))
  assert.deepEqual(find(fed({})), { kind: 'none' })
})

test('a picture that only a run can tell', () => {
  const linked = { kind: 'linked' }
  const via = (node, slot = 0) => find(graph({ 1: picker('own.png'), 2: node }, [[1, 2, slot, 1, 0]]))
  assert.deepEqual(via(passing()), linked) // some node that computes
  assert.deepEqual(via({ ...loader('a.png'), mode: 2 }), linked) // muted
  assert.deepEqual(via(loader('a.png'), 1), linked) // another output than the picture
  assert.deepEqual(find(graph({ 1: picker('own.png') }, [[1, 99, 0, 1, 0]])), linked) // a dangling link
})

test('a circle in the graph ends', () => {
  const made = graph({ 1: picker('own.png'), 2: passing({ isVirtualNode: true }) }, [[1, 2, 0, 1, 0], [2, 2, 0, 2, 0]])
  assert.deepEqual(find(made), { kind: 'linked' })
})
