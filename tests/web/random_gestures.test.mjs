// Random gestures against a model that only knows what each gesture may do: no point is ever lost or invented, and the
// way back to the start and forth to the end gives the same texts.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Editor } from '../../web/picker/editor.js'
import * as g from '../../web/picker/geometry.js'
import { fromText } from '../../web/picker/subjects.js'
import { seeded } from './random.mjs'

const RUNS = 300
const STEPS = 120
const SIGNS = ['positive', 'negative']
const TAKES = 26 // stage pixels; further than this from every point, a press takes none

function distances(editor, at) {
  return SIGNS.flatMap((sign) =>
    editor.settled[sign].map((point, index) => {
      const { x, y } = g.fromImage(point, editor.rect)
      return { sign, index, distance: Math.hypot(x - at.x, y - at.y) }
    })
  )
}

/** The subjects that are saved. */
const read = (editor) => fromText(editor.value).subjects

/**
 * Every gesture: does something to the editor, and returns what must hold of the active subject before and after; the
 * others are left alone.
 */
const GESTURES = {
  place(editor, random, send) {
    const at = { x: random.between(0, editor.stage.width), y: random.between(0, editor.stage.height) }
    if (distances(editor, at).some(({ distance }) => distance < TAKES)) return null
    const other = random.next() < 0.4
    const sign = other ? (editor.sign === 'positive' ? 'negative' : 'positive') : editor.sign
    const point = g.toImage(at, editor.rect)
    send('down', at, { button: other ? 2 : 0 })
    send('up', at, { button: other ? 2 : 0 })
    return (before, after) => {
      const added = g.isInside(point) && before[sign].length < 64
      assert.equal(after[sign].length, before[sign].length + (added ? 1 : 0))
      assert.deepEqual(after[sign].slice(0, before[sign].length), before[sign])
      if (added) after[sign].at(-1).forEach((c, i) => assert.ok(Math.abs(c - point[i]) < 1e-6))
      for (const rest of ['positive', 'negative', 'boxes'].filter((s) => s !== sign)) assert.deepEqual(after[rest], before[rest])
    }
  },
  drag(editor, random, send) {
    const all = distances(editor, { x: 0, y: 0 })
    if (!all.length) return null
    const { sign, index } = random.pick(all)
    const from = g.fromImage(editor.settled[sign][index], editor.rect)
    const top = distances(editor, from).filter(({ distance }) => distance < TAKES)
    if (top.length !== 1 || from.x < 0 || from.y < 0 || from.x > editor.stage.width || from.y > editor.stage.height) return null
    const to = { x: random.between(-100, 600), y: random.between(-100, 600) }
    const target = g.clampPoint(g.toImage(to, editor.rect))
    send('down', from)
    send('move', { x: random.between(0, 400), y: random.between(0, 400) })
    send('move', to)
    send('up', to)
    return (before, after) => {
      after[sign][index].forEach((c, i) => assert.ok(Math.abs(c - target[i]) < 1e-5, `${c} is not ${target[i]}`))
      after[sign][index] = before[sign][index]
      assert.deepEqual(after, before)
    }
  },
  aborted(editor, random, send) {
    const at = () => ({ x: random.between(0, 400), y: random.between(0, 400) })
    send('down', at())
    send('move', at())
    if (random.next() < 0.5) send('cancel', at())
    else {
      editor.key({ key: 'Escape' })
      send('up', at())
    }
    return unchanged
  },
  pinch(editor, random, send) {
    for (const id of [1, 2]) send('down', { x: random.between(0, 400), y: random.between(0, 400) }, { id, type: 'touch' })
    for (const id of [1, 2, 1]) send('move', { x: random.between(0, 400), y: random.between(0, 400) }, { id, type: 'touch' })
    for (const id of [2, 1]) send('up', { x: 0, y: 0 }, { id, type: 'touch' })
    return unchanged
  },
  look(editor, random, send) {
    const at = { x: random.between(0, 400), y: random.between(0, 400) }
    if (random.next() < 0.5) editor.zoom(random.between(0.4, 2.5), at)
    else {
      send('down', at, { button: 1 })
      send('move', { x: random.between(0, 400), y: random.between(0, 400) }, { button: 1 })
      send('up', at, { button: 1 })
    }
    if (random.next() < 0.3) editor.setStage(random.between(150, 500), random.between(150, 500))
    return unchanged
  },
  hover(editor, random, send) {
    send('move', { x: random.between(0, 400), y: random.between(0, 400) })
    editor.gestures.leave()
    return unchanged
  },
  select(editor, random) {
    for (let i = random.below(4); i >= 0; i--) editor.key({ key: 'Tab', shift: random.next() < 0.3 })
    return unchanged
  },
  sign(editor, random) {
    editor.key({ key: random.pick(['+', '-', 'g', 'f']) })
    return unchanged
  },
  nudge(editor, random) {
    const at = editor.selection
    editor.key({ key: random.pick(['ArrowLeft', 'ArrowUp', 'ArrowRight', 'ArrowDown']), shift: random.next() < 0.5 })
    return (before, after) => {
      if (at) after[at.sign][at.index] = before[at.sign][at.index]
      assert.deepEqual(after, before)
    }
  },
  remove(editor) {
    const at = editor.selection
    editor.key({ key: 'Delete' })
    return (before, after) => {
      if (at) before[at.sign].splice(at.index, 1)
      assert.deepEqual(after, before)
    }
  },
  flip(editor) {
    const at = editor.selection
    const sign = editor.sign
    editor.key({ key: 'x' })
    return (before, after) => {
      if (at?.sign === 'boxes') return assert.deepEqual(after, before)
      if (at) {
        const other = SIGNS.find((s) => s !== at.sign)
        if (before[other].length < 64) before[other].push(...before[at.sign].splice(at.index, 1))
      } else assert.notEqual(editor.sign, sign)
      assert.deepEqual(after, before)
    }
  },
  box(editor, random, send) {
    const at = () => ({ x: random.between(0, editor.stage.width), y: random.between(0, editor.stage.height) })
    const [from, to] = [at(), at()]
    if (Math.hypot(to.x - from.x, to.y - from.y) < 5) return null
    const isHeld = random.next() < 0.5
    isHeld ? editor.holdBoxes(true) : editor.setTool('boxes')
    send('down', from)
    const taken = editor.selection
    send('move', to)
    send('up', to)
    isHeld ? editor.holdBoxes(false) : editor.setTool('points')
    return (before, after) => {
      const count = before.boxes.length
      const isNew = !taken && count < 64
      assert.equal(after.boxes.length, count + (isNew ? 1 : 0))
      const other = taken?.index ?? -1
      before.boxes.forEach((box, i) => i !== other && assert.deepEqual(after.boxes[i], box))
      if (isNew) {
        const [a, b] = [from, to].map((place) => g.clampPoint(g.toImage(place, editor.rect)))
        const least = [1 / editor.picture.width, 1 / editor.picture.height]
        const box = after.boxes.at(-1)
        for (const axis of [0, 1]) {
          const span = Math.max(Math.abs(a[axis] - b[axis]), least[axis])
          assert.ok(Math.abs(box[axis + 2] - box[axis] - span) < 3e-6, `${box} does not span ${span}`)
        }
      }
      assert.deepEqual([after.positive, after.negative], [before.positive, before.negative])
    }
  },
  back(editor, random) {
    const steps = random.below(3)
    for (let i = 0; i < steps; i++) editor.undo()
    for (let i = 0; i < steps; i++) editor.redo()
    return unchanged
  }
}

