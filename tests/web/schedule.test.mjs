import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as curves from '../../web/schedule/curve.js'
import { ScheduleEditor } from '../../web/schedule/editor.js'
import { fromStage, plotBox, toStage } from '../../web/schedule/plot_scale.js'
import { seeded } from './random.mjs'

const DEFAULTS = { kind: 'paper', alpha: 0.5, beta: 0.2, k: 2, value: 1, keyframes: '0:0.7, 0.5:1, 1:1.2' }
const STAGE = { width: 342, height: 130 } // the plot is 300 x 100

function makeEditor(settings = {}) {
  const log = { changes: [], said: [] }
  const editor = new ScheduleEditor({
    render() {},
    change: (changed) => log.changes.push(changed),
    say: (message) => log.said.push(message)
  })
  editor.setStage(STAGE.width, STAGE.height)
  editor.settings = { ...DEFAULTS, ...settings }
  const at = (percent, weight, more) => ({ id: 1, button: 0, type: 'mouse', ...toStage(percent, weight, editor.box), ...more })
  const drag = (from, to, more) => {
    const end = at(...to) // the scale at the start
    editor.down(at(...from, more))
    editor.move(end)
    editor.up(end)
  }
  const key = (name, more) => editor.key({ key: name, ctrl: false, shift: false, alt: false, ...more })
  return { editor, log, at, drag, key }
}

test('the weights of Eq. 10 and of its steps', () => {
  const { editor } = makeEditor()
  editor.setSteps(3)
  const weights = editor.stepPoints.map(({ weight }) => weight)
  assert.ok(Math.abs(weights[0] - (1.2 - 0.5 * 0.999 ** 2)) < 1e-12)
  assert.ok(Math.abs(weights[1] - (1.2 - 0.5 * 0.4995 ** 2)) < 1e-12)
  assert.equal(weights[2], 1.2)
  editor.setSteps(1)
  assert.equal(editor.stepPoints.length, 1)
  for (const wrong of [0, -3, NaN, 1e9]) {
    editor.setSteps(wrong)
    assert.ok(editor.steps >= 1 && editor.steps <= curves.MAX_STEPS)
  }
})

test('the steps of a linked sampler are marked where they are, and the nearest one is pointed at', () => {
  const { editor, at } = makeEditor({ kind: 'increasing', k: 1 })
  editor.timesteps = [999, 899.1, 0]
  assert.deepEqual(editor.stepPoints.map(({ percent }) => Math.round(percent * 100)), [0, 10, 100])
  assert.ok(Math.abs(editor.stepPoints[1].weight - (1 - 0.8991)) < 1e-9)
  for (const [percent, step] of [[0.04, 0], [0.06, 1], [0.5, 1], [0.6, 2], [1.2, -1]]) {
    editor.move(at(percent, 0.5))
    assert.equal(editor.hoverStep, step)
  }
  editor.timesteps = []
  assert.deepEqual(editor.stepPoints, [])
  editor.timesteps = null
  assert.equal(editor.stepPoints.length, editor.steps)
})

test('the line passes the keyframes exactly, in order', () => {
  const { editor } = makeEditor({ kind: 'keyframes', keyframes: '0.333:2, 0.334:0.5' })
  const line = editor.line
  for (const [percent, weight] of [[0.333, 2], [0.334, 0.5]]) {
    assert.ok(line.some((point) => point.percent === percent && Math.abs(point.weight - weight) < 1e-9))
  }
  assert.ok(line.every((point, i) => i === 0 || point.percent >= line[i - 1].percent))
})

test('texts are written in the form in which they were', () => {
  const pairs = [[0, 0.7], [0.25, 1.2345]]
  assert.equal(curves.formatKeyframes(pairs, '0:1'), '0:0.7, 0.25:1.2345')
  assert.equal(curves.formatKeyframes(pairs, ' [[0,1]]'), '[[0,0.7],[0.25,1.2345]]')
})

