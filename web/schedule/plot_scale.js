// Where the curve lies on its stage, in CSS pixels; the same scale as p3s/sampling/schedule_plot.py. No DOM in here.

const MARGIN = { left: 30, right: 12, top: 10, bottom: 20 }

/** {x, y, width, height, top, spacing}: the plot's rectangle, the weight at its upper edge, and between its lines. */
export function plotBox(stage, highest) {
  const spacing = niceSpacing(Math.max(1, highest))
  const top = spacing * Math.ceil((1.05 * Math.max(1, highest)) / spacing)
  return {
    x: MARGIN.left,
    y: MARGIN.top,
    width: Math.max(1, stage.width - MARGIN.left - MARGIN.right),
    height: Math.max(1, stage.height - MARGIN.top - MARGIN.bottom),
    top,
    spacing
  }
}

/** The stage position of a point of the curve. */
export function toStage(percent, weight, box) {
  return { x: box.x + percent * box.width, y: box.y + (1 - weight / box.top) * box.height }
}

/** {percent, weight} at a stage position. */
export function fromStage({ x, y }, box) {
  return { percent: (x - box.x) / box.width, weight: (1 - (y - box.y) / box.height) * box.top }
}

/** The index of the nearest of the points {percent, weight} within `radius` pixels, or -1. */
export function hit(points, at, box, radius) {
  let best = -1
  let bestDistance = radius
  points.forEach((point, index) => {
    const { x, y } = toStage(point.percent, point.weight, box)
    const distance = Math.hypot(x - at.x, y - at.y)
    if (distance <= bestDistance) {
      bestDistance = distance
      best = index
    }
  })
  return best
}

/** Distance of about four lines up to `top`: 1, 2 or 5 times a power of ten. */
function niceSpacing(top) {
  const power = 10 ** Math.floor(Math.log10(top / 4))
  return [1, 2, 5, 10].map((step) => step * power).find((spacing) => spacing >= (top / 4) * (1 - 1e-9))
}
