// Draws the stage: an ordered list of layers, each a function of the canvas context and one scene.
// scene: {editor, image, rect, pixelRatio, pictureLayer, patchCount, overlay(context, scene)}; `pictureLayer` is a
// CachedLayer, `patchCount` how many of CLIP's patches lie side by side. All measures are stage pixels. To show more,
// add a layer.

import { COLOURS, drawBoxes, drawPoints } from './draw_marks.js'
import * as geometry from './geometry.js'
import { pointsOf } from './subjects.js'

const LOUPE = { radius: 46, gap: 16, zoom: 4 }

const LAYERS = [drawPicture, drawOverlay, drawGrid, drawBoxes, drawPoints, drawLoupe]

export function drawStage(context, scene) {
  const { width, height } = scene.editor.stage
  context.clearRect(0, 0, width, height)
  if (!scene.image) return
  for (const layer of LAYERS) {
    context.save()
    layer(context, scene)
    context.restore()
  }
}

function drawPicture(context, { image, rect, pixelRatio, editor, pictureLayer }) {
  const key = [image, rect.x, rect.y, rect.width, rect.height]
  pictureLayer.draw(context, pixelRatio, key, (layer) => paintPicture(layer, image, rect, pixelRatio, editor.stage))
}

function paintPicture(context, image, rect, pixelRatio, stage) {
  const source = image.levels.find((level) => sizeOf(level).width >= rect.width * pixelRatio) ?? image.full
  context.imageSmoothingEnabled = rect.scale < 4
  context.imageSmoothingQuality = 'high'
  const left = Math.max(0, -rect.x / rect.width)
  const top = Math.max(0, -rect.y / rect.height)
  const right = Math.min(1, (stage.width - rect.x) / rect.width)
  const bottom = Math.min(1, (stage.height - rect.y) / rect.height)
  if (right <= left || bottom <= top) return
  const { width, height } = sizeOf(source)
  context.drawImage(
    source,
    left * width,
    top * height,
    (right - left) * width,
    (bottom - top) * height,
    rect.x + left * rect.width,
    rect.y + top * rect.height,
    (right - left) * rect.width,
    (bottom - top) * rect.height
  )
}

function drawOverlay(context, scene) {
  scene.overlay(context, scene)
}

function drawGrid(context, { editor, rect, patchCount }) {
  if (!editor.grid) return
  const lines = geometry.patchLines(editor.picture, patchCount)
  context.beginPath()
  for (const x of lines.x) {
    context.moveTo(rect.x + x * rect.width, rect.y)
    context.lineTo(rect.x + x * rect.width, rect.y + rect.height)
  }
  for (const y of lines.y) {
    context.moveTo(rect.x, rect.y + y * rect.height)
    context.lineTo(rect.x + rect.width, rect.y + y * rect.height)
  }
  // A dark line under a light one shows on any picture.
  context.lineWidth = 2
  context.strokeStyle = 'rgba(0, 0, 0, 0.35)'
  context.stroke()
  context.lineWidth = 1
  context.strokeStyle = 'rgba(255, 255, 255, 0.55)'
  context.stroke()
  context.beginPath()
  context.rect(rect.x, rect.y, rect.width, rect.height)
  context.clip()
  const points = pointsOf(editor.subjects, editor.active)
  for (const sign of ['positive', 'negative']) {
    for (const point of points[sign]) {
      drawPatch(context, geometry.patchRect(point, editor.picture, patchCount), sign, rect)
    }
  }
}

function drawPatch(context, patch, sign, rect) {
  const from = geometry.fromImage([patch.left, patch.top], rect)
  const to = geometry.fromImage([patch.right, patch.bottom], rect)
  context.globalAlpha = 0.35
  context.fillStyle = COLOURS[sign]
  context.fillRect(from.x, from.y, to.x - from.x, to.y - from.y)
  context.globalAlpha = 1
  context.lineWidth = 2
  context.strokeStyle = COLOURS[sign]
  context.setLineDash(sign === 'positive' ? [] : [4, 3])
  context.strokeRect(from.x, from.y, to.x - from.x, to.y - from.y)
}

/** A magnifier beside a point that is being carried, where neither finger nor pointer hides it. */
function drawLoupe(context, { editor, image, rect }) {
  if (!editor.gestures.isCarrying) return
  const { sign, index } = editor.selection
  const point = editor.points[sign][index]
  const at = geometry.fromImage(point, rect)
  const { radius, gap, zoom } = LOUPE
  const above = at.y - 2 * radius - gap > 0
  const x = geometry.clamp(at.x, radius + 2, editor.stage.width - radius - 2)
  const y = above ? at.y - radius - gap : Math.min(at.y + radius + gap, editor.stage.height - radius - 2)
  context.beginPath()
  context.arc(x, y, radius, 0, 2 * Math.PI)
  context.fillStyle = '#111'
  context.fill()
  context.save()
  context.clip()
  const scale = Math.max(rect.scale * zoom, 1)
  const size = sizeOf(image.full)
  const half = radius / scale / editor.picture.width // in image units; the full picture may be a smaller preview
  const halfY = radius / scale / editor.picture.height
  context.imageSmoothingEnabled = scale < 4
  context.drawImage(
    image.full,
    (point[0] - half) * size.width,
    (point[1] - halfY) * size.height,
    2 * half * size.width,
    2 * halfY * size.height,
    x - radius,
    y - radius,
    2 * radius,
    2 * radius
  )
  context.restore()
  context.lineWidth = 3
  context.strokeStyle = COLOURS[sign]
  context.stroke()
  context.beginPath()
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    context.moveTo(x + dx * 3, y + dy * 3)
    context.lineTo(x + dx * 14, y + dy * 14)
  }
  context.lineWidth = 3
  context.strokeStyle = 'rgba(0, 0, 0, 0.6)'
  context.stroke()
  context.lineWidth = 1.5
  context.strokeStyle = '#fff'
  context.stroke()
}

const sizeOf = (source) => ({
  width: source.naturalWidth ?? source.width,
  height: source.naturalHeight ?? source.height
})