test('moving, adding and removing one keyframe leaves the others as they were written', () => {
  const settings = { ...DEFAULTS, kind: 'keyframes', keyframes: '0.0001:1, 0.0004:2, 0.5:0.12345, 1:1' }
  assert.equal(curves.moveHandle(settings, 3, 0.87654, 1.23456).keyframes, '0.0001:1, 0.0004:2, 0.5:0.12345, 0.877:1.235')
  assert.equal(curves.addKeyframe(settings, 0.71239, 0.98765).settings.keyframes,
    '0.0001:1, 0.0004:2, 0.5:0.12345, 0.712:0.988, 1:1')
  assert.equal(curves.removeKeyframe(settings, 1).keyframes, '0.0001:1, 0.5:0.12345, 1:1')
  assert.equal(curves.moveHandle({ ...settings, keyframes: '1e-7:1, 1:1' }, 1, 0, 1).keyframes, '1e-7:1, 0.001:1')
})

test('wherever a keyframe is dragged, the list stays one that can be read, in its order', () => {
  const random = seeded(9)
  for (let run = 0; run < 300; run++) {
    const digits = random.pick([3, 4, 6])
    const percents = new Set(Array.from({ length: 5 }, () => Number(random.between(0, random.pick([0.002, 1])).toFixed(digits))))
    const keyframes = [...percents].map((percent) => `${percent}:1`).join(', ')
    const settings = { ...DEFAULTS, kind: 'keyframes', keyframes }
    const before = curves.parseKeyframes(keyframes)
    const index = Math.floor(random.next() * before.length)
    const after = curves.parseKeyframes(curves.moveHandle(settings, index, random.between(-0.2, 1.2), 0.5).keyframes)
    assert.equal(after[index][1], 0.5, 'it has not passed a neighbour')
    before.forEach((pair, i) => i === index || assert.deepEqual(after[i], pair))
  }
})

test('each kind has the handles that its settings allow', () => {
  const names = (settings) => curves.handles({ ...DEFAULTS, ...settings }).map(({ name, percent }) => `${name} ${percent}`)
  assert.deepEqual(names({}), ['start 0', 'end 1'])
  assert.deepEqual(names({ kind: 'ease' }), ['start 0', 'end 1'])
  assert.deepEqual(names({ kind: 'fixed' }), ['value 0.5'])
  assert.deepEqual(names({ kind: 'increasing' }), ['value 1'])
  assert.deepEqual(names({ kind: 'decreasing' }), ['value 0'])
  assert.deepEqual(names({ kind: 'keyframes' }), ['keyframe 1 0', 'keyframe 2 0.5', 'keyframe 3 1'])
  assert.deepEqual(names({ kind: 'learned' }), [])
  assert.deepEqual(names({ kind: 'keyframes', keyframes: '0:half' }), [])
})

test('dragging an end of the paper\'s curve, or of ease, sets alpha or beta and leaves the other end', () => {
  for (const [kind, k] of [['paper', 2], ['ease', 2], ['ease', 0]]) {
    const { editor, log, drag } = makeEditor({ kind, k })
    const ends = () => editor.handles.map(({ weight }) => weight)
    const [start] = ends()
    drag([1, 1.2], [1, 0.9])
    assert.equal(log.changes.length, 1)
    assert.ok(Math.abs(ends()[1] - 0.9) < 0.01)
    assert.ok(Math.abs(ends()[0] - start) < 0.01)
    drag([0, ends()[0]], [0, 0.2])
    assert.ok(Math.abs(ends()[0] - 0.2) < 0.01)
    assert.ok(Math.abs(ends()[1] - 0.9) < 0.01)
    assert.equal(editor.settings.k, k)
  }
})

test('dragging the value of the other kinds; it stays in the range of the node', () => {
  for (const [kind, percent] of [['fixed', 0.5], ['increasing', 1], ['decreasing', 0]]) {
    const { editor, drag } = makeEditor({ kind })
    drag([percent, editor.handles[0].weight], [percent, 0.5])
    assert.ok(Math.abs(editor.settings.value - 0.5) < 0.02)
    drag([percent, editor.handles[0].weight], [percent, -3])
    assert.equal(editor.settings.value, 0)
  }
})

