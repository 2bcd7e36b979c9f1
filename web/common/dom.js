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

const MAX_BACKING = 4096 // pixels of a canvas's store, however far the graph is zoomed in

/** The size [width, height] that a canvas's store needs to be as sharp as the screen, whatever scales the canvas. */
export function backingSize(canvas) {
  const { width, height } = canvas.getBoundingClientRect()
  const scale = Math.min(window.devicePixelRatio || 1, MAX_BACKING / Math.max(width, height, 1))
  return [Math.round(width * scale), Math.round(height * scale)]
}

/** Give the canvas a store of that size; returns its context, which measures in the stage's CSS pixels, or null. */
export function stageContext(canvas, stage) {
  const [width, height] = backingSize(canvas)
  if (!width || !height || !stage.width || !stage.height) return null
  if (canvas.width !== width) canvas.width = width
  if (canvas.height !== height) canvas.height = height
  const context = canvas.getContext('2d')
  context.setTransform(width / stage.width, 0, 0, height / stage.height, 0, 0)
  return context
}
