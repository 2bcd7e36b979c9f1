import assert from 'node:assert/strict'
import { test } from 'node:test'
import { History } from '../../web/common/history.js'
import * as p from '../../web/picker/points.js'

const SOME = { positive: [[0.25, 0.5]], negative: [[1, 0], [0.1, 0.9]], boxes: [] }
const PICTURE = { width: 200, height: 100 }

test('the saved text is versioned and reads back the same', () => {
  const text = p.toJson(SOME)
  assert.equal(text, '{"v":1,"positive":[[0.25,0.5]],"negative":[[1,0],[0.1,0.9]]}')
  assert.deepEqual(p.fromJson(text), SOME)
  assert.equal(p.toJson(p.fromJson(text)), text)
})

test('nothing saved yet is an empty list', () => {
  for (const nothing of ['', null, undefined]) assert.deepEqual(p.fromJson(nothing), p.EMPTY)
})

test('rounding keeps a hundredth of a pixel of a huge picture, and has no negative zero', () => {
  const text = p.toJson({ positive: [[1 / 3, -0]], negative: [] })
  assert.equal(text, '{"v":1,"positive":[[0.333333,0]],"negative":[]}')
})

test('a text that is not such a list is refused in words', () => {
  const bad = {
    '{': /JSON/,
    '[]': /list of points/,
    '{"positive":[]}': /list of points/,
    '{"v":3,"positive":[]}': /format version 3; this editor reads version 2/,
    '{"v":1,"positive":[[0.5,1.2]],"negative":[]}': /Positive point 1/,
    '{"v":1,"positive":[],"negative":[[0.5,0.5],[0.5]]}': /Negative point 2/,
    '{"v":1,"positive":"x"}': /list/
  }
  for (const [text, message] of Object.entries(bad)) assert.throws(() => p.fromJson(text), message, text)
})

test('points pasted from KJNodes are pixels of this picture', () => {
  const list = p.fromPasted('[{"x": 49.5, "y": 49.5}, {"x": 200, "y": 0}]', 'negative', PICTURE)
  assert.deepEqual(list, { points: { positive: [], negative: [[0.25, 0.5], [1, 0.005]], boxes: [] }, sign: 'negative' })
  const both = p.fromPasted('{"positive": [{"x": 100, "y": 25}], "negative": []}', 'negative', PICTURE)
  assert.deepEqual(both, { points: { positive: [[0.5025, 0.255]], negative: [], boxes: [] }, sign: null })
})

test('points of KJNodes that are normalised, and the one it puts at 0, 0 by itself', () => {
  const pasted = (text, sign = 'positive') => p.fromPasted(text, sign, PICTURE).points
  assert.deepEqual(pasted('[{"x": 0.25, "y": 1}]').positive, [[0.2525, 1]])
  assert.deepEqual(pasted('[{"x": 1, "y": 1}]').positive, [[0.0075, 0.015]], 'no fraction: a pixel')
  assert.deepEqual(pasted('[{"x": 0.5, "y": 1.5}]').positive, [[0.005, 0.02]], 'above 1: pixels')
  const both = '{"positive": [{"x": 0.5, "y": 0}], "negative": [{"x": 0, "y": 0}, {"x": 1, "y": 0}]}'
  assert.deepEqual(pasted(both), { positive: [[0.5025, 0.005]], negative: [[1, 0.005]], boxes: [] })
  assert.deepEqual(pasted('[{"x": 0, "y": 0}]', 'negative').negative, [])
  assert.deepEqual(pasted('[{"x": 0, "y": 0}]').positive, [[0.0025, 0.005]])
})

test('our own text can be pasted, with or without a picture', () => {
  assert.deepEqual(p.fromPasted(p.toJson(SOME), 'positive', null), { points: SOME, sign: null })
})

test('a paste that means something else is left alone, one that is wrong says so', () => {
  for (const text of ['hello', '{"nodes": []}', '[1, 2]', '[]', '3', '{"last_node_id": 1}']) {
    assert.equal(p.fromPasted(text, 'positive', PICTURE), null, text)
  }
  assert.throws(() => p.fromPasted('[{"x": 201, "y": 5}]', 'positive', PICTURE), /outside the picture of 200 × 100/)
  assert.throws(() => p.fromPasted('[{"x": 1, "y": 5}]', 'positive', null), /picture/)
  const tooMany = JSON.stringify(Array.from({ length: 65 }, () => ({ x: 1, y: 1 })))
  assert.throws(() => p.fromPasted(tooMany, 'positive', PICTURE), /at most 64/)
})

test('changes make new states and leave the old one alone', () => {
  const before = p.toJson(SOME)
  assert.equal(p.count(p.add(SOME, 'positive', [0.3, 0.3])), 4)
  assert.deepEqual(p.move(SOME, { sign: 'negative', index: 0 }, [0.5, 0.5]).negative, [[0.5, 0.5], [0.1, 0.9]])
  assert.deepEqual(p.remove(SOME, { sign: 'negative', index: 0 }).negative, [[0.1, 0.9]])
  assert.deepEqual(p.flip(SOME, { sign: 'negative', index: 0 }), { positive: [[0.25, 0.5], [1, 0]], negative: [[0.1, 0.9]], boxes: [] })
  assert.deepEqual(p.clear(SOME, 'negative'), { positive: [[0.25, 0.5]], negative: [], boxes: [] })
  assert.equal(p.toJson(SOME), before)
})

test('Tab visits boxes after the points', () => {
  const boxed = { ...p.EMPTY, positive: [[0, 0]], boxes: [[0, 0, 1, 1]] }
  assert.deepEqual(p.neighbour(boxed, { sign: 'positive', index: 0 }, 1), { sign: 'boxes', index: 0 })
  assert.equal(p.neighbour(boxed, { sign: 'boxes', index: 0 }, 1), null)
})

test('Tab visits every point once, positive first, and ends', () => {
  const seen = []
  for (let at = p.neighbour(SOME, null, 1); at; at = p.neighbour(SOME, at, 1)) seen.push(`${at.sign} ${at.index}`)
  assert.deepEqual(seen, ['positive 0', 'negative 0', 'negative 1'])
  assert.deepEqual(p.neighbour(SOME, null, -1), { sign: 'negative', index: 1 })
  assert.equal(p.neighbour(p.EMPTY, null, 1), null)
})

test('history: undo, redo, and a new step that ends the redo', () => {
  const history = new History('a')
  assert.equal(history.undo(), false)
  history.push('b')
  history.push('c')
  assert.equal(history.push('c'), false)
  history.undo()
  history.undo()
  assert.equal(history.value, 'a')
  history.redo()
  assert.equal(history.value, 'b')
  history.push('d')
  assert.equal(history.redo(), false)
  history.undo()
  assert.equal(history.value, 'b')
})

test('history: a held key is one step, and one that leads back to its start is none', () => {
  const history = new History('a')
  history.push('b', 'key')
  history.push('c', 'key')
  history.undo()
  assert.equal(history.value, 'a')
  history.push('b', 'key')
  history.push('a', 'key')
  assert.equal(history.canUndo, false)
  history.push('b', 'key')
  history.seal()
  history.push('c', 'key')
  history.undo()
  assert.equal(history.value, 'b')
})

test('history: a discarded step cannot be redone; a reset forgets', () => {
  const history = new History('a')
  history.push('b')
  assert.equal(history.discard(), true)
  assert.deepEqual([history.value, history.canRedo, history.discard()], ['a', false, false])
  history.push('b')
  history.reset('z')
  assert.deepEqual([history.value, history.canUndo, history.canRedo], ['z', false, false])
})
