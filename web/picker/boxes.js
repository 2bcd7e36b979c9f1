// Boxes [left, top, right, bottom] in 0..1 of the picture: find, draw, move and resize them. No DOM in here.

import { clamp, clampPoint, fromImage, toImage } from './geometry.js'

const sides = (low, high, least) => (high - low >= least ? [low, high] : [clamp(low, 0, 1 - least), clamp(low, 0, 1 - least) + least])

/** The box between two points, at least one pixel of the picture wide and high. */
export function between([x0, y0], [x1, y1], picture) {
  const [left, right] = sides(Math.min(x0, x1), Math.max(x0, x1), 1 / picture.width)
  const [top, bottom] = sides(Math.min(y0, y1), Math.max(y0, y1), 1 / picture.height)
  return [left, top, right, bottom]
}

/** A box half as large as what the stage shows, in its middle. */
export function inMiddle(rect, stage, picture) {
  const at = (share) => clampPoint(toImage({ x: stage.width * share, y: stage.height * share }, rect))
  return between(at(0.25), at(0.75), picture)
}

/**
 * The box under a stage position, within `radius` of its edges or inside of it: {index, part: {x, y}}, or null. `part`
 * says which side is held along each axis: -1 left or top, 1 right or bottom, 0 none; both 0 is the inside. Of several
 * the smallest is meant, so that every box can be reached; edges come before insides.
 */
export function hit(boxes, at, rect, radius) {
  let best = null
  boxes.forEach((box, index) => {
    const part = partAt(box, at, rect, radius)
    if (!part) return
    const rank = [part.x || part.y ? 0 : 1, (box[2] - box[0]) * (box[3] - box[1])]
    if (!best || rank[0] < best.rank[0] || (rank[0] === best.rank[0] && rank[1] < best.rank[1])) best = { index, part, rank }
  })
  return best && { index: best.index, part: best.part }
}

function partAt(box, at, rect, radius) {
  const from = fromImage(box.slice(0, 2), rect)
  const to = fromImage(box.slice(2), rect)
  const isNear = at.x > from.x - radius && at.x < to.x + radius && at.y > from.y - radius && at.y < to.y + radius
  if (!isNear) return null
  return { x: side(at.x, from.x, to.x, radius), y: side(at.y, from.y, to.y, radius) }
}

/** Which end of a span is held; a third of a small box's span stays for moving it. */
function side(at, low, high, radius) {
  const reach = Math.min(radius, (high - low) / 3)
  if (at < low + reach) return -1
  return at > high - reach ? 1 : 0
}

/** A box whose held part is moved by dx, dy in 0..1; it stays in the picture, and at least one pixel wide and high. */
export function reshape(box, part, dx, dy, picture) {
  if (!part.x && !part.y) return moved(box, dx, dy)
  const [left, right] = stretched(box[0], box[2], part.x, dx, 1 / picture.width)
  const [top, bottom] = stretched(box[1], box[3], part.y, dy, 1 / picture.height)
  return [left, top, right, bottom]
}

function moved([left, top, right, bottom], dx, dy) {
  const x = clamp(dx, -left, 1 - right)
  const y = clamp(dy, -top, 1 - bottom)
  return [left + x, top + y, right + x, bottom + y]
}

function stretched(low, high, part, by, least) {
  if (part < 0) return [clamp(low + by, 0, Math.max(0, high - least)), high]
  if (part > 0) return [low, clamp(high + by, Math.min(1, low + least), 1)]
  return [low, high]
}

/** Move a box by whole pixels of the picture, or, with `corner`, its lower right corner. */
export function nudge(box, dx, dy, picture, corner = false) {
  return reshape(box, corner ? { x: 1, y: 1 } : { x: 0, y: 0 }, dx / picture.width, dy / picture.height, picture)
}

/** [x1, y1, x2, y2] in pixels, as boxes_in_pixels in p3s/reference/selection.py. */
export function toPixels([left, top, right, bottom], picture) {
  const span = (low, high, count) => {
    const first = Math.min(roundEven(low * count), count - 1)
    return [first, Math.max(roundEven(high * count), first + 1)]
  }
  const [x1, x2] = span(left, right, picture.width)
  const [y1, y2] = span(top, bottom, picture.height)
  return [x1, y1, x2, y2]
}

/** As Python rounds. */
function roundEven(value) {
  const down = Math.floor(value)
  if (value - down !== 0.5) return Math.round(value)
  return down % 2 ? down + 1 : down
}
