import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EMPTY } from '../../web/picker/points.js'
import { State } from '../../web/picker/state.js'
import * as s from '../../web/picker/subjects.js'

const clicked = (positive, negative = [], boxes = []) => ({ positive, negative, boxes })
const [A, B, C] = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
const BOX = [0.1, 0.1, 0.5, 0.5]
const ONE = '{"v":1,"positive":[[0.1,0.2]],"negative":[]}'
const TWO = '{"v":1,"positive":[[0.3,0.4]],"negative":[]}'

test('one subject without boxes is saved as older versions read it', () => {
  assert.equal(s.toText({ subjects: [clicked([A])], seed: '' }), ONE)
})

test('more than that is version 2, and reads back the same', () => {
  for (const content of [
    { subjects: [clicked([A]), EMPTY], seed: '' },
    { subjects: [clicked([A], [B], [BOX])], seed: '' },
    { subjects: [EMPTY], seed: 'abc' }
  ]) {
    const text = s.toText(content)
    assert.equal(JSON.parse(text).v, 2)
    assert.deepEqual(s.fromText(text), content)
  }
  const text = s.toText({ subjects: [clicked([A], [], [BOX]), clicked([B])], seed: '' })
  assert.equal(
    text,
    '{"v":2,"subjects":[{"positive":[[0.1,0.2]],"negative":[],"boxes":[[0.1,0.1,0.5,0.5]]},{"positive":[[0.3,0.4]],"negative":[]}]}'
  )
})

test('a text that is none is refused in words', () => {
  const bad = {
    '{"v":2}': /not a list of points/,
    '{"v":2,"subjects":[]}': /not a list of points/,
    '{"v":2,"subjects":[{},{},{},{},{}]}': /not a list of points/,
    '{"v":2,"subjects":[5]}': /not a list of points/,
    '{"v":2,"subjects":[{"boxes":[[0.5,0,0.5,1]]}]}': /boxes cannot be read/,
    '{"v":2,"subjects":[{"positive":[[2,0]]}]}': /Positive point 1/,
    '{"v":3,"subjects":[]}': /version 3/
  }
  for (const [text, message] of Object.entries(bad)) assert.throws(() => s.fromText(text), message, text)
})

test('a subject without negative points borrows the positive ones of the others, and no other does', () => {
  const all = [clicked([A]), clicked([B, C]), clicked([C], [A])]
  assert.deepEqual(s.pointsOf(all, 0).negative, [B, C, C])
  assert.deepEqual(s.borrowed(all, 1), [{ point: A, subject: 0 }, { point: C, subject: 2 }])
  assert.deepEqual(s.pointsOf(all, 2).negative, [A])
  assert.deepEqual(s.borrowed([clicked([A]), EMPTY], 1), [], 'nothing to tell apart yet')
  assert.equal(s.borrowed([clicked([A]), clicked(Array(64).fill(B)), clicked([C])], 0).length, 64)
})

test('a step is shown in the subject that it changed', () => {
  assert.equal(s.firstChanged([clicked([A]), clicked([B])], [clicked([A]), clicked([C])]), 1)
  assert.equal(s.firstChanged([clicked([A])], [clicked([A]), EMPTY]), 1)
  assert.equal(s.firstChanged([clicked([A])], [clicked([A])]), null)
})

const shown = (state) => state.subjects.map(({ positive }) => positive)

test('points from outside are shown while there are none, and are not the user\'s', () => {
  const state = new State()
  const empty = state.text
  assert.equal(state.setSeed(''), true)
  assert.equal(state.isSeedAwaited, true)
  state.setSeed(ONE)
  assert.deepEqual([shown(state), state.isSeedShown, state.text], [[[A]], true, empty])
  state.setSeed(TWO)
  assert.deepEqual(shown(state), [[B]], 'others follow while nothing was changed')
  state.setSeed(null)
  assert.deepEqual([shown(state), state.isSeedShown], [[[]], false])
})

test('the first change makes them the user\'s; others that come in are offered, and one step takes them', () => {
  const state = new State()
  state.setSeed(ONE)
  assert.equal(state.settle([clicked([A, C])]), true)
  assert.deepEqual([state.isSeedShown, state.hasOtherSeed, shown(state)], [false, false, [[A, C]]])
  state.setSeed(TWO)
  assert.deepEqual([state.hasOtherSeed, shown(state)], [true, [[A, C]]])
  const edited = state.text
  assert.equal(state.takeSeed(), true)
  assert.deepEqual([shown(state), state.isSeedShown, state.hasOtherSeed], [[[B]], true, false])
  state.travel('undo')
  assert.deepEqual([state.text, shown(state)], [edited, [[A, C]]])
})

test('points that were taken away stay away, also when loaded again', () => {
  const state = new State()
  state.setSeed(ONE)
  state.settle([EMPTY])
  assert.deepEqual([shown(state), state.isSeedShown, state.hasOtherSeed], [[[]], false, false])
  const again = new State()
  again.load(state.text)
  again.setSeed(ONE)
  assert.deepEqual([shown(again), again.isSeedShown, again.hasOtherSeed], [[[]], false, false])
  again.setSeed(TWO)
  assert.equal(again.hasOtherSeed, true)
})

test('undo of the first change shows the points from outside again', () => {
  const state = new State()
  state.setSeed(ONE)
  state.settle([clicked([A, C])])
  state.travel('undo')
  assert.deepEqual([state.isSeedShown, shown(state)], [true, [[A]]])
})

test('points that equal those from outside are not offered again, whoever wrote them', () => {
  const state = new State()
  state.load(ONE)
  state.setSeed('{"v": 1, "positive": [[0.1000000001, 0.2]], "negative": []}')
  assert.equal(state.hasOtherSeed, false)
})

test('without a wire nothing of it is saved any more', () => {
  const state = new State()
  state.setSeed(ONE)
  state.settle([clicked([B])])
  assert.equal(JSON.parse(state.text).v, 2)
  state.setSeed(null)
  state.settle([clicked([C])])
  assert.equal(JSON.parse(state.text).v, 1)
})
