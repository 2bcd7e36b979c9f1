import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as g from '../../web/picker/geometry.js'
import { toJson } from '../../web/picker/points.js'
import { makeEditor } from './make_editor.mjs'

test('it starts empty: nobody has clicked yet', () => {
  const { editor, log } = makeEditor()
  assert.equal(editor.value, '{"v":1,"positive":[],"negative":[]}')
  assert.deepEqual(log.changes, [])
})

test('a click adds a point of the active sign; right button and Alt add the other', () => {
  const { click, points, editor, log } = makeEditor()
  click(200, 200)
  assert.deepEqual(points(), { v: 1, positive: [[0.5, 0.5]], negative: [] })
  click(101, 150.5, { button: 2 })
  click(299, 150.5, { alt: true })
  assert.deepEqual(points().negative, [[0.25, 0.25], [0.75, 0.25]])
  editor.setSign('negative')
  click(101, 249.5)
  click(299, 249.5, { button: 2 })
  assert.deepEqual(points().negative[2], [0.25, 0.75])
  assert.deepEqual(points().positive[1], [0.75, 0.75])
  assert.equal(log.changes.length, 5)
  assert.equal(log.changes.at(-1), editor.value)
})

test('a press beside the picture adds nothing and deselects', () => {
  const { click, points, editor } = makeEditor()
  click(200, 200)
  click(200, 50)
  assert.equal(points().positive.length, 1)
  assert.equal(editor.selection, null)
})

test('press, drag, release places the point where it was released, as one step', () => {
  const { drag, points, log } = makeEditor()
  drag([200, 200], [101, 150.5])
  assert.deepEqual(points().positive, [[0.25, 0.25]])
  assert.equal(log.changes.length, 1)
})

test('dragging moves the point without a jump; a shaky click does not move it', () => {
  const { click, drag, points } = makeEditor()
  click(200, 200)
  drag([205, 203], [207, 204]) // less than the threshold
  assert.deepEqual(points().positive, [[0.5, 0.5]])
  drag([205, 203], [304, 203]) // 99 stage pixels = a quarter of the width
  assert.deepEqual(points().positive, [[0.75, 0.5]])
})

test('a point dragged over the edge stays on the edge', () => {
  const { click, drag, points } = makeEditor()
  click(200, 200)
  drag([200, 200], [900, -50])
  assert.deepEqual(points().positive, [[1, 0]])
})

test('right-click or X on a point gives it the other sign', () => {
  const { click, key, points } = makeEditor()
  click(200, 200)
  click(201, 201, { button: 2 })
  assert.deepEqual(points(), { v: 1, positive: [], negative: [[0.5, 0.5]] })
  key('x')
  assert.deepEqual(points(), { v: 1, positive: [[0.5, 0.5]], negative: [] })
})

test('X without a selection, + and - choose the sign of the next click', () => {
  const { key, editor } = makeEditor()
  key('X')
  assert.equal(editor.sign, 'negative')
  key('+')
  assert.equal(editor.sign, 'positive')
  key('-')
  assert.equal(editor.sign, 'negative')
})

test('arrows move by one pixel of the picture, with Shift by ten; a run of them is one undo', () => {
  const { click, key, points } = makeEditor()
  click(200, 200)
  key('ArrowRight')
  key('ArrowRight')
  key('ArrowUp', { shift: true })
  assert.deepEqual(points().positive, [[0.502, 0.48]])
  key('z', { ctrl: true })
  assert.deepEqual(points().positive, [[0.5, 0.5]])
})

test('Delete and Backspace remove the selected point, and are ours even with nothing selected', () => {
  const { click, key, points } = makeEditor()
  click(200, 200)
  click(300, 200)
  assert.equal(key('Delete'), true)
  assert.deepEqual(points().positive, [[0.5, 0.5]])
  assert.equal(key('Backspace'), true)
  assert.deepEqual(points().positive, [])
  assert.equal(key('Delete'), true)
})

test('Tab goes through the points and then on to the next control; Escape deselects, once', () => {
  const { click, key, editor } = makeEditor()
  click(200, 200)
  click(300, 200, { button: 2 })
  key('Escape')
  assert.equal(editor.selection, null)
  assert.equal(key('Escape'), false)
  assert.equal(key('Tab'), true)
  assert.deepEqual(editor.selection, { sign: 'positive', index: 0 })
  assert.equal(key('Tab'), true)
  assert.deepEqual(editor.selection, { sign: 'negative', index: 0 })
  assert.equal(key('Tab'), false)
  assert.equal(key('Tab', { shift: true }), true)
  assert.deepEqual(editor.selection, { sign: 'negative', index: 0 })
})