/** Gestures on subjects, which are checked as a whole. */
const OF_SUBJECTS = {
  go(editor, random) {
    const key = 1 + random.below(4)
    const { active } = editor
    editor.key({ key: String(key) })
    return (before, after) => {
      if (key === before.length + 1) before.push({ positive: [], negative: [], boxes: [] })
      assert.deepEqual(after, before)
      assert.equal(editor.active, key <= before.length ? key - 1 : active)
    }
  },
  removeSubject(editor, random) {
    if (random.next() < 0.6) return null // or there would hardly be any
    const { active } = editor
    editor.key({ key: 'Delete', shift: true })
    return (before, after) => {
      if (active > 0 && active === before.length - 1) before.pop()
      else before[active] = { positive: [], negative: [], boxes: [] }
      assert.deepEqual(after, before)
    }
  }
}
const ALL = { ...GESTURES, ...OF_SUBJECTS }

function unchanged(before, after) {
  assert.deepEqual(after, before)
}

function run(seed) {
  const random = seeded(seed)
  const changes = []
  const editor = new Editor({ render() {}, say() {}, change: (text) => changes.push(text) })
  editor.setStage(380, 300)
  editor.setPicture(random.pick([{ width: 768, height: 768 }, { width: 32, height: 32 }, { width: 6000, height: 900 }]))
  const start = editor.value
  const send = (kind, at, more = {}) => editor.gestures[kind]({ id: 1, button: 0, type: 'mouse', time: 0, ...at, ...more })
  for (let step = 0; step < STEPS; step++) {
    const name = random.pick(Object.keys(ALL))
    const before = read(editor)
    const { active } = editor
    const text = editor.value
    const told = changes.length
    const check = ALL[name](editor, random, send)
    if (!check) continue
    try {
      const after = read(editor)
      if (name in OF_SUBJECTS || check === unchanged) check(before, after)
      else {
        check(before[active], after[active])
        assert.deepEqual([...after.slice(0, active), ...after.slice(active + 1)], [...before.slice(0, active), ...before.slice(active + 1)])
      }
      if (editor.value !== text) assert.equal(changes.at(-1), editor.value, 'the change was not told')
      if (check === unchanged && name !== 'back') assert.equal(changes.length, told, 'told a change that was none')
      assert.equal(editor.gestures.isBusy, false)
      if (editor.selection) assert.ok(editor.settled[editor.selection.sign][editor.selection.index])
    } catch (error) {
      error.message = `seed ${seed}, step ${step}, ${name}: ${error.message}`
      throw error
    }
  }
  const end = editor.value
  const seen = [end]
  while (editor.undo()) seen.push(editor.value)
  assert.equal(editor.value, start, `seed ${seed}: undo does not end at the start`)
  for (const text of seen.reverse().slice(1)) {
    assert.equal(editor.redo(), true)
    assert.equal(editor.value, text, `seed ${seed}: redo goes another way`)
  }
  assert.equal(editor.redo(), false)
  assert.equal(editor.value, end)
  return seen.length
}

test(`${RUNS} random sequences of ${STEPS} gestures`, () => {
  let steps = 0
  for (let seed = 1; seed <= RUNS; seed++) steps += run(seed)
assert.ok(steps > RUNS * 10, 'the sequences hardly did anything')
})
