import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MaskClient } from '../../web/picker/mask_client.js'
import { describeMasks } from '../../web/picker/status.js'

const READY = {
  state: 'ready', size: [2, 2], subject: [0, 1, 3], removed: [2, 2], grid: 16, similarity: [[0, 1]], warnings: []
}

/** A client whose server answers when told to, and whose pauses end when told to. */
function makeClient() {
  const asked = []
  const pauses = []
  let changes = 0
  const ask = (request) => new Promise((resolve, reject) => asked.push({ request, resolve, reject }))
  const client = new MaskClient(ask, () => changes++, (call) => pauses.push(call))
  const answer = async (content) => {
    asked.at(-1).resolve({ ...READY, ...content })
    await new Promise(setImmediate)
  }
  const pause = () => pauses.splice(0).forEach((call) => call())
  return { client, asked, answer, pause, changes: () => changes }
}

const want = (points, image = 'a.png') => ({ picture: { node: 'LoadImage', image }, points, settings: {} })
const WIRED = { isWired: true, isRunning: false }

test('it asks once for what is wanted, and tells when the answer is there', async () => {
  const { client, asked, answer, pause, changes } = makeClient()
  client.want(want('1'))
  client.want(want('1'))
  assert.deepEqual(asked.map(({ request }) => request), [want('1')])
  assert.equal(client.isSettled, false)
  const before = changes()
  await answer({})
  assert.equal(client.isSettled, true)
  assert.equal(changes(), before + 1)
  assert.equal(client.masks.subjectShare, 0.25)
  assert.equal(client.masks.removedShare, 0.5)
  assert.equal(describeMasks(client, WIRED), 'Subject: 25 %. Removed: 50 %.')
  pause()
  client.want(want('1'))
  assert.equal(asked.length, 1)
})

test('one request at a time; of those in between only the newest is asked for', async () => {
  const { client, asked, answer, pause } = makeClient()
  for (const points of ['1', '2', '3', '4']) client.want(want(points))
  assert.equal(asked.length, 1)
  await answer({})
  assert.notEqual(client.masks, null, 'the older answer shows until the newest is there')
  assert.equal(client.isSettled, false)
  assert.equal(asked.length, 1, 'not before the pause')
  pause()
  assert.deepEqual(asked.map(({ request }) => request.points), ['1', '4'])
  await answer({ state: 'problem', message: 'no mask' })
  assert.equal(client.masks, null)
  assert.equal(describeMasks(client, WIRED), 'no mask')
})

test('masks of another picture never show', async () => {
  const { client, asked, answer, pause } = makeClient()
  client.want(want('1'))
  client.want(want('1', 'b.png'))
  await answer({})
  assert.equal(client.masks, null)
  pause()
  await answer({})
  assert.notEqual(client.masks, null)
  client.want(null)
  assert.equal(client.masks, null)
  assert.equal(client.isSettled, true)
  pause()
  assert.equal(asked.length, 2)
})

test('an unread picture is asked for again after a run, a failure is said and not repeated', async () => {
  const { client, asked, answer, pause } = makeClient()
  client.want(want('1'))
  await answer({ state: 'unread' })
  assert.equal(client.isUnread, true)
  assert.equal(describeMasks(client, WIRED), 'The masks appear here once RNGR Mask has run.')
  assert.equal(describeMasks(client, { isWired: true, isRunning: true }), 'RNGR Mask is running…')
  assert.match(describeMasks(client, { isWired: false, isRunning: false, output: 'points_2' }), /^Connect “points_2” to RNGR Mask/)
  assert.match(describeMasks(client, { ...WIRED, isGiven: true }), /^A mask is connected to RNGR Mask/)
  pause()
  assert.equal(asked.length, 1)
  client.refresh()
  assert.equal(asked.length, 2)
  asked.at(-1).reject(new Error('the server answered with status 500.'))
  await new Promise(setImmediate)
  assert.equal(client.message, 'The masks cannot be shown: the server answered with status 500.')
  assert.equal(client.isUnread, false)
  pause()
  assert.equal(asked.length, 2)
  client.want(want('2'))
  await answer({ warnings: ['one', 'two'] })
  assert.equal(client.message, 'one')
})

test('a superseded request is asked again if nothing newer is wanted', async () => {
  const { client, asked, answer, pause } = makeClient()
  client.want(want('1'))
  await answer({ state: 'superseded' })
  assert.equal(client.masks, null)
  pause()
  assert.equal(asked.length, 2)
})

test('the grid is the one that CLIP was last said to have', async () => {
  const { client, answer, pause } = makeClient()
  assert.equal(client.grid, 16)
  client.want(want('1'))
  await answer({ grid: 12 })
  assert.equal(client.grid, 12)
  pause()
  client.want(want('2'))
  await answer({ state: 'problem', message: 'one patch', grid: 7 })
  assert.equal(client.grid, 7)
  pause()
  client.want(want('3', 'b.png'))
  await answer({ state: 'unread', grid: undefined })
  assert.equal(client.grid, 7)
})
