// Draws points and boxes: layers of draw_stage.js. A sign is told by shape and glyph, not by colour alone.

import * as geometry from './geometry.js'
import { lent } from './subjects.js'

export const COLOURS = { positive: '#35d07f', negative: '#ff6b6b', boxes: '#ffd54a' }
const POINT = 9 // half the size of a mark
const FAINT = 0.5
const DIGIT = 10 // the height of a number with its dark outline
const HANDLE = 3.5 // half the size of a box's corner

/** The active subject's points with their numbers, and faintly those of the others that are negative ones here. */
export function drawPoints(context, { editor, rect }) {
  context.globalAlpha = FAINT
  for (const { point, subject } of lent(editor.subjects, editor.active)) {
    const at = geometry.fromImage(point, rect)
    drawMark(context, at, 'negative', false, false)
    drawNumber(context, at, subject + 1, editor.stage)
  }
  context.globalAlpha = 1
  for (const sign of ['negative', 'positive']) {
    editor.points[sign].forEach((point, index) => {
      const at = geometry.fromImage(point, rect)
      drawMark(context, at, sign, is(editor.selection, sign, index), is(editor.hover, sign, index))
      drawNumber(context, at, index + 1, editor.stage)
    })
  }
}

const is = (at, sign, index) => at?.sign === sign && at?.index === index

/** A disc with a plus, or a square with a minus: told apart without colour. */
function drawMark(context, { x, y }, sign, selected, hovered) {
  const half = POINT + (hovered && !selected ? 1.5 : 0)
  context.translate(x, y)
  if (selected) {
    outline(context, sign, half + 4)
    context.lineWidth = 2
    context.strokeStyle = '#ffffff'
    context.stroke()
    outline(context, sign, half + 5.5)
    context.lineWidth = 1
    context.strokeStyle = 'rgba(0, 0, 0, 0.8)'
    context.stroke()
  }
  outline(context, sign, half)
  context.shadowColor = 'rgba(0, 0, 0, 0.6)'
  context.shadowBlur = 4
  context.fillStyle = COLOURS[sign]
  context.fill()
  context.shadowBlur = 0
  context.lineWidth = 2
  context.strokeStyle = '#ffffff'
  context.stroke()
  context.beginPath()
  context.moveTo(-half * 0.5, 0)
  context.lineTo(half * 0.5, 0)
  if (sign === 'positive') {
    context.moveTo(0, -half * 0.5)
    context.lineTo(0, half * 0.5)
  }
  context.lineWidth = 2.5
  context.strokeStyle = '#10161c'
  context.stroke()
  context.translate(-x, -y)
}

function outline(context, sign, half) {
  context.beginPath()
  if (sign === 'positive') context.arc(0, 0, half, 0, 2 * Math.PI)
  else context.roundRect(-half * 0.9, -half * 0.9, half * 1.8, half * 1.8, 2.5)
}

/** Beside the mark, at its upper right, where it covers neither the glyph nor the place. */
function drawNumber(context, at, number, stage) {
  context.font = 'bold 11px system-ui, sans-serif'
  context.textAlign = 'left'
  context.textBaseline = 'alphabetic'
  context.lineJoin = 'round'
  context.lineWidth = 3
  context.strokeStyle = 'rgba(0, 0, 0, 0.85)'
  const text = String(number)
  const { x, y } = geometry.besideMark(at, POINT, { width: context.measureText(text).width, height: DIGIT }, stage)
  context.strokeText(text, x, y)
  context.fillStyle = '#ffffff'
  context.fillText(text, x, y)
}

/** The boxes of the active subject, and faintly those of the others, with their tab's number. */
export function drawBoxes(context, { editor, rect }) {
  const { stage } = editor
  context.globalAlpha = FAINT
  editor.subjects.forEach(({ boxes }, subject) => {
    if (subject === editor.active) return
    for (const box of boxes) drawBox(context, box, { rect, stage }, `(${subject + 1})`, { dashed: true })
  })
  context.globalAlpha = 1
  editor.points.boxes.forEach((box, index) => {
    const selected = is(editor.selection, 'boxes', index)
    const hovered = is(editor.hover, 'boxes', index)
    drawBox(context, box, { rect, stage }, String(index + 1), { selected, hovered, handles: editor.isBoxing })
  })
}

function drawBox(context, box, { rect, stage }, label, { selected = false, hovered = false, handles = false, dashed = false }) {
  const from = geometry.fromImage(box.slice(0, 2), rect)
  const to = geometry.fromImage(box.slice(2), rect)
  const size = [to.x - from.x, to.y - from.y]
  const width = selected || hovered ? 2.5 : 1.5
  context.setLineDash(dashed ? [6, 4] : [])
  // A dark line around a light one shows on any picture.
  for (const [colour, lineWidth] of [['rgba(0, 0, 0, 0.6)', width + 2], [selected ? '#ffffff' : COLOURS.boxes, width]]) {
    context.strokeStyle = colour
    context.lineWidth = lineWidth
    context.strokeRect(from.x, from.y, ...size)
  }
  context.setLineDash([])
  if (handles) drawHandles(context, from, to)
  drawNumber(context, { x: from.x - POINT + 3, y: from.y + POINT + 9 }, label, stage)
}

function drawHandles(context, from, to) {
  for (const x of [from.x, to.x]) {
    for (const y of [from.y, to.y]) {
      context.fillStyle = '#ffffff'
      context.fillRect(x - HANDLE, y - HANDLE, 2 * HANDLE, 2 * HANDLE)
      context.lineWidth = 1
      context.strokeStyle = '#10161c'
      context.strokeRect(x - HANDLE, y - HANDLE, 2 * HANDLE, 2 * HANDLE)
    }
  }
}
