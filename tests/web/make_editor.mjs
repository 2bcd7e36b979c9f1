// An editor on a stage, and the words in which tests use it.

import { Editor } from '../../web/picker/editor.js'
import * as g from '../../web/picker/geometry.js'

const STAGE = { width: 400, height: 400 }
const PICTURE = { width: 1000, height: 500 } // fitted: 396 x 198 stage pixels, from (2, 101)

export function makeEditor() {
  const log = { changes: [], said: [], renders: 0, subjects: 0 }
  const editor = new Editor({
    render: () => log.renders++,
    change: (text) => log.changes.push(text),
    say: (message) => log.said.push(message),
    subject: () => log.subjects++
  })
  editor.setStage(STAGE.width, STAGE.height)
  editor.setPicture(PICTURE)
  const at = (x, y, more = {}) => ({ id: 1, x, y, button: 0, type: 'mouse', time: 0, ...more })
  const press = (x, y, more) => editor.gestures.down(at(x, y, more))
  const move = (x, y, more) => editor.gestures.move(at(x, y, more))
  const release = (x, y, more) => editor.gestures.up(at(x, y, more))
  const click = (x, y, more) => (press(x, y, more), release(x, y, more))
  const drag = (from, to, more) => (press(...from, more), move(...to, more), release(...to, more))
  const key = (name, more) => editor.key({ key: name, ctrl: false, shift: false, alt: false, ...more })
  const points = () => JSON.parse(editor.value)
  const place = (point) => g.fromImage(point, editor.rect)
  return { editor, log, press, move, release, click, drag, key, points, place, at }
}
