// Ties a PickerView to a node: its value, its picture, its life. Nothing of ComfyUI is replaced: the node's own
// callbacks are chained, and everything ends with the node.

import { shapeChanged } from './geometry.js'
import { findPicture, viewRoute } from './sources.js'
import { PickerView } from './view.js'

const IMAGE_INPUT = 'image'
const LINK_INPUT = 'linked_image'
const UI_KEY = 'p3s_image' // what the node sends after a run with a linked picture
const SIZE_KEY = 'p3s_size' // the size of the picture that the points were last placed on
const WATCH = 400 // milliseconds; changes of upstream nodes raise no event here
const MIN_SIZE = [380, 520]

const TEXTS = {
  none: 'Choose, drop or paste a picture.',
  loading: 'Loading the picture…',
  linked: 'The linked picture shows here after a run.',
  failed: 'The picture cannot be loaded. Is the file still there?'
}

export function bindPicker(node, inputName, { app, api }) {
  const view = new PickerView({
    change: (text) => changed(text),
    passWheel: (event) => passWheel(event, app),
    dragOver: (event) => node.onDragOver?.(event),
    drop: (event) => node.onDragDrop?.(event),
    pasteFiles: (files) => pasteFiles(node, files)
  })
  let last = view.value
  let shown = null // what the view shows, as a text
  let timer = 0

  const widget = node.addDOMWidget(inputName, 'P3S_POINT_EDITOR', view.element, {
    getValue: () => view.value,
    setValue: (text) => {
      view.value = text
      last = view.value
    },
    getMinHeight: () => 260,
    hideOnZoom: false,
    hideInPanel: true, // there is one element; in the side panel it would be missing in the node
    onDraw: () => view.refresh()
  })

  function changed(text) {
    // Between these two, ComfyUI's change tracker waits; after the second it takes one undo step.
    app.canvas?.emitBeforeChange?.()
    if (view.picture) node.properties[SIZE_KEY] = [view.picture.width, view.picture.height]
    view.warn('')
    widget.callback?.(text)
    node.onWidgetChanged?.(inputName, text, last, widget)
    last = text
    app.canvas?.emitAfterChange?.()
  }

  async function update() {
    view.refresh()
    const source = findPicture(node, IMAGE_INPUT, LINK_INPUT, app.rootGraph ?? app.graph)
    const executed = source.kind === 'linked' ? node.properties[UI_KEY] : null
    const file = source.file ?? executed
    const now = JSON.stringify([source.kind, file])
    if (now === shown) return
    shown = now
    if (!file) return view.showNothing(TEXTS[source.kind])
    const url = api.apiURL(`${viewRoute(file)}&rand=${Math.random()}`) // a file of the same name may be new
    const many = file.batch > 1 ? `First of ${file.batch} pictures.` : ''
    view.showNothing(TEXTS.loading)
    const ok = await view.showPicture(url, {
      size: file.width ? { width: file.width, height: file.height } : null,
      emptyText: executed ? TEXTS.linked : TEXTS.failed,
      notice: executed ? many || 'Picture of the last run.' : ''
    })
    if (ok) warnOfShape()
  }

  function warnOfShape() {
    const [width, height] = node.properties[SIZE_KEY] ?? []
    const differs = width && view.pointCount && shapeChanged({ width, height }, view.picture)
    const sizes = differs && `${width} × ${height} to ${view.picture.width} × ${view.picture.height}`
    view.warn(differs ? `The picture's shape changed from ${sizes}: check the points.` : '')
  }

  function start() {
    if (timer) return
    node.properties ??= {}
    view.attach()
    timer = setInterval(update, WATCH)
    update()
  }

  function stop() {
    clearInterval(timer)
    timer = 0
    shown = null
    view.detach()
  }

  chain(node, 'onAdded', start)
  chain(node, 'onRemoved', stop)
  chain(node, 'onConfigure', () => timer && update())
  chain(node, 'onExecuted', (output) => {
    const picture = output?.[UI_KEY]?.[0]
    const source = findPicture(node, IMAGE_INPUT, LINK_INPUT, app.rootGraph ?? app.graph)
    // The file's name is made from its content, so this changes the workflow only if the picture did.
    if (picture && source.kind === 'linked') node.properties[UI_KEY] = picture
    update()
  })
  // The picture is in the widget; the frontends would draw it a second time below.
  node.hideOutputImages = true
  node.onDrawBackground = () => {}
  return widget
}

/** Room for a picture, for new nodes; a saved workflow's size comes later and wins. */
export function growPicker(node) {
  node.setSize([Math.max(node.size[0], MIN_SIZE[0]), Math.max(node.size[1], MIN_SIZE[1])])
}

/** Call `after` when ComfyUI calls node[name]; whatever was there still runs first. */
function chain(node, name, after) {
  const before = node[name]
  node[name] = function (...args) {
    const result = before?.apply(this, args)
    after(...args)
    return result
  }
}

/** A wheel that is not for the picture is for the graph; in Nodes 2.0 it gets there by itself. */
function passWheel(event, app) {
  if (globalThis.LiteGraph?.vueNodesMode || !app.canvas?.processMouseWheel) return
  event.preventDefault()
  app.canvas.processMouseWheel(event)
}

function pasteFiles(node, files) {
  if (node.pasteFiles) node.pasteFiles(files)
  else if (node.pasteFile) node.pasteFile(files[0])
  else return false
  return true
}
