import assert from 'node:assert/strict'
import { test } from 'node:test'
import { toStage } from '../../web/common/stage.js'

const STAGE = { width: 360, height: 290 }

test('a screen position under a CSS transform lands on the same stage pixel', () => {
  const rect = { left: 100, top: 50, width: STAGE.width * 0.4, height: STAGE.height * 0.4 } // the graph at 40 %
  const at = toStage(100 + 0.4 * 90, 50 + 0.4 * 200, rect, STAGE)
  assert.ok(Math.hypot(at.x - 90, at.y - 200) < 1e-9, JSON.stringify(at))
})

test('a stage without size gives a number, not NaN', () => {
  assert.deepEqual(toStage(5, 5, { left: 0, top: 0, width: 0, height: 0 }, STAGE), { x: 0, y: 0 })
})
