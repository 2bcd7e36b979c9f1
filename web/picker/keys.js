// The keys of the editor, by their names. No DOM in here.

import { MAX_SUBJECTS } from './subjects.js'

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
const FAR = 10 // pixels that an arrow moves with Shift

/** event: {key, ctrl, shift, alt}. Returns whether the key was for the editor. */
export function pressKey(editor, { key, ctrl, shift, alt }) {
  const name = key.length === 1 ? key.toLowerCase() : key
  if (alt) return false
  if (name in ARROWS) return arrow(editor, ARROWS[name], shift, ctrl)
  if (ctrl) return controlKey(editor, name, shift)
  if (name === 'Tab') return editor.selectNext(shift ? -1 : 1) // past the last one, Tab leads to the buttons
  if (name === 'Escape') return escape(editor)
  const number = Number(name)
  if (number >= 1 && number <= MAX_SUBJECTS) return editor.goToSubject(number - 1), true
  // Delete is handled without a selection too: the graph would delete the node.
  const remove = () => (shift ? editor.removeSubject() : editor.removeSelected())
  const command = {
    Delete: remove,
    Backspace: remove,
    Enter: () => editor.addInMiddle(),
    x: () => editor.flipSelected(),
    '+': () => editor.setSign('positive'),
    '=': () => editor.setSign('positive'),
    '-': () => editor.setSign('negative'),
    g: () => editor.setGrid(!editor.grid),
    f: () => editor.fit(),
    m: () => editor.nextOverlay()
  }[name]
  command?.()
  return Boolean(command)
}

function controlKey(editor, name, shift) {
  if (name === 'z') shift ? editor.redo() : editor.undo()
  else if (name === 'y' && !shift) editor.redo()
  else return false
  return true // even with nothing to undo: the graph's undo must not jump in
}

/** Moves what is selected, or the view; with Ctrl, a box's lower right corner. */
function arrow(editor, [dx, dy], shift, ctrl) {
  if (ctrl && editor.selection?.sign !== 'boxes') return false
  const step = shift ? FAR : 1
  if (editor.gestures.isBusy || !editor.picture) return true
  if (editor.selection) editor.nudgeSelected(dx * step, dy * step, ctrl)
  else editor.pan(-dx * step * 5, -dy * step * 5)
  return true
}

function escape(editor) {
  const used = editor.gestures.isBusy || editor.selection !== null
  editor.gestures.abandon()
  editor.select(null)
  return used
}
