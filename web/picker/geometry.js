// Where things are. Three spaces: "image" is normalised 0..1 of the picture (what is saved), "stage" is CSS pixels of
// the drawing area, "pixel" is the picture's own pixels. Pure functions on plain numbers; no DOM in here.

export const FIT = Object.freeze({ zoom: 1, x: 0.5, y: 0.5 }) // a view: zoom relative to "fits", and the image point in the middle

const MARGIN = 2 // stage pixels left free around a fitted picture
const MAX_PIXEL = 48 // stage pixels that one picture pixel may grow to
const MIN_MAX_ZOOM = 8

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value))

/** Stage pixels that one picture pixel takes when the whole picture fits. */
export function fitScale(stage, picture) {
  const width = Math.max(1, stage.width - 2 * MARGIN)
  const height = Math.max(1, stage.height - 2 * MARGIN)
  return Math.min(width / picture.width, height / picture.height)
}

export function maxZoom(stage, picture) {
  return Math.max(MIN_MAX_ZOOM, MAX_PIXEL / fitScale(stage, picture))
}

/** The picture's rectangle on the stage. */
export function pictureRect(stage, picture, view) {
  const scale = fitScale(stage, picture) * view.zoom
  const width = picture.width * scale
  const height = picture.height * scale
  return { x: stage.width / 2 - view.x * width, y: stage.height / 2 - view.y * height, width, height, scale }
}

export function toImage(point, rect) {
  return [(point.x - rect.x) / rect.width, (point.y - rect.y) / rect.height]
}

export function fromImage([x, y], rect) {
  return { x: rect.x + x * rect.width, y: rect.y + y * rect.height }
}

export const isInside = ([x, y]) => x >= 0 && x <= 1 && y >= 0 && y <= 1

export const clampPoint = ([x, y]) => [clamp(x, 0, 1), clamp(y, 0, 1)]

/**
 * Where a text {width, height} beside a mark begins, the left end of its baseline: at its upper right; lower at the stage's
 * upper edge and to the left at its right edge, where it would be cut. `half`: of the mark's size.
 */
export function besideMark({ x, y }, half, text, stage) {
  const right = x + half + 1
  const isCut = x <= stage.width && right + text.width > stage.width
  const above = y - half + 3
  return { x: isCut ? x - half - 1 - text.width : right, y: y >= 0 ? Math.max(above, text.height) : above }
}

/** The nearest legal view: zoom in its range, no empty border that a pan could avoid. */
export function clampView(view, stage, picture) {
  const zoom = clamp(view.zoom, 1, maxZoom(stage, picture))
  const rect = pictureRect(stage, picture, { zoom, x: 0, y: 0 })
  const axis = (centre, span, room) => {
    const half = room / 2 / span // half the stage, in image units
    return half >= 0.5 ? 0.5 : clamp(centre, half, 1 - half)
  }
  return { zoom, x: axis(view.x, rect.width, stage.width), y: axis(view.y, rect.height, stage.height) }
}

/** Zoom by a factor; what is under the stage point `at` stays there (unless the border says no). */
export function zoomAt(view, factor, at, stage, picture) {
  const before = pictureRect(stage, picture, view)
  const [x, y] = toImage(at, before)
  const zoom = clamp(view.zoom * factor, 1, maxZoom(stage, picture))
  const scale = fitScale(stage, picture) * zoom
  return clampView(
    {
      zoom,
      x: x - (at.x - stage.width / 2) / (picture.width * scale),
      y: y - (at.y - stage.height / 2) / (picture.height * scale)
    },
    stage,
    picture
  )
}

/** Move the picture by stage pixels. */
export function panBy(view, dx, dy, stage, picture) {
  const rect = pictureRect(stage, picture, view)
  return clampView({ zoom: view.zoom, x: view.x - dx / rect.width, y: view.y - dy / rect.height }, stage, picture)
}

/** The zoom factor of a wheel event: about 1.2 a notch, smooth for trackpads. */
export function wheelFactor(deltaY, deltaMode) {
  const pixels = deltaMode === 1 ? deltaY * 33 : deltaMode === 2 ? deltaY * 400 : deltaY
  return Math.exp(-clamp(pixels, -200, 200) * 0.0018)
}