test('a keyframe moves between its neighbours; a click adds one, right-click and Delete take one away', () => {
  const { editor, log, drag, at, key } = makeEditor({ kind: 'keyframes' })
  drag([0.5, 1], [0.75, 0.4])
  assert.equal(editor.settings.keyframes, '0:0.7, 0.75:0.4, 1:1.2')
  drag([0.75, 0.4], [3, 0.4])
  assert.equal(editor.settings.keyframes, '0:0.7, 0.999:0.4, 1:1.2')
  editor.down(at(0.25, 1))
  editor.up(at(0.25, 1))
  assert.equal(editor.settings.keyframes, '0:0.7, 0.25:1, 0.999:0.4, 1:1.2')
  assert.equal(editor.selection, 1)
  key('Delete')
  assert.equal(editor.settings.keyframes, '0:0.7, 0.999:0.4, 1:1.2')
  editor.down(at(0, 0.7, { button: 2 }))
  assert.equal(editor.settings.keyframes, '0.999:0.4, 1:1.2')
  key('Delete')
  key('Delete')
  assert.equal(curves.parseKeyframes(editor.settings.keyframes).length, 1)
  assert.equal(log.said.at(-1), 'The only keyframe cannot be removed.')
})

test('a cancelled drag changes nothing, also one that had added a keyframe', () => {
  for (const place of [[0.5, 1], [0.25, 0.5]]) {
    const { editor, log, at, key } = makeEditor({ kind: 'keyframes' })
    editor.down(at(...place))
    editor.move(at(0.3, 0.1))
    assert.notEqual(editor.settings.keyframes, DEFAULTS.keyframes)
    assert.equal(key('Escape'), true)
    editor.up(at(0.3, 0.1))
    assert.equal(editor.settings.keyframes, DEFAULTS.keyframes)
    assert.deepEqual(log.changes, [])
  }
})

test('keys alone are enough, and undo goes back step by step', () => {
  const { editor, log, key } = makeEditor({ kind: 'keyframes' })
  assert.equal(key('Tab'), true)
  assert.equal(log.said.at(-1), 'Keyframe 1: 0 %, weight 0.70')
  key('Tab')
  for (let i = 0; i < 3; i++) key('ArrowRight')
  key('ArrowUp', { shift: true })
  assert.equal(editor.settings.keyframes, '0:0.7, 0.53:1.1, 1:1.2')
  key('Enter')
  assert.equal(curves.parseKeyframes(editor.settings.keyframes).length, 4)
  key('z', { ctrl: true })
  key('z', { ctrl: true })
  assert.equal(editor.settings.keyframes, DEFAULTS.keyframes, 'held arrows are one step')
  assert.equal(key('z', { ctrl: true }), true)
  key('z', { ctrl: true, shift: true })
  key('y', { ctrl: true })
  assert.equal(curves.parseKeyframes(editor.settings.keyframes).length, 4)
  assert.equal(log.changes.at(-1), editor.settings)
  assert.equal(key('q'), false)
  key('Escape')
  assert.equal(key('Escape'), false)
  for (let i = 0; i < 4; i++) assert.equal(key('Tab'), true)
  assert.equal(key('Tab'), false, 'past the last handle')
})

test('settings from outside reset the history, own changes do not', () => {
  const { editor, key } = makeEditor({ kind: 'keyframes' })
  key('Tab')
  key('ArrowUp')
  editor.settings = { ...editor.settings }
  key('z', { ctrl: true })
  assert.equal(editor.settings.keyframes, DEFAULTS.keyframes)
  key('ArrowUp')
  editor.settings = { ...DEFAULTS, kind: 'fixed' }
  assert.equal(editor.selection, 0)
  key('z', { ctrl: true })
  assert.equal(editor.settings.kind, 'fixed')
})

