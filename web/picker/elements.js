// Builds the widget's elements. No events, no state.

import { add, addKeys } from '../common/dom.js'
import { t } from '../common/translate.js'
import { COLOURS } from './draw_stage.js'
import { CSS, ICONS } from './style.js'

const help = () =>
  [
    t('Click the picture to place a point. Tab selects a point; the arrow keys move it by one pixel, or by ten with Shift.'),
    t('Enter places a point in the middle of the view. X changes the sign of the selected point, Delete removes it.'),
    t('M shows the masks or the similarity, G shows the patch grid, F fits the picture to the view, Control Z undoes.'),
    t('Escape deselects; pressed again, it leaves the editor.')
  ].join(' ')

/** {root, bar, buttons: {name: button}, stage, canvas, keys, note, hint, warning, left, right, live} */
export function buildElements() {
  const root = document.createElement('div')
  root.className = 'p3s-picker'
  root.title = '' // else the input's tooltip would pop up over the picture
  root.dataset.captureWheel = 'true' // Nodes 2.0: the wheel is ours while the editor has the focus
  root.style.setProperty('--p3s-positive', COLOURS.positive)
  root.style.setProperty('--p3s-negative', COLOURS.negative)
  add(root, 'style', '', CSS)
  const bar = add(root, 'div', 'p3s-bar')
  bar.setAttribute('role', 'toolbar')
  bar.setAttribute('aria-label', t('Points'))
  const stage = add(root, 'div', 'p3s-stage')
  const canvas = add(stage, 'canvas', '')
  const note = add(stage, 'div', 'p3s-note')
  const hint = add(note, 'div', 'p3s-hint')
  const run = add(note, 'button', 'p3s-run')
  const warning = add(root, 'p', 'p3s-warning')
  warning.setAttribute('role', 'alert')
  const status = add(root, 'div', 'p3s-status')
  const live = add(root, 'div', 'p3s-unseen')
  live.setAttribute('aria-live', 'polite')
  const keys = addKeys(stage, t('Point editor'), help())
  Object.assign(run, { type: 'button', hidden: true })
  run.dataset.command = 'run'
  return {
    root,
    bar,
    buttons: { ...buildButtons(bar), run },
    stage,
    canvas,
    keys,
    note,
    hint,
    warning,
    left: add(status, 'span', ''),
    right: add(status, 'span', ''),
    live
  }
}

function buildButtons(bar) {
  const buttons = {}
  const group = (className = '') => add(bar, 'div', `p3s-group ${className}`)
  const button = (parent, name, label, text = '') => {
    const element = add(parent, 'button', `p3s-${name}`)
    element.type = 'button'
    element.dataset.command = name
    element.title = label
    element.setAttribute('aria-label', label)
    element.innerHTML = ICONS[name]
    if (text) add(element, 'span', '', text)
    buttons[name] = element
  }
  const signs = group('p3s-signs')
  button(signs, 'positive', t('Clicks mark the subject (+)'), t('Keep'))
  const leaveOut = t('Clicks mark what to leave out (−). A right-click places a point of the opposite sign')
  button(signs, 'negative', leaveOut, t('Leave out'))
  const edit = group()
  button(edit, 'undo', t('Undo (Ctrl+Z)'))
  button(edit, 'redo', t('Redo (Ctrl+Shift+Z)'))
  button(edit, 'remove', t('Remove the selected point (Delete)'))
  const look = group()
  button(look, 'masks', t('Show what the points select: masks, similarity, nothing (M)'))
  button(look, 'grid', t('Show the patches that CLIP sees (G)'))
  button(look, 'fit', t('Fit the picture to the view (F or double-click)'))
  const clear = group()
  button(clear, 'clearPositive', t('Remove all + points'))
  button(clear, 'clearNegative', t('Remove all − points'))
  return buttons
}
