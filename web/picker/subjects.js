// The editor's value: points and boxes of up to four subjects, as p3s/reference/selection.py reads them. No DOM in here.

import { t } from '../common/translate.js'
import * as points from './points.js'

export const MAX_SUBJECTS = 4
const VERSION = 2 // of a text that one subject's points are not all of

export const NOTHING = Object.freeze({ subjects: Object.freeze([points.EMPTY]), seed: '' })

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)

/**
 * The text that is saved: one subject's points as older versions read them, where that is all.
 * seed: a sketch of the points from outside that the user has changed since; '' for none.
 */
export function toText({ subjects, seed }) {
  if (subjects.length === 1 && !subjects[0].boxes.length && !seed) return points.toJson(subjects[0])
  const list = subjects.map((each) => {
    const { positive, negative } = JSON.parse(points.toJson(each))
    return each.boxes.length ? { positive, negative, boxes: each.boxes.map(rounded) } : { positive, negative }
  })
  return JSON.stringify(seed ? { v: VERSION, subjects: list, seed } : { v: VERSION, subjects: list })
}

const rounded = (box) => box.map(points.round)

/** Read the saved text: {subjects, seed}. Throws an Error with a message for the user. */
export function fromText(text) {
  const value = parsed(text)
  if (!isObject(value) || value.v !== VERSION) return { subjects: [points.fromJson(text)], seed: '' }
  const { subjects, seed = '' } = value
  if (!Array.isArray(subjects) || !subjects.length || subjects.length > MAX_SUBJECTS || typeof seed !== 'string') {
    throw new Error(t('The saved text is not a list of points.'))
  }
  return { subjects: subjects.map(points.fromObject), seed }
}

function parsed(text) {
  if (typeof text !== 'string') return text
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** The subjects of a pasted text of this form; null for any other text. Throws an Error for one that is wrong. */
export function fromPasted(text) {
  const value = parsed(text)
  return isObject(value) && value.v === VERSION && 'subjects' in value ? fromText(text).subjects : null
}

/** Whether nothing is marked, and nothing from outside was taken away: then points from outside count. */
export const isUntouched = ({ subjects, seed }) => !seed && count(subjects) === 0

export const count = (subjects) => subjects.reduce((sum, each) => sum + points.count(each), 0)

export const replaced = (subjects, index, marks) => subjects.map((each, i) => (i === index ? marks : each))

/**
 * The other subjects' positive points that a subject without negative ones of its own has as such:
 * [{point, subject}] in the order of the tabs, as apart in p3s/reference/points.py.
 */
export function borrowed(subjects, index) {
  return subjects[index].positive.length ? lent(subjects, index) : []
}

/** The same, also while the subject has no point yet. */
export function lent(subjects, index) {
  if (subjects[index].negative.length) return []
  const others = subjects.flatMap((each, subject) => (subject === index ? [] : each.positive.map((point) => ({ point, subject }))))
  return others.slice(0, points.MAX_POINTS)
}

/** The points by which a subject is found: its own, and those that it borrows. */
export function pointsOf(subjects, index) {
  const { positive, negative } = subjects[index]
  return { positive, negative: [...negative, ...borrowed(subjects, index).map(({ point }) => point)], boxes: [] }
}

/** The first subject that differs between two lists; null for none. */
export function firstChanged(before, after) {
  for (let i = 0; i < Math.max(before.length, after.length); i++) {
    if (JSON.stringify(before[i]) !== JSON.stringify(after[i])) return i
  }
  return null
}

/** A short name of a text, by which another one is told (FNV-1a, 32 bits). */
export function sketch(text) {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return (hash >>> 0).toString(16).padStart(8, '0')
}
