import assert from 'node:assert/strict'
import { test } from 'node:test'
import { forgetLinked } from '../../web/picker/linked_values.js'
import { pointsIn, rememberPointsIn } from '../../web/picker/points_in.js'

const APP = {}

/** A picker as ComfyUI makes it at each load, with the properties that are saved with it. */
function picker({ from = [1, 0], properties = {} } = {}) {
  const links = { 9: from && { origin_id: from[0], origin_slot: from[1] } }
  return { id: 5, properties, graph: { id: 'g', links }, inputs: [{ name: 'points_in', link: from ? 9 : null }] }
}

test('without a wire there is nothing, before a run nothing is known', () => {
  assert.equal(pointsIn(picker({ from: null }), APP), null)
  assert.equal(pointsIn(picker(), APP), '')
})

test('what a run told is saved with the node, for the wire that it came over', () => {
  const node = picker()
  rememberPointsIn(node, APP, 'text')
  forgetLinked() // another session
  assert.equal(pointsIn(picker({ properties: node.properties }), APP), 'text')
  assert.equal(pointsIn(picker({ properties: node.properties, from: [2, 0] }), APP), '')
})

test('the graph\'s own undo takes the saved one back, but the run has been', () => {
  rememberPointsIn(picker(), APP, 'text')
  assert.equal(pointsIn(picker(), APP), 'text')
  forgetLinked()
})

test('a run in which nothing came in is remembered too: its source was muted', () => {
  const node = picker()
  rememberPointsIn(node, APP, 'text')
  rememberPointsIn(node, APP, undefined)
  assert.deepEqual([pointsIn(node, APP), node.properties], ['', {}])
  forgetLinked()
})
