import assert from 'node:assert/strict'
import { test } from 'node:test'
import { looksOther } from '../../web/picker/perceptual_hash.js'
import { seeded } from './random.mjs'

const CELLS = 8 * 8 * 3
const digits = (make) => Array.from({ length: CELLS }, (_, i) => make(i).toString(16)).join('')

test('rounding makes no other picture, a change of one cell does', () => {
  const random = seeded(1)
  const levels = Array.from({ length: CELLS }, () => random.below(10) + 3)
  const sketch = digits((i) => levels[i])
  assert.equal(looksOther(sketch, sketch), false)
  assert.equal(looksOther(sketch, digits((i) => levels[i] + [-1, 0, 1][i % 3])), false)
  for (const step of [-3, 3]) assert.equal(looksOther(sketch, digits((i) => levels[i] + (i === 100 ? step : 0))), true)
})

test('a sketch of another kind is of another picture', () => {
  assert.equal(looksOther('00f', digits(() => 0)), true)
})
