// Masks as shapes: decodes the server's run lengths and traces the outlines of the regions. No DOM in here.

/** Lengths of alternating runs of 0 and 1, as p3s/reference/mask_preview.py encodes a mask, to one byte per pixel. */
export function decodeRunLengths(runs, [width, height]) {
  const pixels = new Uint8Array(width * height)
  let at = 0
  runs.forEach((length, i) => {
    if (i % 2) pixels.fill(1, at, at + length)
    at += length
  })
  return pixels
}

/**
 * The regions of ones as closed loops [x0, y0, x1, y1, ...], to be filled by the even-odd rule. They pass through the
 * middles of the pixels' sides, so that stairs become slopes.
 */
export function contours(pixels, [width, height]) {
  const stride = width + 1 // corners are numbered along the rows
  const ways = new Map() // from a corner to the next ones, clockwise around ones
  const go = (from, to) => ways.has(from) ? ways.get(from).push(to) : ways.set(from, [to])
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      const here = x < width && y < height ? pixels[y * width + x] : 0
      const above = x < width && y > 0 ? pixels[(y - 1) * width + x] : 0
      const left = x > 0 && y < height ? pixels[y * width + x - 1] : 0
      const corner = y * stride + x
      if (here > above) go(corner, corner + 1)
      else if (here < above) go(corner + 1, corner)
      if (here > left) go(corner + stride, corner)
      else if (here < left) go(corner, corner + stride)
    }
  }
  const loops = []
  for (const start of ways.keys()) {
    while (ways.get(start).length) loops.push(follow(ways, start, stride))
  }
  return loops
}

/** Walks and takes away one loop; a straight stretch gives the middles of its first and last side only. */
function follow(ways, start, stride) {
  const loop = []
  let corner = start
  let straight = 0 // sides so far that went the same way
  let direction = 0
  do {
    const next = ways.get(corner).pop()
    straight = next - corner === direction ? straight + 1 : 1
    direction = next - corner
    if (straight > 2) loop.splice(-2)
    loop.push(((corner % stride) + (next % stride)) / 2, (Math.floor(corner / stride) + Math.floor(next / stride)) / 2)
    corner = next
  } while (corner !== start)
  return loop
}

/** Draws loops of `contours` on a Path2D or a context, scaled to 0..1. */
export function trace(path, loops, [width, height]) {
  for (const loop of loops) {
    // A closed loop leaves the pen at its start.
    path.moveTo(loop[0] / width, loop[1] / height)
    for (let i = 2; i < loop.length; i += 2) path.lineTo(loop[i] / width, loop[i + 1] / height)
    path.closePath()
  }
}
