// Reads {points, pictures, pixels} as JSON from standard input and answers with what the editor makes of them; see
// test_same_as_python.py.

import { patchOf } from '../../web/picker/geometry.js'
import { fromJson, fromPasted, toJson } from '../../web/picker/points.js'

let text = ''
for await (const part of process.stdin) text += part
const { saved, patches, pasted } = JSON.parse(text)
process.stdout.write(
  JSON.stringify({
    saved: saved.map((value) => toJson(fromJson(value))),
    patches: patches.map(([point, width, height, grid]) => patchOf(point, { width, height }, grid)),
    pasted: pasted.map(([value, width, height]) => toJson(fromPasted(value, 'positive', { width, height }).points))
  })
)
