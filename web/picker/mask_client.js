// What the points select: asking the server for it, and reading its answer. No DOM in here.

import { t } from '../common/translate.js'

export const MODES = ['none', 'masks', 'similarity'] // of the overlay, in the order in which M goes through them

const PAUSE = 80 // milliseconds between two requests while a point is carried

const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121],
  [110, 206, 88], [181, 222, 43], [253, 231, 37]
]

/**
 * Asks for the newest wanted thing, one request at a time: what is wanted in between is asked for afterwards.
 *
 * ask(request): a promise of {state, ...}, see nodes/host/mask_route.py. changed(): called when there is something new.
 * later(call, milliseconds): setTimeout.
 */
export class MaskQuery {
  masks = null // the newest answer {size, subject, removed, grid, similarity, subjectShare, removedShare}, or null
  grid = 16 // CLIP's patches are grid x grid; those of ViT-L/14 until an answer tells
  message = '' // for the user: why there are no masks, or what is odd about them
  isUnread = false // whether a run of RNGR Mask would bring them
  #wanted = null // {request, text}
  #answered = null // the text of the newest request that was answered
  #busy = false
  #ask
  #changed
  #later

  constructor(ask, changed, later = (call, pause) => setTimeout(call, pause)) {
    this.#ask = ask
    this.#changed = changed
    this.#later = later
  }

  /** Whether `masks` and `message` answer what is wanted now, and not something before it. */
  get isSettled() {
    return !this.#wanted || this.#wanted.text === this.#answered
  }

  /** request: {picture, points, settings}, or null for nothing. */
  want(request) {
    const text = request && JSON.stringify(request)
    if (text === (this.#wanted?.text ?? null)) return
    const before = this.#wanted
    this.#wanted = request && { request, text }
    if (keyOf(before?.request) !== keyOf(request)) this.#show(null, '')
    this.#go()
  }

  /** Ask again: the server may know more now. */
  refresh() {
    this.#answered = null
    this.#go()
  }

  #go() {
    if (this.isSettled || this.#busy) return
    this.#busy = true
    this.#send(this.#wanted)
  }

  async #send({ request, text }) {
    let answer
    try {
      answer = await this.#ask(request)
    } catch (error) {
      answer = { state: 'failed', message: t('The masks cannot be shown: {reason}', { reason: error.message }) }
    }
    // The answer to earlier points of the same picture is shown until the newest one is there.
    if (keyOf(this.#wanted?.request) === keyOf(request) && answer.state !== 'superseded') {
      this.#answered = text
      this.grid = answer.grid ?? this.grid
      if (answer.state === 'ready') this.#show(read(answer), answer.warnings[0] ?? '')
      else this.#show(null, answer.message ?? '', answer.state === 'unread')
    }
    this.#later(() => {
      this.#busy = false
      this.#go()
    }, PAUSE)
  }

  #show(masks, message, isUnread = false) {
    this.masks = masks
    this.message = message
    this.isUnread = isUnread
    this.#changed()
  }
}

const keyOf = (request) => request && JSON.stringify(request.picture)

function read(answer) {
  const [width, height] = answer.size
  const share = (runs) => runs.reduce((sum, length, i) => sum + (i % 2 ? length : 0), 0) / (width * height)
  return { ...answer, subjectShare: share(answer.subject), removedShare: share(answer.removed) }
}

/** Runs of zeros and ones in turn, as p3s/reference/mask_preview.py writes them, to one byte a pixel, 0 or 1. */
export function fromRuns(runs, [width, height]) {
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