test('the keyboard alone can place, move, flip and remove', () => {
  const { key, points } = makeEditor()
  key('Enter')
  key('ArrowLeft', { shift: true })
  key('-')
  key('Enter')
  assert.deepEqual(points(), { v: 1, positive: [[0.49, 0.5]], negative: [[0.5, 0.5]] })
  key('x')
  assert.equal(points().positive.length, 2)
})

test('other keys and shortcuts are left to the graph', () => {
  const { key } = makeEditor()
  for (const name of ['r', 'q', 'F5', 'Shift']) assert.equal(key(name), false, name)
  assert.equal(key('Enter', { ctrl: true }), false)
  assert.equal(key('c', { ctrl: true }), false)
  assert.equal(key('z', { ctrl: true }), true) // nothing to undo, but not the graph's turn
})

test('undo and redo by keys, in both spellings', () => {
  const { click, key, points } = makeEditor()
  click(200, 200)
  click(300, 200)
  key('z', { ctrl: true })
  key('z', { ctrl: true })
  assert.equal(points().positive.length, 0)
  key('Z', { ctrl: true, shift: true })
  key('y', { ctrl: true })
  assert.equal(points().positive.length, 2)
})

test('Escape or a lost pointer ends a gesture as if it had not begun', () => {
  const { click, press, move, release, key, editor, at, log } = makeEditor()
  click(200, 200)
  const before = editor.value
  press(300, 200)
  move(320, 200)
  key('Escape')
  release(320, 200)
  press(200, 200)
  move(250, 250)
  editor.gestures.cancel(at(250, 250))
  release(250, 250)
  assert.equal(editor.value, before)
  assert.deepEqual(editor.points, JSON.parse(before).positive && { positive: [[0.5, 0.5]], negative: [], boxes: [] })
  assert.equal(log.changes.length, 1)
})

test('two fingers pinch and pan; the point that the first finger began is taken back', () => {
  const { press, move, release, editor } = makeEditor()
  const first = { id: 1, type: 'touch' }
  const second = { id: 2, type: 'touch' }
  press(150, 200, first)
  press(250, 200, second)
  const [x] = g.toImage({ x: 200, y: 200 }, editor.rect)
  move(100, 200, first)
  move(300, 200, second)
  release(100, 200, first)
  release(300, 200, second)
  assert.ok(Math.abs(editor.view.zoom - 2) < 1e-9)
  assert.ok(Math.abs(g.toImage({ x: 200, y: 200 }, editor.rect)[0] - x) < 1e-9)
  assert.equal(editor.value, toJson({ positive: [], negative: [] }))
  press(200, 200, first) // afterwards one finger places again
  release(200, 200, first)
  assert.equal(JSON.parse(editor.value).positive.length, 1)
})

test('the middle button, or any with Space held, pans', () => {
  const { drag, editor } = makeEditor()
  editor.zoom(4)
  const { x } = editor.view
  drag([200, 200], [240, 200], { button: 1 })
  assert.ok(editor.view.x < x)
  drag([240, 200], [200, 200], { pan: true })
  assert.ok(Math.abs(editor.view.x - x) < 1e-9)
  assert.equal(JSON.parse(editor.value).positive.length, 0)
})

test('a double-click fits the picture and takes back the point of its first click', () => {
  const { click, editor, log } = makeEditor()
  editor.zoom(4)
  click(200, 200, { time: 1000 })
  click(200, 200, { time: 1150 })
  editor.gestures.doubleClick({ x: 200, y: 200, time: 1160 })
  assert.equal(editor.isZoomed, false)
  assert.equal(JSON.parse(editor.value).positive.length, 0)
  assert.equal(log.changes.at(-1), editor.value)
  assert.equal(editor.canRedo, false)
})

test('a double-click on an older point keeps it', () => {
  const { click, editor } = makeEditor()
  editor.zoom(4)
  click(200, 200, { time: 0 })
  click(200, 200, { time: 5000 })
  click(200, 200, { time: 5100 })
  editor.gestures.doubleClick({ x: 200, y: 200, time: 5110 })
  assert.equal(JSON.parse(editor.value).positive.length, 1)
  assert.equal(editor.isZoomed, false)
})

test('a double-click on a fitted picture is just a click', () => {
  const { click, editor } = makeEditor()
  click(200, 200, { time: 0 })
  click(200, 200, { time: 100 })
  editor.gestures.doubleClick({ x: 200, y: 200, time: 110 })
  assert.equal(JSON.parse(editor.value).positive.length, 1)
})

