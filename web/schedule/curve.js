// The weight of the subject over the course of denoising: the same curves as p3s/sampling/schedule.py. No DOM in here.
//
// A timestep t runs from 999 (noise) to 0 (image), a percent from 0 to 1. Settings are the node's:
// {kind, alpha, beta, k, value, keyframes}, the last as text.

import { t as inWords } from '../common/translate.js'

const T = 1000
const LAST_TIMESTEP = 999
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i

export const MAX_STEPS = 1000
export const MAX_WEIGHT = 10 // of a keyframe that is dragged; as the highest value of Weight Schedule
export const FROM_A_RUN = null // the kind of settings that another node gives

const clamp = (value, low, high) => Math.min(high, Math.max(low, value))

export const timestepOf = (percent) => (1 - percent) * LAST_TIMESTEP

export const percentOf = (t) => clamp(1 - t / LAST_TIMESTEP, 0, 1)

const smooth = (u) => (3 - 2 * u) * u ** 2

// One entry per kind: settings -> (t in 0..1000 -> weight). "learned" is missing: its curve is the subject's.
const CURVES = {
  paper: ({ alpha, beta, k }) => (t) => 1 - alpha * (t / T) ** k + beta,
  fixed: ({ value }) => () => value,
  increasing: ({ value, k }) => (t) => value * (1 - t / T) ** k,
  decreasing: ({ value, k }) => (t) => value * (t / T) ** k,
  keyframes: ({ keyframes }) => keyframeCurve(parseKeyframes(keyframes)),
  ease: ({ alpha, beta }) => (t) => 1 - alpha * smooth(t / T) + beta
}

/** The weight as a function of the timestep. Throws an Error for the user where there is no curve to show. */
export function makeCurve(settings) {
  const { kind } = settings
  if (kind === FROM_A_RUN) throw new Error(inWords('Another node sets this curve; it is known only once the workflow runs.'))
  if (kind === 'learned') throw new Error(inWords('This curve was learned with the subject and is stored in its file.'))
  const make = Object.hasOwn(CURVES, kind) && CURVES[kind]
  if (!make) throw new Error(inWords('This version of the pack has no curve of kind "{kind}".', { kind }))
  const curve = make(settings)
  return (t) => Math.max(0, curve(clamp(t, 0, T)))
}

function keyframeCurve(pairs) {
  if (!pairs.length) throw new Error(inWords('No keyframes: click in the plot to add one.'))
  return (t) => {
    const percent = percentOf(t)
    const next = pairs.findIndex(([at]) => percent <= at)
    if (next === 0) return pairs[0][1]
    if (next < 0) return pairs.at(-1)[1]
    const [[first, weight], [second, nextWeight]] = [pairs[next - 1], pairs[next]]
    return weight + ((nextWeight - weight) * (percent - first)) / (second - first)
  }
}

/** The timesteps of a sampler's steps, evenly spaced from noise to image, as the scheduler "normal" places them. */
export function stepTimesteps(count) {
  return Array.from({ length: count }, (_, i) => (count > 1 ? LAST_TIMESTEP * (1 - i / (count - 1)) : LAST_TIMESTEP))
}

/** "0:0.7, 1:1.2" (or semicolons, or lines), or a JSON list of pairs, to sorted pairs [percent, weight]. */
export function parseKeyframes(text) {
  const pairs = text.trimStart().startsWith('[') ? parseList(text) : parseText(text)
  const seen = new Set()
  pairs.forEach((pair, i) => {
    const [percent, weight] = pair
    const values = { number: i + 1, percent, weight }
    const problem =
      (!pair.every(Number.isFinite) && inWords('Keyframe {number}: expected two numbers.', values)) ||
      ((percent < 0 || percent > 1) && inWords('Keyframe {number}: percent {percent} lies outside 0..1.', values)) ||
      (weight < 0 && inWords('Keyframe {number}: the weight {weight} is negative.', values)) ||
      (seen.has(percent) && inWords('Keyframe {number}: percent {percent} is used twice.', values))
    if (problem) throw new Error(problem)
    seen.add(percent)
  })
  return pairs.sort((a, b) => a[0] - b[0])
}

function parseList(text) {
  let value
  try {
    value = JSON.parse(text)
  } catch {
    throw new Error(inWords('The keyframes are not valid JSON.'))
  }
  value.forEach((pair, i) => {
    const values = { number: i + 1 }
    if (!Array.isArray(pair) || pair.length !== 2) {
      throw new Error(inWords('Keyframe {number}: expected [percent, weight].', values))
    }
  })
  return value
}

