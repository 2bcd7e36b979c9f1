// The points and boxes of one subject: read, write, and change them. States are never altered in place. No DOM in here.
//
// {positive: [[x, y]], negative: [[x, y]], boxes: [[left, top, right, bottom]]} in 0..1 of the picture. A place in it is
// {sign, index}, where the sign of a box is 'boxes'.

import { t } from '../common/translate.js'
import { fromPixel } from './geometry.js'

const VERSION = 1
const NEWEST = 2 // that the editor reads: subjects.js
export const MAX_POINTS = 64 // of each sign; as in p3s/reference/points.py
export const EMPTY = Object.freeze({ positive: Object.freeze([]), negative: Object.freeze([]), boxes: Object.freeze([]) })

export const SIGNS = ['positive', 'negative']
export const LISTS = [...SIGNS, 'boxes']
const DIGITS = 6 // a hundredth of a pixel of a picture 10000 pixels wide

export const opposite = (sign) => (sign === 'positive' ? 'negative' : 'positive')

export const round = (value) => Number(value.toFixed(DIGITS)) + 0

/** The points as a text, without boxes: what is saved of one subject, and what the masks are asked for with. */
export function toJson(points) {
  const list = (sign) => points[sign].map(([x, y]) => [round(x), round(y)])
  return JSON.stringify({ v: VERSION, positive: list('positive'), negative: list('negative') })
}

/** Read the saved text. Throws an Error with a message for the user; nothing is repaired by guessing. */
export function fromJson(text) {
  if (text === undefined || text === null || text === '') return EMPTY
  const value = typeof text === 'string' ? parse(text) : text
  if (!isObject(value) || !('v' in value)) throw new Error(t('The saved text is not a list of points.'))
  if (!(value.v === VERSION)) {
    const versions = { theirs: value.v, ours: NEWEST }
    throw new Error(t('The points are in format version {theirs}; this editor reads version {ours}.', versions))
  }
  return checked(value.positive ?? [], value.negative ?? [])
}

/** Check {positive, negative, boxes}, each optional. Throws an Error with a message for the user. */
export function fromObject(value) {
  if (!isObject(value)) throw new Error(t('The saved text is not a list of points.'))
  return { ...checked(value.positive ?? [], value.negative ?? []), boxes: checkedBoxes(value.boxes ?? []) }
}

/**
 * Read a pasted text: our own form, or KJNodes' pixel forms [{x, y}] and {positive: [{x, y}], negative: [...]}.
 * Returns {points, sign}: `sign` is null if the text names both signs, else all points are of the sign given.
 * Returns null for a text that is no point list at all; throws an Error for one that is, but is wrong.
 */
export function fromPasted(text, sign, picture) {
  let value
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  if (isObject(value) && 'v' in value && ('positive' in value || 'negative' in value)) {
    return { points: fromJson(value), sign: null }
  }
  const isList = Array.isArray(value) && value.length > 0 && value.every(isPixel)
  const isBoth =
    isObject(value) && SIGNS.some((s) => s in value) && SIGNS.every((s) => Array.isArray(value[s] ?? []))
  if (!isList && !isBoth) return null
  if (!picture) throw new Error(t('Points in pixels cannot be placed without a picture: load one, then paste again.'))
  const lists = isList ? { [sign]: value } : value
  const unit = areNormalised(SIGNS.flatMap((name) => lists[name] ?? [])) ? { width: 1, height: 1 } : picture
  const normalise = (name) =>
    clicked(lists[name] ?? [], name).map((point, i) => {
      const which = nameOf(name, i)
      if (!isPixel(point)) throw new Error(t('{point}: expected {"x": .., "y": ..} in pixels.', { point: which }))
      if (point.x < 0 || point.y < 0 || point.x > unit.width || point.y > unit.height) {
        const values = { point: `${which} (${point.x}, ${point.y})`, size: `${unit.width} × ${unit.height}` }
        throw new Error(t('{point} lies outside the picture of {size}.', values))
      }
      const [x, y] = unit === picture ? [point.x, point.y] : [point.x * picture.width, point.y * picture.height]
      return fromPixel({ x, y }, picture)
    })
  return { points: checked(normalise('positive'), normalise('negative')), sign: isList ? sign : null }
}

