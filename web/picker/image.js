// Loads a picture, and makes reduced copies of it for drawing.

// Pixels of the longer side of the copies from which a large picture is drawn while zoomed out.
const LARGEST_COPY = 2048
const SMALLEST_COPY = 256

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

/** A picture reduced to side x side pixels of four bytes, red, green, blue and opacity, in rows. */
export function pixelsOf({ levels }, side) {
  return drawn(levels[0], side, side).getContext('2d').getImageData(0, 0, side, side).data
}
