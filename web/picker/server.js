// What the picker asks of the pack's own routes, see nodes/host/picture_route.py and mask_route.py.

import { t } from '../common/translate.js'

const MASK_ROUTE = '/p3s/masks'
const FACTS = 'X-P3S-Picture'

/**
 * The picture behind a route: {url, facts: {width, height, transparent}}; the url is to be revoked. Throws an Error for
 * the user, with an empty message where the file, or the server, is not there.
 */
export async function fetchPicture(api, route) {
  const response = await api.fetchApi(route).catch(() => null)
  if (!response?.ok) throw new Error(!response || response.status === 404 ? '' : await reason(response))
  return { url: URL.createObjectURL(await response.blob()), facts: JSON.parse(response.headers.get(FACTS) ?? '{}') }
}

/** What the points select. Throws an Error for the user. */
export async function askMasks(api, request) {
  const response = await api.fetchApi(MASK_ROUTE, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(request)
  })
  if (!response.ok) throw new Error(await reason(response))
  return response.json()
}

async function reason(response) {
  const { error } = await response.json().catch(() => ({}))
  return error ?? t('the server answered with status {status}.', { status: response.status })
}
