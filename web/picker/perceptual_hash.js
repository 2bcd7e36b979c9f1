// Whether two pictures look different, by their perceptual hashes. No DOM in here.

const CELLS = 8 // a side
const SAMPLES = 8 // pixels a side that a cell is the mean of
const SAME = 2 // steps of 16 that a cell may differ: rounding, resizing and compression take one

export const HASHED_SIDE = CELLS * SAMPLES

/**
 * The hash of a picture reduced to HASHED_SIDE x HASHED_SIDE pixels of four bytes: the mean colours of 8 x 8 cells, a
 * hexadecimal digit each for red, green and blue.
 */
export function perceptualHash(pixels) {
  const sums = new Float64Array(CELLS * CELLS * 3)
  for (let at = 0; at < HASHED_SIDE ** 2; at++) {
    const cell = Math.floor(at / HASHED_SIDE / SAMPLES) * CELLS + Math.floor((at % HASHED_SIDE) / SAMPLES)
    for (let channel = 0; channel < 3; channel++) sums[3 * cell + channel] += pixels[4 * at + channel]
  }
  return Array.from(sums, (sum) => Math.floor(sum / SAMPLES ** 2 / 16).toString(16)).join('')
}

/** Whether a hash is that of another picture; the same one in another size or file format is not another. */
export function looksDifferent(a, b) {
  return a.length !== b.length || [...a].some((digit, i) => Math.abs(parseInt(digit, 16) - parseInt(b[i], 16)) > SAME)
}
