import assert from 'node:assert/strict'
import { test } from 'node:test'
import { contours, decodeRunLengths, trace } from '../../web/picker/contours.js'
import { seeded } from './random.mjs'

test('the contours, filled by the even-odd rule, are the mask', () => {
  const random = seeded(3)
  for (let run = 0; run < 100; run++) {
    const size = [1 + random.below(9), 1 + random.below(9)]
    const share = random.pick([0, 0.4, 0.6, 1])
    const pixels = Uint8Array.from({ length: size[0] * size[1] }, () => (random.next() < share ? 1 : 0))
    const loops = contours(pixels, size)
    // A ray from a pixel's middle to the left crosses this many lines.
    const crossings = (x, y) => loops.reduce((sum, loop) => {
      const corners = Array.from({ length: loop.length / 2 }, (_, i) => [loop[2 * i], loop[2 * i + 1]])
      const lines = corners.map((corner, i) => [corner, corners[(i + 1) % corners.length]])
      const isCrossed = ([a, b]) => a[1] <= y !== b[1] <= y && a[0] + ((b[0] - a[0]) * (y - a[1])) / (b[1] - a[1]) < x
      return sum + lines.filter(isCrossed).length
    }, 0)
    pixels.forEach((one, i) => {
      assert.equal(crossings((i % size[0]) + 0.5, Math.floor(i / size[0]) + 0.5) % 2, one)
    })
  }
})

test('runs are read as they are written, also of an empty and a full mask', () => {
  assert.deepEqual([...decodeRunLengths([1, 2, 1], [2, 2])], [0, 1, 1, 0])
  assert.deepEqual([...decodeRunLengths([4], [2, 2])], [0, 0, 0, 0])
  assert.deepEqual([...decodeRunLengths([0, 4], [2, 2])], [1, 1, 1, 1])
})

test('a straight side is one line, a corner is cut by half a pixel', () => {
  const [loop, ...rest] = contours(decodeRunLengths([0, 12], [4, 3]), [4, 3])
  assert.deepEqual(rest, [])
  const points = Array.from({ length: loop.length / 2 }, (_, i) => [loop[2 * i], loop[2 * i + 1]].join()).sort()
  assert.deepEqual(points, ['0,0.5', '0,2.5', '0.5,0', '0.5,3', '3.5,0', '3.5,3', '4,0.5', '4,2.5'])
})

/** The lines that a canvas strokes, by its rules: a pen without a place starts where it is sent, closing leaves it at
 * the start. */
class Pen {
  lines = []
  moveTo(...place) { this.start = this.place = place }
  lineTo(...place) {
    if (this.place) this.lines.push([this.place, place])
    else this.start = place
    this.place = place
  }

  closePath() {
    this.lines.push([this.place, this.start])
    this.place = this.start
  }
}

test('the outline of a region with a hole, or of two regions, joins no two loops', () => {
  const ring = Uint8Array.from([1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1])
  const size = [5, 3]
  const loops = contours(ring, size)
  assert.equal(loops.length, 4)
  const pen = new Pen()
  trace(pen, loops, size)
  const edges = loops.flatMap((loop) => {
    const corners = Array.from({ length: loop.length / 2 }, (_, i) => [loop[2 * i] / 5, loop[2 * i + 1] / 3])
    return corners.map((corner, i) => [corner, corners[(i + 1) % corners.length]])
  })
  assert.deepEqual(pen.lines, edges)
})