/** The point under a stage position: the nearest within `radius` stage pixels, {sign, index}, else null. */
export function hit(points, at, rect, radius) {
  let best = null
  let bestDistance = radius * radius
  for (const sign of ['positive', 'negative']) {
    points[sign].forEach((point, index) => {
      const { x, y } = fromImage(point, rect)
      const distance = (x - at.x) ** 2 + (y - at.y) ** 2
      if (distance <= bestDistance) {
        bestDistance = distance
        best = { sign, index }
      }
    })
  }
  return best
}

/** A point moved by whole picture pixels. */
export function nudge([x, y], dx, dy, picture) {
  return clampPoint([x + dx / picture.width, y + dy / picture.height])
}

/** The picture pixel that holds a point, as the node's coordinate texts give it; as pixel_at in p3s/reference/framing.py. */
export function toPixel([x, y], picture) {
  return [
    Math.min(Math.floor(x * picture.width), picture.width - 1),
    Math.min(Math.floor(y * picture.height), picture.height - 1)
  ]
}

/** The point that a pixel's numbers stand for, its middle; as middle_of in p3s/reference/framing.py. */
export function fromPixel({ x, y }, picture) {
  return [Math.min((x + 0.5) / picture.width, 1), Math.min((y + 0.5) / picture.height, 1)]
}

// CLIP sees the picture centred in a square and divided into count x count patches; the same rules as p3s/reference/framing.py.
function frame(picture) {
  const side = Math.max(picture.width, picture.height)
  return { side, left: Math.floor((side - picture.width) / 2), top: Math.floor((side - picture.height) / 2) }
}

/** Where the lines of the patch grid run, in image units. */
export function patchLines(picture, count) {
  const { side, left, top } = frame(picture)
  const axis = (start, length) => {
    const lines = []
    for (let i = 0; i <= count; i++) {
      const position = ((i / count) * side - start) / length
      if (position >= 0 && position <= 1) lines.push(position)
    }
    return lines
  }
  return { x: axis(left, picture.width), y: axis(top, picture.height) }
}

/** The patch [column, row] that is read for a point: its own, or the nearest that lies in the picture by half. */
export function patchOf([x, y], picture, count) {
  const { side, left, top } = frame(picture)
  const index = (start, length, position) => {
    const [first, last] = validPatches(start, length, side, count)
    return clamp(Math.floor(((start + position * length) / side) * count), first, last)
  }
  return [index(left, picture.width, x), index(top, picture.height, y)]
}

/** First and last patch along one axis of which at least half is picture; for a very thin one, all that it touches. */
function validPatches(start, length, side, count) {
  const end = start + length
  const first = Math.ceil((2 * count * start - side) / (2 * side))
  const last = Math.floor((2 * count * end - side) / (2 * side))
  if (first <= last) return [first, last]
  return [Math.floor((start * count) / side), Math.ceil((end * count) / side) - 1]
}

/** The rectangle {left, top, right, bottom} of that patch in image units; it may reach over the picture's edge. */
export function patchRect(point, picture, count) {
  const [column, row] = patchOf(point, picture, count)
  const { side, left, top } = frame(picture)
  const edge = (index, start, length) => ((index / count) * side - start) / length
  return {
    left: edge(column, left, picture.width),
    top: edge(row, top, picture.height),
    right: edge(column + 1, left, picture.width),
    bottom: edge(row + 1, top, picture.height)
  }
}

/** The patches that are read of a picture, as one rectangle {left, top, right, bottom} in image units. */
export function validArea(picture, count) {
  const first = patchRect([0, 0], picture, count)
  const last = patchRect([1, 1], picture, count)
  return { left: first.left, top: first.top, right: last.right, bottom: last.bottom }
}

/** Whether two sizes have visibly different shapes. */
export function shapeChanged(a, b) {
  const ratio = a.width / a.height / (b.width / b.height)
  return ratio > 1.01 || ratio < 1 / 1.01
}
