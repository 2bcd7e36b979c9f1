import assert from 'node:assert/strict'
import { test } from 'node:test'
import { showTexts } from '../../web/picker/status.js'
import { makeEditor } from './make_editor.mjs'

/** What the status line shows: {left, lack, right} with their texts, and their tooltips. */
function shown(editor, maskNode, message = '') {
  const element = () => ({ textContent: '', title: '', hidden: false, classList: { toggle() {} } })
  const elements = Object.fromEntries(['hint', 'warning', 'news', 'note', 'left', 'lack', 'right'].map((name) => [name, element()]))
  elements.buttons = { run: element(), take: element() }
  const maskClient = { masks: null, message: '', isUnread: true }
  showTexts(elements, editor, { hasPicture: true, emptyText: '', warning: '', message, maskClient, maskNode })
  const { left, lack, right } = elements
  for (const { textContent, title } of [left, lack, right]) assert.equal(title, textContent, 'the tooltip has all of it')
  return { left: left.textContent, lack: lack.textContent, right: right.hidden ? '' : right.textContent }
}

const at = (output, isWired = false) => ({ output, isWired, isRunning: false, isGiven: false })

test('a further subject with points, whose output leads to no RNGR Mask, lacks one', () => {
  const { editor, click, key } = makeEditor()
  click(200, 200)
  assert.equal(shown(editor, at('points')).lack, '', 'the first one may be for other nodes')
  key('2')
  assert.equal(shown(editor, at('points_2')).lack, '', 'it has no points')
  click(100, 200)
  const { left, lack, right } = shown(editor, at('points_2'))
  assert.equal(lack, '“points_2” needs its own RNGR Mask.')
  assert.match(left, /^\+1 at /, 'beside what is said otherwise')
  assert.equal(right, '', 'in the place of the size')
  const wired = shown(editor, at('points_2', true))
  assert.deepEqual([wired.lack, wired.right !== ''], ['', true])
  key('1')
  assert.equal(shown(editor, at('points')).lack, '')
})
