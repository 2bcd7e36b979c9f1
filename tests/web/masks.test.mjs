import assert from 'node:assert/strict'
import { test } from 'node:test'
import { describeMasks } from '../../web/picker/status.js'
import { contours, fromRuns, heatColours, MaskQuery, trace } from '../../web/picker/mask_client.js'
import { seeded } from './random.mjs'

const READY = {
  state: 'ready', size: [2, 2], subject: [0, 1, 3], removed: [2, 2], grid: 16, similarity: [[0, 1]], warnings: []
}

/** A query whose server answers when told to, and whose pauses end when told to. */
function makeQuery() {
  const asked = []
  const pauses = []
  let changes = 0
  const ask = (request) => new Promise((resolve, reject) => asked.push({ request, resolve, reject }))
  const query = new MaskQuery(ask, () => changes++, (call) => pauses.push(call))
  const answer = async (content) => {
    asked.at(-1).resolve({ ...READY, ...content })
    await new Promise(setImmediate)
  }
  const pause = () => pauses.splice(0).forEach((call) => call())
  return { query, asked, answer, pause, changes: () => changes }
}

const want = (points, image = 'a.png') => ({ picture: { node: 'LoadImage', image }, points, settings: {} })
const WIRED = { isWired: true, isRunning: false }

test('it asks once for what is wanted, and tells when the answer is there', async () => {
  const { query, asked, answer, pause, changes } = makeQuery()
  query.want(want('1'))
  query.want(want('1'))
  assert.deepEqual(asked.map(({ request }) => request), [want('1')])
  assert.equal(query.isSettled, false)
  const before = changes()
  await answer({})
  assert.equal(query.isSettled, true)
  assert.equal(changes(), before + 1)
  assert.equal(query.masks.subjectShare, 0.25)
  assert.equal(query.masks.removedShare, 0.5)
  assert.equal(describeMasks(query, WIRED), 'Subject: 25 % of the picture. Removed: 50 %.')
  pause()
  query.want(want('1'))
  assert.equal(asked.length, 1)
})

test('one request at a time; of those in between only the newest is asked for', async () => {
  const { query, asked, answer, pause } = makeQuery()
  for (const points of ['1', '2', '3', '4']) query.want(want(points))
  assert.equal(asked.length, 1)
  await answer({})
  assert.notEqual(query.masks, null, 'the older answer shows until the newest is there')
  assert.equal(query.isSettled, false)
  assert.equal(asked.length, 1, 'not before the pause')
  pause()
  assert.deepEqual(asked.map(({ request }) => request.points), ['1', '4'])
  await answer({ state: 'problem', message: 'no mask' })
  assert.equal(query.masks, null)
  assert.equal(describeMasks(query, WIRED), 'no mask')
})

test('masks of another picture never show', async () => {
  const { query, asked, answer, pause } = makeQuery()
  query.want(want('1'))
  query.want(want('1', 'b.png'))
  await answer({})
  assert.equal(query.masks, null)
  pause()
  await answer({})
  assert.notEqual(query.masks, null)
  query.want(null)
  assert.equal(query.masks, null)
  assert.equal(query.isSettled, true)
  pause()
  assert.equal(asked.length, 2)
})

test('an unread picture is asked for again after a run, a failure is said and not repeated', async () => {
  const { query, asked, answer, pause } = makeQuery()
  query.want(want('1'))
  await answer({ state: 'unread' })
  assert.equal(query.isUnread, true)
  assert.equal(describeMasks(query, WIRED), 'The masks appear here once RNGR Mask has run.')
  assert.equal(describeMasks(query, { isWired: true, isRunning: true }), 'RNGR Mask is running…')
  assert.match(describeMasks(query, { isWired: false, isRunning: false }), /^Connect “points” to RNGR Mask/)
  pause()
  assert.equal(asked.length, 1)
  query.refresh()
  assert.equal(asked.length, 2)
  asked.at(-1).reject(new Error('the server answered 500.'))
  await new Promise(setImmediate)
  assert.equal(query.message, 'The masks cannot be shown: the server answered 500.')
  assert.equal(query.isUnread, false)
  pause()
  assert.equal(asked.length, 2)
  query.want(want('2'))
  await answer({ warnings: ['one', 'two'] })
  assert.equal(query.message, 'one')
})

test('a superseded request is asked again if nothing newer is wanted', async () => {
  const { query, asked, answer, pause } = makeQuery()
  query.want(want('1'))
  await answer({ state: 'superseded' })
  assert.equal(query.masks, null)
  pause()
  assert.equal(asked.length, 2)
})

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
  assert.deepEqual([...fromRuns([1, 2, 1], [2, 2])], [0, 1, 1, 0])
  assert.deepEqual([...fromRuns([4], [2, 2])], [0, 0, 0, 0])
  assert.deepEqual([...fromRuns([0, 4], [2, 2])], [1, 1, 1, 1])
})

test('the heat map goes from violet to yellow, and a flat one does not divide by zero', () => {
  const [[low, middle, high]] = heatColours([[0.2, 0.3, 0.4]])
  assert.deepEqual(low, [68, 1, 84])
  assert.deepEqual(high, [253, 231, 37])
  assert.ok(middle[1] > low[1] && middle[1] < high[1])
  assert.deepEqual(heatColours([[0.5, 0.5]])[0][0], [68, 1, 84])
})

test('a straight side is one line, a corner is cut by half a pixel', () => {
  const [loop, ...rest] = contours(fromRuns([0, 12], [4, 3]), [4, 3])
  assert.deepEqual(rest, [])
  const points = Array.from({ length: loop.length / 2 }, (_, i) => [loop[2 * i], loop[2 * i + 1]].join()).sort()
  assert.deepEqual(points, ['0,0.5', '0,2.5', '0.5,0', '0.5,3', '3.5,0', '3.5,3', '4,0.5', '4,2.5'])
})

test('the grid is the one that CLIP was last said to have', async () => {
  const { query, answer, pause } = makeQuery()
  assert.equal(query.grid, 16)
  query.want(want('1'))
  await answer({ grid: 12 })
  assert.equal(query.grid, 12)
  pause()
  query.want(want('2'))
  await answer({ state: 'problem', message: 'one patch', grid: 7 })
  assert.equal(query.grid, 7)
  pause()
  query.want(want('3', 'b.png'))
  await answer({ state: 'unread', grid: undefined })
  assert.equal(query.grid, 7)
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
