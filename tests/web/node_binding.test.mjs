import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bindView } from '../../web/common/node_binding.js'

const timers = new Map()
globalThis.setInterval = (call) => (timers.set(call, call), call)
globalThis.clearInterval = (id) => timers.delete(id)
const tick = () => timers.forEach((call) => call())

/** A node with callbacks of its own, and a view that says what is asked of it. */
function bound() {
  const log = []
  const view = { element: { dataset: {}, isConnected: true } }
  for (const name of ['attach', 'detach', 'refresh']) view[name] = () => log.push(name)
  const node = { comfyClass: 'A', id: 3, onAdded: () => log.push('own onAdded'), onConfigure: () => 'own result' }
  bindView(node, view, {}, {
    update: () => log.push('update'),
    added: () => log.push('added'),
    removed: () => log.push('removed'),
    executed: (output) => log.push(output)
  })
  return { node, view, taken: () => log.splice(0) }
}

test('the view works from when its node is added until it is removed, and again after that', () => {
  const { node, view, taken } = bound()
  tick()
  assert.deepEqual(taken(), [])
  for (let round = 0; round < 2; round++) {
    node.onAdded()
    assert.deepEqual(taken(), ['own onAdded', 'attach', 'added', 'refresh', 'update'])
    assert.equal(view.element.dataset.p3sRemoved, undefined)
    tick()
    assert.deepEqual(taken(), ['refresh', 'update'])
    node.onRemoved()
    assert.deepEqual(taken(), ['removed', 'detach'])
    assert.equal(view.element.dataset.p3sRemoved, 'A 3')
    tick()
    assert.deepEqual(taken(), [])
  }
})

test('added twice it starts once', () => {
  const { node, taken } = bound()
  node.onAdded()
  node.onAdded()
  assert.equal(taken().filter((name) => name === 'attach').length, 1)
  node.onRemoved()
  taken()
  tick()
  assert.deepEqual(taken(), [])
})

test('a loaded workflow and a run are read at once, the former only while the node is in a graph', () => {
  const { node, taken } = bound()
  assert.equal(node.onConfigure({}), 'own result')
  assert.deepEqual(taken(), [])
  node.onAdded()
  taken()
  node.onConfigure({})
  assert.deepEqual(taken(), ['refresh', 'update'])
  node.onExecuted('output')
  assert.deepEqual(taken(), ['output', 'refresh', 'update'])
  node.onRemoved()
})
