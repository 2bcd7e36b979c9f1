import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HASHED_SIDE, looksDifferent, perceptualHash } from '../../web/picker/perceptual_hash.js'
import { seeded } from './random.mjs'

const CELLS = 8 * 8 * 3
const digits = (make) => Array.from({ length: CELLS }, (_, i) => make(i).toString(16)).join('')

test('rounding makes no other picture, a change of one cell does', () => {
  const random = seeded(1)
  const levels = Array.from({ length: CELLS }, () => random.below(10) + 3)
  const hash = digits((i) => levels[i])
  assert.equal(looksDifferent(hash, hash), false)
  assert.equal(looksDifferent(hash, digits((i) => levels[i] + [-1, 0, 1][i % 3])), false)
  for (const step of [-3, 3]) assert.equal(looksDifferent(hash, digits((i) => levels[i] + (i === 100 ? step : 0))), true)
})

test('a hash of another kind is of another picture', () => {
  assert.equal(looksDifferent('00f', digits(() => 0)), true)
})

test('each cell of the hash is the mean colour of its part of the picture', () => {
  const random = seeded(2)
  const pixels = Uint8ClampedArray.from({ length: 4 * HASHED_SIDE ** 2 }, () => random.below(256))
  const size = HASHED_SIDE / 8
  const expected = digits((i) => {
    const [row, column, channel] = [Math.floor(i / 24) * size, (Math.floor(i / 3) % 8) * size, i % 3]
    let sum = 0
    for (let y = row; y < row + size; y++) {
      for (let x = column; x < column + size; x++) sum += pixels[4 * (y * HASHED_SIDE + x) + channel]
    }
    return Math.floor(sum / size ** 2 / 16)
  })
  assert.equal(perceptualHash(pixels), expected)
})
