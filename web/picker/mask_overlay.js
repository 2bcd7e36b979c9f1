// Draws what the points select over the picture. Colour, pattern and outline each tell the two regions apart.

import { CachedLayer } from '../common/cached_layer.js'
import { heatColours } from './colormap.js'
import { contours, decodeRunLengths, trace } from './contours.js'
import * as geometry from './geometry.js'

// As in p3s/reference/overlay.py: blue and orange stay apart for colour-blind eyes.
const REGIONS = {
  removed: { colour: '#ff7800', pattern: stripes },
  subject: { colour: '#2882ff', pattern: dots }
}
const TINT = 0.35
const TILE = 10 // stage pixels

/** A layer of draw_stage.js. It keeps its work, and does it again only when masks, mode or view change. */
export class MaskOverlay {
  #layer = new CachedLayer()
  #masks = null // what the drawings below were made of
  #drawings = null

  /** masks: of a MaskClient, or null. */
  draw(context, { editor, rect, pixelRatio }, masks) {
    if (editor.overlay === 'none' || !masks) return
    if (masks !== this.#masks) {
      this.#masks = masks
      this.#drawings = toDrawings(masks)
    }
    const key = [masks, editor.overlay, rect.x, rect.y, rect.width, rect.height]
    this.#layer.draw(context, pixelRatio, key, (layer) => this.#paint(layer, editor, rect, pixelRatio))
  }

  #paint(context, editor, rect, pixelRatio) {
    context.beginPath()
    context.rect(rect.x, rect.y, rect.width, rect.height)
    context.clip()
    if (editor.overlay === 'similarity') {
      this.#paintHeat(context, editor, rect)
      strokeOutline(context, onStage(this.#drawings.subject, rect), '#ffffff')
      return
    }
    for (const [name, { colour, pattern }] of Object.entries(REGIONS)) {
      const path = onStage(this.#drawings[name], rect)
      context.fillStyle = patternOf(colour, pattern, pixelRatio)
      context.fill(path, 'evenodd')
      strokeOutline(context, path, colour)
    }
  }

  #paintHeat(context, editor, rect) {
    const area = geometry.validArea(editor.picture, this.#drawings.grid)
    const from = geometry.fromImage([area.left, area.top], rect)
    const to = geometry.fromImage([area.right, area.bottom], rect)
    context.globalAlpha = 0.7
    context.drawImage(this.#drawings.heat, from.x, from.y, to.x - from.x, to.y - from.y)
    context.globalAlpha = 1
  }
}

/** Masks as shapes in 0..1 of the picture, the similarity as one pixel a patch. */
function toDrawings(masks) {
  const shape = (runs) => {
    const path = new Path2D()
    trace(path, contours(decodeRunLengths(runs, masks.size), masks.size), masks.size)
    return path
  }
  return {
    subject: shape(masks.subject),
    removed: shape(masks.removed),
    heat: heatCanvas(heatColours(masks.similarity)),
    grid: masks.grid
  }
}

function onStage(shape, rect) {
  const path = new Path2D()
  path.addPath(shape, new DOMMatrix([rect.width, 0, 0, rect.height, rect.x, rect.y]))
  return path
}

function strokeOutline(context, path, colour) {
  context.lineWidth = 2
  context.strokeStyle = colour
  context.stroke(path)
}

/** A tint with a pattern, whose measure is the stage's and not the picture's. */
function patternOf(colour, pattern, pixelRatio) {
  const tile = document.createElement('canvas')
  tile.width = tile.height = Math.round(TILE * pixelRatio)
  const context = tile.getContext('2d')
  context.scale(tile.width / TILE, tile.width / TILE)
  context.fillStyle = context.strokeStyle = colour
  context.globalAlpha = TINT
  context.fillRect(0, 0, TILE, TILE)
  context.globalAlpha = 0.9
  pattern(context)
  const made = context.createPattern(tile, 'repeat')
  made.setTransform(new DOMMatrix([TILE / tile.width, 0, 0, TILE / tile.width, 0, 0]))
  return made
}

function dots(context) {
  context.beginPath()
  context.arc(TILE / 2, TILE / 2, 1.1, 0, 2 * Math.PI)
  context.fill()
}

function stripes(context) {
  context.beginPath()
  for (const shift of [-TILE, 0, TILE]) {
    context.moveTo(shift - 1, TILE + 1)
    context.lineTo(shift + TILE + 1, -1)
  }
  context.lineWidth = 1.8
  context.stroke()
}

function heatCanvas(colours) {
  const canvas = document.createElement('canvas')
  Object.assign(canvas, { width: colours[0].length, height: colours.length })
  const context = canvas.getContext('2d')
  const image = context.createImageData(canvas.width, canvas.height)
  colours.flat().forEach((colour, i) => image.data.set([...colour, 255], 4 * i))
  context.putImageData(image, 0, 0)
  return canvas
}
