// The similarity as colours. No DOM in here.

// Evenly spaced colours of matplotlib's viridis, as in p3s/reference/overlay.py.
const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121],
  [110, 206, 88], [181, 222, 43], [253, 231, 37]
]

/** Rows of numbers to rows of [red, green, blue], dark violet for the lowest and yellow for the highest. */
export function heatColours(rows) {
  const all = rows.flat()
  const low = Math.min(...all)
  const span = Math.max(...all) - low || 1
  return rows.map((row) => row.map((value) => viridis((value - low) / span)))
}

function viridis(share) {
  const position = share * (VIRIDIS.length - 1)
  const index = Math.min(Math.floor(position), VIRIDIS.length - 2)
  return VIRIDIS[index].map((from, i) => Math.round(from + (VIRIDIS[index + 1][i] - from) * (position - index)))
}
