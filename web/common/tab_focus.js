// Keys stay in a widget: what leaves it by Tab would hand Delete to whatever the graph has selected.

import { swallow } from './dom.js'

/** Move the focus on a Tab key to the next control within `root`, and from the last one to the first. */
export function tabAround(root, event) {
  const stops = [...root.querySelectorAll('button, input, textarea')].filter((stop) => !stop.disabled && !stop.hidden)
  const at = stops.indexOf(event.target) + (event.shiftKey ? -1 : 1)
  stops[(at + stops.length) % stops.length]?.focus({ preventScroll: true })
  swallow(event)
}

export const isTab = (event) => event.key === 'Tab' && !event.ctrlKey && !event.altKey && !event.metaKey
