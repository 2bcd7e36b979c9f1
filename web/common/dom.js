// Small helpers for the widgets' DOM.

export function add(parent, tag, className, text = '') {
  const element = document.createElement(tag)
  if (className) element.className = className
  element.textContent = text
  parent.append(element)
  return element
}

/**
 * Takes the keys of a drawing. A text field, though nothing is ever typed into it: ComfyUI leaves Ctrl+Z and single keys
 * to text fields, and to nothing else.
 */
export function addKeys(parent, label, description) {
  const keys = add(parent, 'textarea', 'p3s-keys')
  keys.inputMode = 'none' // no keyboard on the screen of a phone
  keys.autocomplete = 'off'
  keys.spellcheck = false
  keys.setAttribute('role', 'application')
  keys.setAttribute('aria-label', label)
  keys.setAttribute('aria-description', description)
  return keys
}

/** Adds listeners that go with a signal: listen(target, 'one two', handler). */
export function listener(signal) {
  return (target, names, handler, options) => {
    for (const name of names.split(' ')) target.addEventListener(name, handler, { signal, ...options })
  }
}

export function swallow(event) {
  event.preventDefault()
  event.stopPropagation()
}