test('what cannot be shown is said', () => {
  assert.match(makeEditor({ kind: curves.FROM_A_RUN }).editor.problem, /Another node sets this curve/)
  assert.match(makeEditor({ kind: 'later' }).editor.problem, /has no curve of kind "later"/)
  assert.match(makeEditor({ kind: 'learned' }).editor.problem, /was learned with the subject and is stored in its file/)
  assert.match(makeEditor({ kind: 'keyframes', keyframes: '0:1, half:2' }).editor.problem, /Keyframe 2: "half:2"/)
  const { editor, at, log } = makeEditor({ kind: 'keyframes', keyframes: '' })
  assert.match(editor.problem, /click in the plot/)
  editor.down(at(0.5, 0.5))
  editor.up(at(0.5, 0.5))
  assert.equal(log.changes[0].keyframes, '0.5:0.5')
})

test('places and values are each other\'s way back, and the scale holds the curve', () => {
  const random = seeded(4)
  for (let run = 0; run < 200; run++) {
    const highest = random.between(0, 10)
    const box = plotBox({ width: random.between(60, 900), height: random.between(60, 500) }, highest)
    assert.ok(box.top >= Math.max(1, highest))
    const lines = box.top / box.spacing
    assert.ok(Math.abs(lines - Math.round(lines)) < 1e-9 && lines <= 11, `${lines} lines`)
    const [percent, weight] = [random.next(), random.between(0, box.top)]
    const back = fromStage(toStage(percent, weight, box), box)
    assert.ok(Math.abs(back.percent - percent) < 1e-9 && Math.abs(back.weight - weight) < 1e-9)
  }
})

test('random gestures never make settings that the node refuses, and undo ends at the start', () => {
  for (let seed = 1; seed <= 100; seed++) {
    const random = seeded(seed)
    const kind = random.pick(['paper', 'ease', 'fixed', 'increasing', 'decreasing', 'keyframes', 'keyframes', 'keyframes'])
    const { editor, drag, key } = makeEditor({ kind })
    const start = JSON.stringify(editor.settings)
    for (let step = 0; step < 60; step++) {
      const spot = () => [random.between(-0.2, 1.2), random.between(-0.5, 3)]
      const handle = editor.handles.length ? random.pick(editor.handles) : { percent: 0, weight: 0 }
      const actions = [
        () => drag([handle.percent, handle.weight], spot()),
        () => drag(spot(), spot(), { button: random.pick([0, 0, 2]) }),
        () => key(random.pick(['Tab', 'Enter', 'Delete', 'Escape', 'ArrowUp', 'ArrowDown', 'ArrowLeft', 'ArrowRight']), {
          shift: random.next() < 0.5
        })
      ]
      random.pick(actions)()
      const { alpha, beta, value, keyframes } = editor.settings
      assert.ok(Math.abs(alpha) <= 5 && Math.abs(beta) <= 5 && value >= 0 && value <= 10)
      const pairs = curves.parseKeyframes(keyframes)
      assert.ok(pairs.length >= 1)
      assert.equal(editor.isDragging, false)
    }
    const end = JSON.stringify(editor.settings)
    let before
    do {
      before = JSON.stringify(editor.settings)
      editor.undo()
    } while (JSON.stringify(editor.settings) !== before)
    assert.equal(before, start, `seed ${seed}`)
    do {
      before = JSON.stringify(editor.settings)
      editor.redo()
    } while (JSON.stringify(editor.settings) !== before)
    assert.equal(before, end, `seed ${seed}`)
  }
})

test('what comes from elsewhere is shown and cannot be dragged', () => {
  const { editor, log, drag, key } = makeEditor({ kind: 'keyframes' })
  editor.locked = true
  assert.ok(editor.line.length > 50)
  drag([0.5, 1], [0.2, 0.2])
  key('Enter')
  key('Tab')
  key('Delete')
  assert.deepEqual(log.changes, [])
  assert.equal(editor.settings.keyframes, DEFAULTS.keyframes)
})
