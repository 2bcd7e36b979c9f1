// What the editor says, in its status line and to screen readers. No DOM in here.

import { t } from '../common/translate.js'
import * as boxes from './boxes.js'
import * as geometry from './geometry.js'
import { MAX_POINTS } from './points.js'
import { borrowed } from './subjects.js'

// In the order in which M cycles through them.
export const OVERLAYS = {
  none: () => t('Masks hidden.'),
  masks: () => t('Masks shown.'),
  similarity: () => t('Similarity shown.')
}

export function cleared(sign) {
  if (sign === 'boxes') return t('All boxes removed.')
  return sign === 'positive' ? t('All positive points removed.') : t('All negative points removed.')
}

export function removed(sign) {
  if (sign === 'boxes') return t('Box removed.')
  return sign === 'positive' ? t('Positive point removed.') : t('Negative point removed.')
}

export function full(sign) {
  const values = { count: MAX_POINTS }
  if (sign === 'boxes') return t('There are already {count} boxes; remove one first.', values)
  return sign === 'positive'
    ? t('There are already {count} positive points; remove one first.', values)
    : t('There are already {count} negative points; remove one first.', values)
}

/** The point or box at a place {sign, index}. */
export function selected(item, { sign, index }, picture) {
  if (sign === 'boxes') return box(item, index, picture)
  const [x, y] = geometry.toPixel(item, picture)
  const values = { number: index + 1, x, y }
  return sign === 'positive'
    ? t('Positive point {number} at {x}, {y}', values)
    : t('Negative point {number} at {x}, {y}', values)
}

export function box(item, index, picture) {
  const [x1, y1, x2, y2] = boxes.toPixels(item, picture)
  return t('Box {number}: {x1}, {y1} to {x2}, {y2}', { number: index + 1, x1, y1, x2, y2 })
}

/** Which subject is edited, and how many points of the others it has as negative ones. */
export function subject(subjects, index) {
  const count = borrowed(subjects, index).length
  const text = t('Subject {number}.', { number: index + 1 })
  return count ? `${text} ${t('− from other tabs: {count}.', { count })}` : text
}
