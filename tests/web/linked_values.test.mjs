import assert from 'node:assert/strict'
import { test } from 'node:test'
import { forgetLinked, rememberLinked, linkedValue } from '../../web/picker/linked_values.js'

const tab = (path) => ({ extensionManager: { workflow: { activeWorkflow: { path } } } })

/** A picker as ComfyUI makes it at each load: nothing of the object before is left. */
function picker({ id = 5, graph = 'g', from = [1, 0] } = {}) {
  const links = { 9: from && { origin_id: from[0], origin_slot: from[1] } }
  return { id, graph: { id: graph, links }, inputs: [{ name: 'linked_image', link: from ? 9 : null }] }
}

const keep = (node, app, name) => rememberLinked(node, 'linked_image', app, { filename: name })
const read = (node, app) => linkedValue(node, 'linked_image', app)?.filename

test('the picture of a run belongs to the node and its link, not to the object', () => {
  keep(picker(), tab('a.json'), 'first.png')
  assert.equal(read(picker(), tab('a.json')), 'first.png')
  assert.equal(read(picker({ id: '5' }), tab('a.json')), 'first.png') // newer frontends write ids as texts
  keep(picker({ from: [2, 0] }), tab('a.json'), 'second.png')
  keep(picker({ from: [2, 1] }), tab('a.json'), 'third.png')
  assert.equal(read(picker(), tab('a.json')), 'first.png')
  assert.equal(read(picker({ from: [2, 0] }), tab('a.json')), 'second.png')
  keep(picker(), tab('a.json'), 'later.png')
  assert.equal(read(picker(), tab('a.json')), 'later.png')
})

test('another node, subgraph or tab has none of it', () => {
  keep(picker(), tab('a.json'), 'first.png')
  assert.equal(read(picker({ id: 6 }), tab('a.json')), undefined)
  assert.equal(read(picker({ graph: 'inner' }), tab('a.json')), undefined)
  assert.equal(read(picker(), tab('copy.json')), undefined)
})

test('without a link there is nothing to keep, and a frontend without tabs is none to fail at', () => {
  keep(picker({ from: null }), tab('a.json'), 'lost.png')
  assert.equal(read(picker({ from: null }), tab('a.json')), undefined)
  keep(picker(), {}, 'first.png')
  assert.equal(read(picker(), {}), 'first.png')
})

test('a cleared graph starts empty, since its ids may come again', () => {
  keep(picker(), tab('a.json'), 'first.png')
  forgetLinked()
  assert.equal(read(picker(), tab('a.json')), undefined)
})
