// On the canvas, advanced inputs are hidden until a button on the node shows them, as in Nodes 2.0. The schema says
// which inputs are advanced. Whether they are shown is the node's own showAdvanced: workflows keep it, and the button of
// Nodes 2.0 sets it too. Order, values and slots stay as they are.

import { asOneStep, chain } from './comfyui.js'
import { t } from './translate.js'

const BUTTON = 'show_advanced'
const ALWAYS_SHOWN = 'Comfy.Node.AlwaysShowAdvancedWidgets' // a setting of newer frontends
const FAR = -1e6 // where slots of hidden widgets lie: a link dropped on what is seen must not meet them
const GAP = 4 // between two widgets; older frontends leave it around hidden ones too

export function foldAdvanced(node, app) {
  const advanced = (node.widgets ?? []).filter((widget) => widget.options?.advanced)
  if (!advanced.length) return
  const areAlwaysShown = () => app.extensionManager?.setting?.get(ALWAYS_SHOWN) === true
  const isLinked = (widget) => node.inputs.some((input) => input.widget?.name === widget.name && input.link != null)
  const height = () => node.computeSize()[1]

  /** The height follows what is shown; what a user has added to it stays. */
  function show(shown) {
    const before = height()
    node.showAdvanced = shown
    node.setSize([node.size[0], Math.max(node.size[1] - before, 0) + height()])
  }

  node.showAdvanced = false
  for (const widget of advanced) hideWhile(widget, () => !node.showAdvanced && !isLinked(widget) && !areAlwaysShown())

  function toggle() {
    button.clicked = false // otherwise it looks pressed until the canvas is drawn again
    asOneStep(app, () => show(!node.showAdvanced))
  }
  const button = node.addWidget('button', BUTTON, null, toggle, { serialize: false, canvasOnly: true })
  button.serialize = false
  Object.defineProperty(button, 'label', {
    get: () => (node.showAdvanced ? t('Hide advanced inputs') : t('Show advanced inputs')),
    set() {}
  })
  // Nodes 2.0 has a button of its own.
  hideWhile(button, () => Boolean(globalThis.LiteGraph?.vueNodesMode) || areAlwaysShown())

  node.setSize([node.size[0], height()])
  // In workflows saved before there was a button, nodes are as high as all their inputs without it.
  chain(node, 'onConfigure', (saved) => {
    if (saved.showAdvanced != null || globalThis.LiteGraph?.vueNodesMode) return
    node.showAdvanced = true
    if (node.size[1] < height() - rowHeight() - GAP) node.showAdvanced = false
    else show(false)
  })
}

const rowHeight = () => globalThis.LiteGraph?.NODE_WIDGET_HEIGHT ?? 20

/** Give a widget no place on the canvas while isHidden(). Copies of it, as on a subgraph's node, do not inherit that. */
export function hideWhile(widget, isHidden) {
  let y = widget.y
  Object.defineProperties(widget, {
    hidden: { get: isHidden, set() {}, enumerable: false, configurable: true },
    computeSize: { value: (width = 0) => (isHidden() ? [0, -GAP] : [width, rowHeight()]), enumerable: false },
    y: {
      get: () => (isHidden() ? FAR : y),
      set: (value) => {
        y = value
      },
      enumerable: false,
      configurable: true
    }
  })
}
