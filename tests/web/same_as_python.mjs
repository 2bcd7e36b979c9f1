// Reads cases as JSON from standard input and answers with what the editor makes of them; see
// test_same_as_python.py.

import { decodeRunLengths } from '../../web/picker/contours.js'
import { patchOf, validArea } from '../../web/picker/geometry.js'
import { toPixels } from '../../web/picker/boxes.js'
import { fromJson, fromPasted, toJson } from '../../web/picker/points.js'
import { fromText, isUntouched, pointsOf, toText } from '../../web/picker/subjects.js'
import { makeCurve, parseKeyframes } from '../../web/schedule/curve.js'

const NAMES = ['saved', 'patches', 'areas', 'masks', 'pasted', 'curves', 'keyframes', 'subjects', 'boxes']

/** The result, or null for an error. */
const tried = (call) => {
  try {
    return call()
  } catch {
    return null
  }
}

let text = ''
for await (const part of process.stdin) text += part
const given = JSON.parse(text)
const [saved, patches, areas, masks, pasted, curves, keyframes, subjects, boxes] = NAMES.map((name) => given[name] ?? [])
process.stdout.write(
  JSON.stringify({
    saved: saved.map((value) => toJson(fromJson(value))),
    patches: patches.map(([point, width, height, grid]) => patchOf(point, { width, height }, grid)),
    areas: areas.map(([width, height, grid]) => validArea({ width, height }, grid)),
    masks: masks.map(([runs, size]) => [...decodeRunLengths(runs, size)]),
    pasted: pasted.map(([value, width, height]) => toJson(fromPasted(value, 'positive', { width, height }).points)),
    curves: curves.map(([settings, timesteps]) => tried(() => timesteps.map(makeCurve(settings)))),
    keyframes: keyframes.map((value) => tried(() => parseKeyframes(value))),
    subjects: subjects.map((text) =>
      tried(() => {
        const content = fromText(text)
        const points = content.subjects.map((_, index) => toJson(pointsOf(content.subjects, index)))
        return { text: toText(content), points, isUntouched: isUntouched(content) }
      })
    ),
    boxes: boxes.map(([box, width, height]) => toPixels(box, { width, height }))
  })
)
