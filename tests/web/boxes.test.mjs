import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as b from '../../web/picker/boxes.js'
import { seeded } from './random.mjs'

const RECT = { x: 0, y: 0, width: 400, height: 200 }
const PICTURE = { width: 800, height: 400 }
const BOX = [0.25, 0.25, 0.5, 0.75] // on the stage: 100, 50 to 200, 150

const near = (box, expected) => box.forEach((c, i) => assert.ok(Math.abs(c - expected[i]) < 1e-9, `${box} is not ${expected}`))

test('a box lies between two corners, whichever comes first, and has at least one pixel', () => {
  assert.deepEqual(b.between([0.5, 0.75], [0.25, 0.25], PICTURE), BOX)
  near(b.between([1, 1], [1, 1], PICTURE), [1 - 1 / 800, 1 - 1 / 400, 1, 1])
})

test('edges, corners and the inside are told apart', () => {
  const part = (x, y) => b.hit([BOX], { x, y }, RECT, 6)?.part
  assert.deepEqual(part(100, 100), { x: -1, y: 0 })
  assert.deepEqual(part(203, 100), { x: 1, y: 0 })
  assert.deepEqual(part(150, 48), { x: 0, y: -1 })
  assert.deepEqual(part(98, 152), { x: -1, y: 1 })
  assert.deepEqual(part(150, 100), { x: 0, y: 0 })
  assert.equal(part(150, 40), undefined)
  assert.equal(part(90, 48), undefined)
})

test('a tiny box can still be moved', () => {
  assert.deepEqual(b.hit([[0.25, 0.25, 0.26, 0.27]], { x: 102, y: 52 }, RECT, 6).part, { x: 0, y: 0 })
})

test('of boxes within each other the smallest is taken, of edges and insides the edge', () => {
  const inner = [0.3, 0.4, 0.4, 0.6]
  const at = (x, y) => b.hit([inner, BOX], { x, y }, RECT, 6).index
  assert.equal(at(140, 100), 0)
  assert.equal(at(180, 100), 1)
  assert.equal(b.hit([[0, 0, 0.5, 0.5], [0.2, 0, 1, 1]], { x: 80, y: 60 }, RECT, 6).index, 1)
})

test('a moved box keeps its size and stays in the picture', () => {
  const inside = { x: 0, y: 0 }
  near(b.reshape(BOX, inside, 0.1, -0.1, PICTURE), [0.35, 0.15, 0.6, 0.65])
  near(b.reshape(BOX, inside, 9, -9, PICTURE), [0.75, 0, 1, 0.5])
})

test('a held edge moves alone, to the other edge at most', () => {
  near(b.reshape(BOX, { x: -1, y: 0 }, -0.1, 0.3, PICTURE), [0.15, 0.25, 0.5, 0.75])
  near(b.reshape(BOX, { x: 1, y: 1 }, 9, 0.1, PICTURE), [0.25, 0.25, 1, 0.85])
  near(b.reshape(BOX, { x: -1, y: 0 }, 9, 0, PICTURE), [0.5 - 1 / 800, 0.25, 0.5, 0.75])
})

test('arrows move it by pixels; with corner they resize it', () => {
  near(b.nudge(BOX, 8, -4, PICTURE), [0.26, 0.24, 0.51, 0.74])
  near(b.nudge(BOX, 8, 4, PICTURE, true), [0.25, 0.25, 0.51, 0.76])
})

test('whatever is done to a box, it is one', () => {
  const random = seeded(3)
  const sides = [-1, 0, 1]
  let box = BOX
  for (let i = 0; i < 3000; i++) {
    const part = { x: random.pick(sides), y: random.pick(sides) }
    box = b.reshape(box, part, random.between(-0.7, 0.7), random.between(-0.7, 0.7), PICTURE)
    const [left, top, right, bottom] = box
    assert.ok(left >= 0 && top >= 0 && right <= 1 && bottom <= 1, `${box}`)
    assert.ok(right - left > 0.99 / 800 && bottom - top > 0.99 / 400, `${box}`)
  }
})
