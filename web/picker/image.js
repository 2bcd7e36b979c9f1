// The loaded picture: copies of it for drawing, and a sketch by which another picture is told.

// Pixels of the longer side of the copies from which a large picture is drawn while zoomed out.
const LARGEST_COPY = 2048
const SMALLEST_COPY = 256
const SKETCH = 8 // cells a side
const SAMPLES = 8 // pixels a side that a cell is the mean of

/** The picture at a URL: {full, levels}, the image and ever smaller copies of it. Rejects if it cannot be loaded. */
export async function loadImage(url) {
  const image = new Image()
  image.src = url
  await image.decode()
  return { full: image, levels: levelsOf(image) }
}

/** Copies of a large picture, each half as wide as the next, and the picture itself: a frame resamples little. */
function levelsOf(image) {
  const levels = [image]
  for (let side = LARGEST_COPY; side >= SMALLEST_COPY; side /= 2) {
    if (side < Math.max(image.naturalWidth, image.naturalHeight)) levels.unshift(copyOf(levels[0], image, side))
  }
  return levels
}

function copyOf(source, image, side) {
  const scale = side / Math.max(image.naturalWidth, image.naturalHeight)
  return drawn(source, Math.max(1, Math.round(image.naturalWidth * scale)), Math.max(1, Math.round(image.naturalHeight * scale)))
}

function drawn(source, width, height) {
  const canvas = document.createElement('canvas')
  Object.assign(canvas, { width, height })
  const context = canvas.getContext('2d')
  context.imageSmoothingQuality = 'high'
  context.drawImage(source, 0, 0, width, height)
  return canvas
}

/** A picture in a few letters, for `looksOther`: the mean colours of 8 x 8 cells, a hexadecimal digit each of red,
 * green and blue. */
export function sketchOf({ levels }) {
  const side = SKETCH * SAMPLES
  const { data } = drawn(levels[0], side, side).getContext('2d').getImageData(0, 0, side, side)
  const sums = new Float64Array(SKETCH * SKETCH * 3)
  for (let at = 0; at < side * side; at++) {
    const cell = Math.floor(at / side / SAMPLES) * SKETCH + Math.floor((at % side) / SAMPLES)
    for (let channel = 0; channel < 3; channel++) sums[3 * cell + channel] += data[4 * at + channel]
  }
  return Array.from(sums, (sum) => Math.floor(sum / SAMPLES ** 2 / 16).toString(16)).join('')
}
