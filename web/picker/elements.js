// Builds the widget's elements. No events, no state.

import { add, addKeys } from '../common/dom.js'
import { t } from '../common/translate.js'
import { COLOURS } from './draw_marks.js'
import { CSS, ICONS } from './style.js'
import { MAX_SUBJECTS } from './subjects.js'

const help = () =>
  [
    t('Click the picture to place a point. Tab selects a point; the arrow keys move it by one pixel, or by ten with Shift.'),
    t('Enter places a point in the middle of the view. X changes the sign of the selected point, Delete removes it.'),
    t('M shows the masks or the similarity, G shows the patch grid, F fits the picture to the view, Control Z undoes.'),
    t('B held while dragging draws a box; pressed alone it changes between points and boxes. Control and an arrow key resize a selected box.'),
    t('1 to 4 choose a subject; the number after the last one adds it. Shift Delete removes the subject.'),
    t('Escape deselects; pressed again, it leaves the editor.')
  ].join(' ')

/** {root, bar, buttons: {name: button}, tabs: [button], stage, canvas, keys, note, hint, warning, news, left, lack, right, live} */
export function buildElements() {
  const root = document.createElement('div')
  root.className = 'p3s-picker'
  root.title = '' // else the input's tooltip would pop up over the picture
  root.dataset.captureWheel = 'true' // Nodes 2.0: the wheel is ours while the editor has the focus
  root.style.setProperty('--p3s-positive', COLOURS.positive)
  root.style.setProperty('--p3s-negative', COLOURS.negative)
  root.style.setProperty('--p3s-boxes', COLOURS.boxes)
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
  const news = add(root, 'div', 'p3s-news')
  news.hidden = true
  add(news, 'span', '', t('points_in brings other points than those you changed.'))
  const foot = add(root, 'div', 'p3s-foot')
  const buttons = { ...buildButtons(bar), run }
  addButton(buttons, news, 'take', t('Give up your points for these. Undo brings them back'), t('Take the new points'))
  const tabs = buildTabs(buttons, foot)
  addButton(buttons, foot, 'clearBoxes', t('Remove all boxes'))
  const status = add(foot, 'div', 'p3s-status')
  const live = add(root, 'div', 'p3s-unseen')
  live.setAttribute('aria-live', 'polite')
  const keys = addKeys(stage, t('Point editor'), help())
  Object.assign(run, { type: 'button', hidden: true })
  run.dataset.command = 'run'
  addButton(buttons, foot, 'fit', t('Fit the picture to the view (F or double-click)'))
  return {
    root,
    bar,
    buttons,
    tabs,
    stage,
    canvas,
    keys,
    note,
    hint,
    warning,
    news,
    left: add(status, 'span', ''),
    lack: add(status, 'span', 'p3s-lack'),
    right: add(status, 'span', ''),
    live
  }
}

function buildButtons(bar) {
  const buttons = {}
  const group = (className = '') => add(bar, 'div', `p3s-group ${className}`)
  const button = (...args) => addButton(buttons, ...args)
  const signs = group('p3s-signs')
  button(signs, 'positive', t('Clicks mark the subject (+)'), t('Keep'))
  const leaveOut = t('Clicks mark what to leave out (−). A right-click places a point of the opposite sign')
  button(signs, 'negative', leaveOut, t('Leave out'))
  button(signs, 'boxes', t('A drag draws a box, for other nodes (B)'))
  const edit = group()
  button(edit, 'undo', t('Undo (Ctrl+Z)'))
  button(edit, 'redo', t('Redo (Ctrl+Shift+Z)'))
  button(edit, 'remove', t('Remove the selected point (Delete)'))
  const look = group()
  button(look, 'masks', t('Show what the points select: masks, similarity, nothing (M)'))
  button(look, 'grid', t('Show the patches that CLIP sees (G)'))
  const clear = group()
  button(clear, 'clearPositive', t('Remove all + points'))
  button(clear, 'clearNegative', t('Remove all − points'))
  return buttons
}

/** The subjects: a button each, and what adds and removes them. */
function buildTabs(buttons, foot) {
  const tabs = add(foot, 'div', 'p3s-tabs')
  tabs.setAttribute('role', 'group')
  tabs.setAttribute('aria-label', t('Subjects'))
  const all = Array.from({ length: MAX_SUBJECTS }, (_, index) => {
    const label = t('Subject {number} ({number})', { number: index + 1 })
    return addButton(buttons, tabs, `subject${index + 1}`, label, String(index + 1))
  })
  addButton(buttons, tabs, 'addSubject', t('Add a subject, with points and an output of its own'), '+')
  addButton(buttons, tabs, 'removeSubject', t('Remove this subject (Shift+Delete)'))
  return all
}

function addButton(buttons, parent, name, label, text = '') {
  const element = add(parent, 'button', `p3s-${name}`)
  element.type = 'button'
  element.dataset.command = name
  element.title = label
  element.setAttribute('aria-label', label)
  element.innerHTML = ICONS[name] ?? ''
  if (text) add(element, 'span', '', text)
  buttons[name] = element
  return element
}
