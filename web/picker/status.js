// What surrounds the picture: the buttons' states, the hint, the warning and the status line.

import { t } from '../common/translate.js'
import * as geometry from './geometry.js'
import { count, get } from './points.js'
import { box } from './said.js'
import { MAX_SUBJECTS } from './subjects.js'

export function showBar({ buttons, tabs }, editor) {
  const press = (name, on) => buttons[name].setAttribute('aria-pressed', String(on))
  press('positive', !editor.isBoxing && editor.sign === 'positive')
  press('negative', !editor.isBoxing && editor.sign === 'negative')
  press('boxes', editor.isBoxing)
  press('masks', editor.overlay !== 'none')
  press('grid', editor.grid)
  buttons.undo.disabled = !editor.canUndo
  buttons.redo.disabled = !editor.canRedo
  buttons.remove.disabled = !editor.selection
  buttons.fit.hidden = !editor.isZoomed
  buttons.clearPositive.disabled = !editor.points.positive.length
  buttons.clearNegative.disabled = !editor.points.negative.length
  buttons.clearBoxes.hidden = !editor.points.boxes.length
  const { length } = editor.subjects
  tabs.forEach((tab, index) => {
    tab.hidden = index >= length
    tab.setAttribute('aria-pressed', String(index === editor.active))
  })
  buttons.addSubject.hidden = length >= MAX_SUBJECTS
  buttons.removeSubject.hidden = length < 2
}

/**
 * state: {hasPicture, emptyText, warning, message, maskClient, maskNode}; `emptyText` is shown where there is no
 * picture, `maskNode` is {isWired, isRunning, isGiven, output}, of the RNGR Mask that reads the subject's output.
 */
export function showTexts(elements, editor, { hasPicture, emptyText, warning, message, maskClient, maskNode }) {
  const write = (element, text) => {
    if (element.textContent !== text) element.textContent = text
  }
  const writeWhole = (element, text) => {
    write(element, text)
    if (element.title !== text) element.title = text // where there is no room for all of it
  }
  const hint = hasPicture ? pictureHint(editor, maskClient, maskNode) : emptyText
  write(elements.hint, hint)
  elements.note.classList.toggle('p3s-alone', !hasPicture)
  const { run } = elements.buttons
  run.hidden = !(hint && hasPicture && maskClient.isUnread && maskNode.isWired && !maskNode.isRunning)
  write(run, run.hidden ? '' : t('Run RNGR Mask'))
  elements.news.hidden = elements.buttons.take.hidden = !editor.hasOtherSeed
  write(elements.warning, editor.problem ? `${editor.problem} ${t('Click to start over.')}` : warning)

  const { picture } = editor
  const at = editor.hover ?? editor.selection
  const point = get(editor.points, at)
  const { positive, negative, boxes } = editor.points
  const counts = `+ ${positive.length}   − ${negative.length}${boxes.length ? `   □ ${boxes.length}` : ''}${editor.isSeedShown ? `   ${t('from points_in')}` : ''}`
  writeWhole(elements.left, point && picture ? describePoint(point, at, picture) : message || counts)
  writeWhole(elements.lack, describeLack(editor, maskNode))
  const zoom = editor.isZoomed ? `${Math.round(editor.view.zoom * 100)} % · ` : ''
  writeWhole(elements.right, picture ? `${zoom}${picture.width} × ${picture.height}` : '')
  elements.right.hidden = elements.lack.textContent !== '' // which is more important
}

/** What a further subject needs in order to act; '' for nothing. The first one's points may be meant for other nodes. */
function describeLack({ active, points }, { isWired, output }) {
  if (active === 0 || !points.positive.length || isWired || !output) return ''
  return t('“{output}” needs its own RNGR Mask.', { output })
}

/** One sentence on the masks, in shares of the picture, for the status and for screen readers. */
export function describeMasks({ masks, message, isUnread }, { isWired, isRunning, isGiven, output }) {
  if (isGiven) return t('A mask is connected to RNGR Mask: see the picture on that node.')
  if (isUnread && isRunning) return t('RNGR Mask is running…')
  if (isUnread && isWired) return t('The masks appear here once RNGR Mask has run.')
  if (isUnread) return t('Connect “{output}” to RNGR Mask: the masks appear here once it has run.', { output })
  if (!masks) return message
  const percent = (share) => `${Math.round(share * 100)} %`
  const shares = { subject: percent(masks.subjectShare), removed: percent(masks.removedShare) }
  return t('Subject: {subject}. Removed: {removed}.', shares)
}

function pictureHint(editor, maskClient, maskNode) {
  if (count(editor.points) || editor.gestures.isBusy) {
    if (editor.overlay === 'none') return ''
    return maskClient.masks ? maskClient.message : describeMasks(maskClient, maskNode)
  }
  if (editor.isSeedAwaited) return t('The points from points_in appear here after a run. Or click your own.')
  return t('Click the subject. Right-click what to leave out.')
}

function describePoint(point, { sign, index }, picture) {
  if (sign === 'boxes') return box(point, index, picture)
  const [x, y] = geometry.toPixel(point, picture)
  return t('{point} at {x}, {y}', { point: `${sign === 'positive' ? '+' : '−'}${index + 1}`, x, y })
}