function parseText(text) {
  const entries = text.split(/[,;\n]/).map((entry) => entry.trim()).filter(Boolean)
  return entries.map((entry, i) => {
    const parts = entry.split(':').map((part) => part.trim())
    if (parts.length !== 2 || !parts.every((part) => NUMBER.test(part))) {
      const values = { number: i + 1, entry }
      throw new Error(inWords('Keyframe {number}: "{entry}" is not "percent:weight", as in "0.5:1".', values))
    }
    return parts.map(Number)
  })
}

/** The pairs as text, in the form that `like` has. */
export function formatKeyframes(pairs, like) {
  if (like.trimStart().startsWith('[')) return JSON.stringify(pairs)
  return pairs.map((pair) => pair.join(':')).join(', ')
}

// --- handles -------------------------------------------------------------------------------------------------------

/** What can be dragged: {name, percent, weight, free}; a free one moves sideways too. [] where there is no curve. */
export function handles(settings) {
  let curve
  try {
    curve = makeCurve(settings)
  } catch {
    return []
  }
  const at = (name, percent) => ({ name, percent, weight: curve(timestepOf(percent)), free: false })
  switch (settings.kind) {
    case 'paper':
    case 'ease':
      return [at('start', 0), at('end', 1)]
    case 'fixed':
      return [at('value', 0.5)]
    case 'increasing':
      return [at('value', 1)]
    case 'decreasing':
      return [at('value', 0)]
    default:
      return parseKeyframes(settings.keyframes).map(([percent, weight], i) => ({
        name: `keyframe ${i + 1}`, percent, weight, free: true
      }))
  }
}

/** The settings after handle `index` was moved to a place, as far as they allow it. */
export function moveHandle(settings, index, percent, weight) {
  const wanted = clamp(weight, 0, MAX_WEIGHT)
  if (settings.kind === 'keyframes') {
    const pairs = parseKeyframes(settings.keyframes)
    // To whole thousandths between its neighbours: the order stays, and no percent is used twice. The others stay as
    // they were written.
    const low = index > 0 ? Math.floor(pairs[index - 1][0] * 1000 + 1e-9) + 1 : 0
    const high = index < pairs.length - 1 ? Math.ceil(pairs[index + 1][0] * 1000 - 1e-9) - 1 : 1000
    const place = low <= high ? round(clamp(percent * 1000, low, high), 0) / 1000 : pairs[index][0]
    pairs[index] = [place, round(wanted, 3)]
    return { ...settings, keyframes: formatKeyframes(pairs, settings.keyframes) }
  }
  if (settings.kind === 'paper' || settings.kind === 'ease') return moveEnd(settings, index === 0, wanted)
  return { ...settings, value: round(wanted, 2) }
}

/** The two ends of Eq. 10 and of "ease": beta sets the last step's weight, alpha how far below it the first one lies. */
function moveEnd(settings, isStart, weight) {
  const { kind, alpha, beta, k } = settings
  const first = LAST_TIMESTEP / T
  const power = kind === 'ease' ? smooth(first) : first ** k // of the first step; the last step's is 0, or 1 where k is 0
  if (kind === 'paper' && k === 0) return { ...settings, beta: round(clamp(weight - 1 + alpha, -5, 5), 2) }
  const start = isStart ? weight : 1 - alpha * power + beta
  const end = isStart ? 1 + beta : weight
  const nextBeta = round(clamp(end - 1, -5, 5), 2)
  return { ...settings, alpha: round(clamp((1 + nextBeta - start) / power, -5, 5), 2), beta: nextBeta }
}

/** The settings with another keyframe, and its index; null if there is one at that place already. */
export function addKeyframe(settings, percent, weight) {
  const at = round(clamp(percent, 0, 1), 3)
  let pairs = []
  try {
    pairs = parseKeyframes(settings.keyframes)
  } catch {
    return null // the text is being written
  }
  if (pairs.some(([other]) => Math.abs(other - at) < 0.0005)) return null
  pairs.push([at, round(clamp(weight, 0, MAX_WEIGHT), 3)])
  pairs.sort((a, b) => a[0] - b[0])
  const index = pairs.findIndex(([other]) => other === at)
  return { settings: { ...settings, keyframes: formatKeyframes(pairs, settings.keyframes) }, index }
}

export function removeKeyframe(settings, index) {
  const pairs = parseKeyframes(settings.keyframes).filter((_, i) => i !== index)
  return { ...settings, keyframes: formatKeyframes(pairs, settings.keyframes) }
}

const round = (value, digits) => Number(value.toFixed(digits)) + 0
