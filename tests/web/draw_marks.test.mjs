import assert from 'node:assert/strict'
import { test } from 'node:test'
import { drawBoxes, drawPoints } from '../../web/picker/draw_marks.js'

const STAGE = { width: 400, height: 300 }
const RECT = { x: 2, y: 2, width: 396, height: 296 } // the picture fills the stage but for its margin
const WIDTH = 6 // of a character
const HEIGHT = 9 // of a number above its baseline, with its outline
const marks = (positive, negative = [], boxes = []) => ({ positive, negative, boxes })

/** The texts that a layer draws: [{text, x, y, alpha}]. */
function drawn(layer, subjects, active = 0, rect = RECT) {
  const texts = []
  const context = {
    measureText: (text) => ({ width: WIDTH * text.length }),
    fillText: (text, x, y) => texts.push({ text, x, y, alpha: context.globalAlpha })
  }
  const any = new Proxy(context, { get: (target, name) => target[name] ?? (() => {}) })
  layer(any, { editor: { subjects, active, points: subjects[active], stage: STAGE, selection: null, hover: null }, rect })
  return texts
}

test('a number is nowhere cut by the edge of the stage', () => {
  const corners = [[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0], [1, 0.5]]
  const numbers = drawn(drawPoints, [marks(corners)])
  assert.equal(numbers.length, corners.length)
  for (const { text, x, y } of numbers) {
    assert.ok(y - HEIGHT >= 0 && y <= STAGE.height, `${text} at height ${y}`)
    assert.ok(x >= 0 && x + WIDTH * text.length <= STAGE.width, `${text} at ${x}`)
  }
  const [box] = drawn(drawBoxes, [marks([], [], [[0.99, 0, 1, 1]])])
  assert.ok(box.x + WIDTH <= STAGE.width && box.y - HEIGHT >= 0)
})

test('elsewhere it stands at the upper right of its mark', () => {
  const [{ x, y }] = drawn(drawPoints, [marks([[0.5, 0.5]])])
  assert.ok(x > 200 && y < 150)
})

test('a point that is zoomed out of sight leaves no number at the edge', () => {
  const zoomed = { x: -396, y: -296, width: 4 * 396, height: 4 * 296 }
  const [above, right] = drawn(drawPoints, [marks([[0.4, 0.1], [0.9, 0.5]])], 0, zoomed)
  assert.ok(above.y < 0 && right.x > STAGE.width)
})

test('the points of other subjects stay in sight, faintly, in a tab that has none yet', () => {
  const others = (active, ...subjects) => drawn(drawPoints, subjects, active).filter(({ alpha }) => alpha < 1).map(({ text }) => text)
  const first = marks([[0.2, 0.2], [0.3, 0.3]], [[0.9, 0.9]])
  assert.deepEqual(others(1, first, marks([])), ['1', '1'])
  assert.deepEqual(others(1, first, marks([[0.5, 0.5]])), ['1', '1'], 'as with the first point of its own')
  assert.deepEqual(others(1, first, marks([], [[0.5, 0.5]])), [], 'they do not count where it has negative ones')
  assert.deepEqual(others(2, first, marks([[0.5, 0.5]]), marks([])), ['1', '1', '2'])
})
