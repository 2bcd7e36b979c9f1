import assert from 'node:assert/strict'
import { test } from 'node:test'
import { heatColours } from '../../web/picker/colormap.js'

test('the heat map goes from violet to yellow, and a flat one does not divide by zero', () => {
  const [[low, middle, high]] = heatColours([[0.2, 0.3, 0.4]])
  assert.deepEqual(low, [68, 1, 84])
  assert.deepEqual(high, [253, 231, 37])
  assert.ok(middle[1] > low[1] && middle[1] < high[1])
  assert.deepEqual(heatColours([[0.5, 0.5]])[0][0], [68, 1, 84])
})
