import assert from 'node:assert/strict'
import { test } from 'node:test'
import { annotatedPath, findPicture, pictureRoute, outputPicture } from '../../web/picker/find_picture.js'

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
const own = (image) => ({ node: 'P3S_PointPicker', image: `${image} [input]` })
const loaded = (image) => ({ node: 'LoadImage', image: `${image} [input]` })

test('names of files, as core writes them', () => {
  assert.equal(annotatedPath('a.png'), 'a.png [input]')
  assert.equal(annotatedPath('x/y/a b.png [output]'), 'x/y/a b.png [output]')
  assert.equal(annotatedPath('clipspace\\m.png [input]'), 'clipspace/m.png [input]')
  assert.equal(annotatedPath('odd [name].png'), 'odd [name].png [input]')
  for (const nothing of ['', null, undefined, 3, 'folder/', 'folder/ [temp]']) assert.equal(annotatedPath(nothing), null)
  assert.deepEqual(outputPicture({ filename: 'p3s_1.jpg', subfolder: '', type: 'temp' }), {
    node: 'P3S_PointPicker', image: 'p3s_1.jpg [temp]'
  })
})

test('names are escaped in the route', () => {
  assert.equal(pictureRoute(own('x/a&b ?.png')), '/p3s/picture?node=P3S_PointPicker&image=x%2Fa%26b+%3F.png+%5Binput%5D')
})

test('without a link, the own file; without a file, nothing', () => {
  assert.deepEqual(find(graph({ 1: picker('own.png') }, [])), { kind: 'known', picture: own('own.png') })
  assert.deepEqual(find(graph({ 1: picker('') }, [])), { kind: 'none' })
})

test('the photo of a Toy World is known before any run, and its models are no picture', () => {
  const world = {
    comfyClass: 'P3S_ToyWorld',
    inputs: [{ name: 'scene', type: 'INT', link: null }],
    outputs: [{ type: 'MODEL' }, { type: 'IMAGE' }],
    widgets: [{ name: 'animal', value: 'cat' }, { name: 'scene', value: 7 }]
  }
  const made = (slot, more = {}) => graph({ 1: picker('own.png'), 2: { ...world, ...more }, 3: { outputs: [{}] } }, [[5, 2, slot, 1, 0]])
  assert.deepEqual(find(made(1)), { kind: 'known', picture: { node: 'P3S_ToyWorld', animal: 'cat', scene: 7 } })
  assert.deepEqual(find(made(0)), { kind: 'linked' })
  assert.deepEqual(find(made(1, { mode: 2 })), { kind: 'linked' })
  const fed = made(1)
  fed.links.set(6, { id: 6, origin_id: 3, origin_slot: 0 })
  fed.getNodeById(2).inputs[0].link = 6
  assert.deepEqual(find(fed), { kind: 'linked' }, 'the scene comes from another node')
})

test('a linked Load Image is known before any run', () => {
  const made = graph({ 1: picker('own.png'), 2: loader('up.png') }, [[5, 2, 0, 1, 0]])
  assert.deepEqual(find(made), { kind: 'known', picture: loaded('up.png') })
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
  assert.deepEqual(find(made).picture, loaded('up.png'))
})

test('into and out of subgraphs', () => {
  const inner = graph({ 1: picker('own.png') }, [[1, -10, 0, 1, 0]])
  const outer = graph({ 8: passing({ subgraph: inner }), 9: loader('up.png') }, [[2, 9, 0, 8, 0]])
  assert.deepEqual(find(inner, 1, outer).picture, loaded('up.png'))

  const holder = graph({ 3: loader('deep.png') }, [[7, 3, 0, -20, 0]])
  holder.outputs = [{ linkIds: [7] }]
  const made = graph({ 1: picker('own.png'), 2: passing({ subgraph: holder }) }, [[1, 2, 0, 1, 0]])
  assert.deepEqual(find(made).picture, loaded('deep.png'))
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
  assert.deepEqual(find(inner, 1, graph({ 8: outside('photo', 'out.png') }, [])).picture, own('out.png'))

  const middle = graph({ 8: outside('photo', 'stale.png') }, [[3, -10, 0, 8, 0]])
  const root = graph({ 9: { ...outside('which', 'outermost.png'), subgraph: middle } }, [])
  assert.deepEqual(find(inner, 1, root).picture, own('outermost.png'))

  const fed = (more) => graph({ 1: withSlot, 2: { outputs: [{}], widgets: [{ name: 'value', value: 'prim.png' }], ...more } }, [[1, 2, 0, 1, 0]])
  assert.deepEqual(find(fed({ isVirtualNode: true })).picture, own('prim.png'))
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

test('a linked picker reads its own file itself', () => {
  const made = graph({ 1: picker('own.png'), 2: picker('other.png') }, [[5, 2, 0, 1, 0]])
  assert.deepEqual(find(made).picture, own('other.png'))
})

test('a circle in the graph ends', () => {
  const made = graph({ 1: picker('own.png'), 2: passing({ isVirtualNode: true }) }, [[1, 2, 0, 1, 0], [2, 2, 0, 2, 0]])
  assert.deepEqual(find(made), { kind: 'linked' })
})

test('another frame than the first is known after a run only, here and behind another picker', () => {
  const framed = (value) => ({
    ...picker('own.png'),
    inputs: [{ name: 'linked_image', type: 'IMAGE', link: null }, { name: 'frame', type: 'INT', link: null }],
    widgets: [...picker('own.png').widgets, { name: 'frame', value }]
  })
  const number = (more) => ({ inputs: [], outputs: [{ type: 'INT' }], widgets: [{ name: 'value', value: 0 }], ...more })
  const kind = (nodes, links) => find(graph(nodes, [[7, 2, 0, 1, 0], ...links])).kind
  const file = loader('a.gif')
  assert.equal(kind({ 1: framed(0), 2: file }, []), 'known')
  assert.equal(kind({ 1: framed(3), 2: file }, []), 'linked')
  assert.equal(kind({ 1: framed(0), 2: file, 3: number() }, [[8, 3, 0, 1, 1]]), 'linked', 'computed')
  assert.equal(kind({ 1: framed(5), 2: file, 3: number({ isVirtualNode: true }) }, [[8, 3, 0, 1, 1]]), 'known', 'a primitive')
  assert.equal(kind({ 1: picker(''), 2: framed(0), 3: file }, [[8, 3, 0, 2, 0]]), 'known')
  assert.equal(kind({ 1: picker(''), 2: framed(1), 3: file }, [[8, 3, 0, 2, 0]]), 'linked')
})