test('a value from outside replaces the points, forgets the history and is given back letter for letter', () => {
  const { editor, click, log } = makeEditor()
  click(200, 200)
  const text = '{"v": 1, "positive": [[0.1234567891, 0.5]], "negative": []}'
  editor.value = text
  assert.equal(editor.value, text)
  assert.equal(editor.canUndo, false)
  assert.deepEqual(editor.points.positive, [[0.1234567891, 0.5]])
  assert.equal(log.changes.length, 1) // setting is not an edit
})

test('setting the same value again keeps selection and history', () => {
  const { editor, click } = makeEditor()
  click(200, 200)
  editor.value = editor.value
  assert.equal(editor.canUndo, true)
  assert.ok(editor.selection)
})

test('a text that cannot be read is kept until the user edits, and undo brings it back', () => {
  const { editor, click, key } = makeEditor()
  const newer = '{"v":7,"positive":[[0.5,0.5]],"negative":[],"shape":"round"}'
  editor.value = newer
  assert.match(editor.problem, /version 7/)
  assert.equal(editor.value, newer)
  click(200, 200)
  assert.equal(editor.problem, null)
  assert.equal(JSON.parse(editor.value).positive.length, 1)
  key('z', { ctrl: true })
  assert.equal(editor.value, newer)
  assert.match(editor.problem, /version 7/)
})

test('another picture keeps the points and fits', () => {
  const { editor, click } = makeEditor()
  click(200, 200)
  const before = editor.value
  editor.zoom(4)
  editor.setPicture({ width: 32, height: 32 })
  assert.equal(editor.value, before)
  assert.equal(editor.isZoomed, false)
})

test('without a picture nothing can be placed', () => {
  const { editor, click, key, points } = makeEditor()
  editor.setPicture(null)
  click(200, 200)
  key('Enter')
  key('ArrowLeft')
  editor.gestures.doubleClick({ x: 1, y: 1, time: 0 })
  assert.deepEqual(points().positive, [])
})

test('pasting is one step; a list replaces the points of the active sign', () => {
  const { editor, click, points, key, log } = makeEditor()
  click(200, 200)
  assert.equal(editor.paste('[{"x": 0, "y": 250}, {"x": 1000, "y": 500}]'), true)
  assert.deepEqual(points().positive, [[0.0005, 0.501], [1, 1]])
  key('z', { ctrl: true })
  assert.deepEqual(points().positive, [[0.5, 0.5]])
  assert.equal(editor.paste('some words'), false)
  assert.equal(editor.paste('[{"x": -1, "y": 2}]'), true)
  assert.match(log.said.at(-1), /outside/)
  assert.deepEqual(points().positive, [[0.5, 0.5]])
})

test('the 65th point of a sign is refused in words', () => {
  const { editor, click, points, log } = makeEditor()
  editor.value = toJson({ positive: Array.from({ length: 64 }, (_, i) => [i / 64, 0.1]), negative: [] })
  click(200, 250)
  assert.equal(points().positive.length, 64)
  assert.match(log.said.at(-1), /64/)
  click(200, 250, { button: 2 })
  assert.equal(points().negative.length, 1)
})

test('what is done is said, for those who do not see it', () => {
  const { click, key, log } = makeEditor()
  click(200, 200)
  assert.equal(log.said.at(-1), 'Positive point 1 at 500, 250')
  key('Delete')
  assert.match(log.said.at(-1), /removed/)
})

test('M goes through the overlays and says so, without a step of history', () => {
  const { editor, key, log } = makeEditor()
  const seen = []
  for (let i = 0; i < 4; i++) {
    assert.equal(key('m'), true)
    seen.push(editor.overlay)
  }
  assert.deepEqual(seen, ['masks', 'similarity', 'none', 'masks'])
  assert.deepEqual(log.said, ['Masks shown.', 'Similarity shown.', 'Masks hidden.', 'Masks shown.'])
  assert.equal(editor.canUndo, false)
  assert.deepEqual(log.changes, [])
})

test('when points are renumbered, what was under the pointer does not name another one', () => {
  const { editor, click, move } = makeEditor()
  for (const again of [
    () => click(101, 150.5, { button: 2 }), // the first becomes the last negative one
    () => editor.removeSelected(),
    () => editor.clear('positive')
  ]) {
    editor.value = toJson({ positive: [[0.25, 0.25], [0.75, 0.75]], negative: [] })
    editor.select({ sign: 'positive', index: 0 })
    move(101, 150.5)
    assert.deepEqual(editor.hover, { sign: 'positive', index: 0 })
    again()
    assert.equal(editor.hover, null)
  }
})
