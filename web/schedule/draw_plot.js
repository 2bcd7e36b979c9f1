// Draws the plot: grid, line, the sampler's steps, handles. All measures are stage pixels.

import { t } from '../common/translate.js'
import { toStage } from './plot_scale.js'

const COLOURS = { grid: '#343840', text: '#a9afba', curve: '#60b0ff', fill: 'rgba(96, 176, 255, 0.14)', step: '#ffb040' }
const HANDLE = 6

export function drawPlot(context, editor) {
  const { box, stage } = editor
  context.clearRect(0, 0, stage.width, stage.height)
  drawGrid(context, box)
  const line = editor.line
  if (!line.length) return
  drawLine(context, box, line)
  drawSteps(context, box, editor)
  editor.handles.forEach((handle, index) => drawHandle(context, box, handle, index === editor.selection))
}

function drawGrid(context, box) {
  context.lineWidth = 1
  context.strokeStyle = COLOURS.grid
  context.fillStyle = COLOURS.text
  context.font = '10px system-ui, sans-serif'
  context.beginPath()
  context.textAlign = 'right'
  context.textBaseline = 'middle'
  for (let i = 0; i * box.spacing <= box.top * (1 + 1e-9); i++) {
    const { x, y } = toStage(0, i * box.spacing, box)
    context.moveTo(x, y)
    context.lineTo(x + box.width, y)
    context.fillText(String(Number((i * box.spacing).toPrecision(6))), x - 5, y)
  }
  context.textBaseline = 'top'
  for (const [percent, text, align] of [[0, t('noise'), 'left'], [0.5, '50 %', 'center'], [1, t('image'), 'right']]) {
    const { x, y } = toStage(percent, 0, box)
    context.moveTo(x, y)
    context.lineTo(x, box.y)
    context.textAlign = align
    context.fillText(text, x, y + 5)
  }
  context.stroke()
}

function drawLine(context, box, line) {
  const path = new Path2D()
  for (const { percent, weight } of line) {
    const { x, y } = toStage(percent, weight, box)
    path.lineTo(x, y)
  }
  const area = new Path2D(path)
  area.lineTo(box.x + box.width, box.y + box.height)
  area.lineTo(box.x, box.y + box.height)
  context.fillStyle = COLOURS.fill
  context.fill(area)
  context.lineWidth = 2
  context.lineJoin = 'round'
  context.strokeStyle = COLOURS.curve
  context.stroke(path)
}

function drawSteps(context, box, editor) {
  const points = editor.stepPoints
  const radius = points.length > box.width / 6 ? 1.5 : 2.5
  points.forEach(({ percent, weight }, i) => {
    const { x, y } = toStage(percent, weight, box)
    context.beginPath()
    context.arc(x, y, i === editor.hoverStep ? radius + 2 : radius, 0, 2 * Math.PI)
    context.fillStyle = COLOURS.step
    context.fill()
  })
}

function drawHandle(context, box, { percent, weight }, isSelected) {
  const { x, y } = toStage(percent, weight, box)
  const half = HANDLE + (isSelected ? 2 : 0)
  context.beginPath()
  context.rect(x - half, y - half, 2 * half, 2 * half)
  context.fillStyle = '#10161c'
  context.fill()
  context.lineWidth = isSelected ? 3 : 2
  context.strokeStyle = '#ffffff'
  context.stroke()
}
