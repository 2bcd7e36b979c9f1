import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { FrameLoop } from '../../web/common/frame_loop.js'

let frames
let observers

beforeEach(() => {
  frames = new Map()
  observers = new Set()
  let last = 0
  globalThis.window = { devicePixelRatio: 2 }
  globalThis.requestAnimationFrame = (draw) => (frames.set(++last, draw), last)
  globalThis.cancelAnimationFrame = (id) => frames.delete(id)
  globalThis.ResizeObserver = class {
    constructor(measure) { this.measure = measure }
    observe() { observers.add(this) }
    disconnect() { observers.delete(this) }
  }
})

/** A loop over a stage that is `zoom` times as large on the screen as its CSS pixels; drawing gives its canvas a store. */
function makeLoop() {
  const stage = { clientWidth: 200, clientHeight: 100 }
  const screen = { zoom: 1 }
  const canvas = {
    width: 300,
    getBoundingClientRect: () => ({ width: stage.clientWidth * screen.zoom, height: stage.clientHeight * screen.zoom })
  }
  const log = { sizes: [], drawn: 0 }
  const loop = new FrameLoop(stage, canvas, {
    resize: (...size) => log.sizes.push(size),
    draw: () => {
      log.drawn++
      canvas.width = 2 * stage.clientWidth * screen.zoom
    }
  })
  const frame = () => {
    const waiting = [...frames.values()]
    frames.clear()
    waiting.forEach((draw) => draw())
    return waiting.length
  }
  return { loop, stage, screen, log, frame }
}

test('it draws once per frame however often it is asked, and not at all unless it is asked', () => {
  const { loop, log, frame } = makeLoop()
  loop.start()
  loop.start()
  assert.deepEqual(log.sizes, [[200, 100]])
  for (let i = 0; i < 5; i++) loop.request()
  assert.equal(frame(), 1)
  assert.equal(log.drawn, 1)
  loop.measure()
  assert.equal(frame(), 0)
})

test('another size and another zoom are noticed, by the observer and when measured', () => {
  const { loop, stage, screen, log, frame } = makeLoop()
  loop.start()
  frame()
  stage.clientHeight = 150
  for (const observer of observers) observer.measure()
  assert.deepEqual(log.sizes, [[200, 100], [200, 150]])
  assert.equal(frame(), 1)
  screen.zoom = 0.5
  loop.measure()
  assert.equal(log.sizes.length, 2, 'the CSS pixels are the same')
  assert.equal(frame(), 1)
  assert.equal(log.drawn, 3)
})

test('stopped it draws nothing, not even what was asked for before; started again it draws', () => {
  const { loop, log, frame } = makeLoop()
  loop.request()
  assert.equal(frame(), 0, 'not started yet')
  loop.start()
  loop.stop()
  loop.request()
  assert.equal(frame(), 0)
  assert.equal(observers.size, 0)
  loop.start()
  assert.equal(frame(), 1)
  assert.equal(log.drawn, 1)
})

test('what changes while it draws is drawn in the next frame', () => {
  const stage = { clientWidth: 10, clientHeight: 10 }
  const canvas = { width: 20, getBoundingClientRect: () => ({ width: 10, height: 10 }) }
  const loop = new FrameLoop(stage, canvas, { resize() {}, draw: () => loop.request() })
  loop.start()
  for (let i = 0; i < 3; i++) {
    const [[id, draw]] = frames
    frames.delete(id)
    draw()
    assert.equal(frames.size, 1)
  }
})