/** Without the negative point at 0, 0 that KJNodes' older editor puts there by itself. */
const clicked = (list, sign) => (sign === 'negative' ? list.filter((point) => point?.x !== 0 || point?.y !== 0) : list)

/** Whether {x, y} mean 0..1 and not pixels, as KJNodes writes them with `normalize` on; as in p3s/reference/points.py. */
function areNormalised(list) {
  const numbers = list.flatMap((point) => [point?.x, point?.y])
  return numbers.every((n) => n >= 0 && n <= 1) && numbers.some((n) => n > 0 && n < 1)
}

export const count = (points) => LISTS.reduce((sum, sign) => sum + points[sign].length, 0)

export const get = (points, at) => (at ? points[at.sign][at.index] : undefined)

export const isFull = (points, sign) => points[sign].length >= MAX_POINTS

export function add(points, sign, point) {
  return { ...points, [sign]: [...points[sign], point] }
}

export function move(points, at, point) {
  return { ...points, [at.sign]: points[at.sign].map((old, i) => (i === at.index ? point : old)) }
}

export function remove(points, at) {
  return { ...points, [at.sign]: points[at.sign].filter((_, i) => i !== at.index) }
}

/** Give a point the other sign; it becomes the last of its new list. */
export function flip(points, at) {
  return add(remove(points, at), opposite(at.sign), points[at.sign][at.index])
}

export function clear(points, sign) {
  return { ...points, [sign]: [] }
}

/** The selection that follows (step 1) or precedes (-1) `at`, in the order of LISTS; null past either end. */
export function neighbour(points, at, step) {
  const all = LISTS.flatMap((sign) => points[sign].map((_, index) => ({ sign, index })))
  if (!at) return (step > 0 ? all[0] : all[all.length - 1]) ?? null
  const here = all.findIndex((other) => other.sign === at.sign && other.index === at.index)
  return all[here + step] ?? null
}

function parse(text) {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error(t('The saved points are not valid JSON.'))
  }
}

const nameOf = (sign, i) =>
  sign === 'positive' ? t('Positive point {number}', { number: i + 1 }) : t('Negative point {number}', { number: i + 1 })
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
const isPixel = (point) => isObject(point) && Number.isFinite(point.x) && Number.isFinite(point.y)

function checked(positive, negative) {
  const check = (list, sign) => {
    if (!Array.isArray(list)) throw new Error(t('The positive and negative points must each be a list.'))
    if (list.length > MAX_POINTS) {
      const values = { count: list.length, most: MAX_POINTS }
      throw new Error(t('There are {count} points of one sign; at most {most} are allowed.', values))
    }
    return list.map((point, i) => {
      const ok = Array.isArray(point) && point.length === 2 && point.every((c) => Number.isFinite(c) && c >= 0 && c <= 1)
      if (!ok) {
        const values = { point: nameOf(sign, i), value: JSON.stringify(point) }
        throw new Error(t('{point}: expected [x, y] in 0..1, got {value}.', values))
      }
      return [point[0], point[1]]
    })
  }
  return { positive: check(positive, 'positive'), negative: check(negative, 'negative'), boxes: [] }
}

function checkedBoxes(boxes) {
  const isBox = (box) =>
    Array.isArray(box) &&
    box.length === 4 &&
    box.every((c) => Number.isFinite(c) && c >= 0 && c <= 1) &&
    box[0] < box[2] &&
    box[1] < box[3]
  if (!Array.isArray(boxes) || boxes.length > MAX_POINTS || !boxes.every(isBox)) {
    throw new Error(t('The saved boxes cannot be read.'))
  }
  return boxes.map((box) => [...box])
}
