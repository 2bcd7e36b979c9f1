import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as g from '../../web/picker/geometry.js'
import { seeded } from './random.mjs'

const SIZES = [
  { width: 6000, height: 4000 },
  { width: 32, height: 32 },
  { width: 300, height: 2000 },
  { width: 5000, height: 250 }
]
const STAGE = { width: 360, height: 290 }

const close = (a, b, tolerance = 1e-9) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`)

test('fitted, the whole picture is on the stage, centred, in its own shape', () => {
  for (const picture of SIZES) {
    const rect = g.pictureRect(STAGE, picture, g.FIT)
    assert.ok(rect.x >= 0 && rect.y >= 0 && rect.x + rect.width <= STAGE.width && rect.y + rect.height <= STAGE.height)
    close(rect.width / rect.height, picture.width / picture.height, 1e-6)
    close(rect.x + rect.width / 2, STAGE.width / 2, 1e-9)
    close(rect.y + rect.height / 2, STAGE.height / 2, 1e-9)
  }
})

test('to the image and back is the same place, in any view', () => {
  const random = seeded(1)
  for (let i = 0; i < 500; i++) {
    const picture = random.pick(SIZES)
    const view = g.clampView({ zoom: random.between(1, 40), x: random.next(), y: random.next() }, STAGE, picture)
    const rect = g.pictureRect(STAGE, picture, view)
    const at = { x: random.between(0, STAGE.width), y: random.between(0, STAGE.height) }
    const back = g.fromImage(g.toImage(at, rect), rect)
    close(back.x, at.x, 1e-6)
    close(back.y, at.y, 1e-6)
  }
})

test('zooming in keeps what is under the pointer under the pointer', () => {
  const random = seeded(2)
  for (let i = 0; i < 300; i++) {
    const picture = random.pick(SIZES)
    const view = g.clampView({ zoom: 2 + random.next(), x: 0.5, y: 0.5 }, STAGE, picture)
    const before = g.pictureRect(STAGE, picture, view)
    // Where the picture fills the stage, so that no border holds it back.
    if (before.width < STAGE.width || before.height < STAGE.height) continue
    const at = { x: random.between(0, STAGE.width), y: random.between(0, STAGE.height) }
    const after = g.pictureRect(STAGE, picture, g.zoomAt(view, 1.5, at, STAGE, picture))
    const [x0, y0] = g.toImage(at, before)
    const [x1, y1] = g.toImage(at, after)
    close(x0, x1, 1e-9)
    close(y0, y1, 1e-9)
  }
})

test('no view shows an empty border that a pan could avoid, nor leaves the zoom range', () => {
  const random = seeded(3)
  for (const picture of SIZES) {
    let view = g.FIT
    for (let i = 0; i < 400; i++) {
      const at = { x: random.between(-50, 400), y: random.between(-50, 400) }
      view =
        random.next() < 0.5
          ? g.zoomAt(view, random.between(0.3, 3), at, STAGE, picture)
          : g.panBy(view, random.between(-500, 500), random.between(-500, 500), STAGE, picture)
      const rect = g.pictureRect(STAGE, picture, view)
      assert.ok(view.zoom >= 1 && view.zoom <= g.maxZoom(STAGE, picture))
      for (const [start, span, room] of [
        [rect.x, rect.width, STAGE.width],
        [rect.y, rect.height, STAGE.height]
      ]) {
        if (span >= room) assert.ok(start <= 1e-6 && start + span >= room - 1e-6)
        else close(start + span / 2, room / 2, 1e-6)
      }
    }
  }
})

test('one pixel of the largest and of the smallest picture can be seen at the greatest zoom', () => {
  for (const picture of SIZES) assert.ok(g.fitScale(STAGE, picture) * g.maxZoom(STAGE, picture) >= 48 - 1e-9)
})

test('a wheel notch zooms in for up, out for down, alike in all units', () => {
  assert.ok(g.wheelFactor(-100, 0) > 1.1 && g.wheelFactor(-100, 0) < 1.3)
  close(g.wheelFactor(-100, 0) * g.wheelFactor(100, 0), 1)
  close(g.wheelFactor(3, 1), g.wheelFactor(99, 0))
  assert.ok(g.wheelFactor(-1e6, 0) < 2)
})

test('a press takes the nearest point of either sign within the radius', () => {
  const points = { positive: [[0.2, 0.2]], negative: [[0.25, 0.2]] }
  const rect = { x: 10, y: 10, width: 200, height: 100, scale: 1 }
  assert.deepEqual(g.hit(points, { x: 51, y: 30 }, rect, 12), { sign: 'positive', index: 0 })
  assert.deepEqual(g.hit(points, { x: 58, y: 30 }, rect, 12), { sign: 'negative', index: 0 })
  assert.equal(g.hit(points, { x: 100, y: 90 }, rect, 12), null)
})

test('a nudge is a pixel of the picture and stops at its edge', () => {
  const picture = { width: 200, height: 100 }
  assert.deepEqual(g.nudge([0.5, 0.5], 1, -10, picture), [0.505, 0.4])
  assert.deepEqual(g.nudge([0.999, 0], 10, -1, picture), [1, 0])
})

test('pixels are those of the coordinate texts: whole, and never outside', () => {
  const picture = { width: 200, height: 100 }
  assert.deepEqual(g.toPixel([1, 1], picture), [199, 99])
  assert.deepEqual(g.toPixel([0.5, 0.251], picture), [100, 25])
  assert.deepEqual(g.toPixel([0.5049, 0.2599], picture), [100, 25])
  assert.deepEqual(g.fromPixel({ x: 100, y: 25 }, picture), [0.5025, 0.255])
  assert.deepEqual(g.fromPixel({ x: 200, y: 99 }, picture), [1, 0.995])
})

test('the patch grid belongs to the square around the picture', () => {
  const wide = { width: 200, height: 100 }
  const lines = g.patchLines(wide, 4) // patches of 50 pixels; the picture is the middle half of the rows
  assert.deepEqual(lines.x, [0, 0.25, 0.5, 0.75, 1])
  assert.deepEqual(lines.y, [0, 0.5, 1])
  assert.deepEqual(g.patchOf([0.1, 0.1], wide, 4), [0, 1])
  assert.deepEqual(g.patchOf([1, 1], wide, 4), [3, 2])
  assert.deepEqual(g.patchRect([0.1, 0.1], wide, 4), { left: 0, top: 0, right: 0.25, bottom: 0.5 })
})

test('a shape has changed when the sides have another ratio, not when the picture was resized', () => {
  const old = { width: 1000, height: 750 }
  assert.equal(g.shapeChanged(old, { width: 500, height: 375 }), false)
  assert.equal(g.shapeChanged(old, { width: 501, height: 375 }), false)
  assert.equal(g.shapeChanged(old, { width: 750, height: 1000 }), true)
  assert.equal(g.shapeChanged(old, { width: 1000, height: 700 }), true)
})
