// Whether two pictures look different, by their sketches (see image.js). No DOM in here.

const SAME = 2 // steps of 16 that a cell may differ: rounding, resizing and compression take one

/** Whether a sketch is of another picture; the same one in another size or file format is not another. */
export function looksOther(a, b) {
  return a.length !== b.length || [...a].some((digit, i) => Math.abs(parseInt(digit, 16) - parseInt(b[i], 16)) > SAME)
}
