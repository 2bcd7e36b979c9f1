// The client of the server's mask route: asks what the points select, and reads the answer. No DOM in here.

import { t } from '../common/translate.js'

const PAUSE = 80 // milliseconds between two requests while a point is carried

/**
 * One request at a time; of what is wanted in the meantime, only the newest is asked for afterwards.
 *
 * ask(request): a promise of {state, ...}, see nodes/host/mask_route.py. changed(): called when there is something new.
 * later(call, milliseconds): setTimeout.
 */
export class MaskClient {
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

  /** request: {picture, origin, points, settings}, or null for nothing. */
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
    // The answer to earlier points of the same picture and model is shown until the newest one is there.
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

const keyOf = (request) => request && JSON.stringify([request.picture, request.origin])

function read(answer) {
  const [width, height] = answer.size
  const share = (runs) => runs.reduce((sum, length, i) => sum + (i % 2 ? length : 0), 0) / (width * height)
  return { ...answer, subjectShare: share(answer.subject), removedShare: share(answer.removed) }
}
