// Ties a PickerView to a node: its value, its picture, its life. Everything ends with the node.

import { asOneStep, chain, hideOutputImages, passWheel } from '../common/host.js'
import { enterPlace, leavePlace, takePlace } from '../common/place.js'
import { t } from '../common/texts.js'
import { shapeChanged } from './geometry.js'
import { keepRunPicture, runPicture } from './runs.js'
import { findMaskSettings } from './settings.js'
import { annotated, findPicture, viewRoute } from './sources.js'
import { PickerView } from './view.js'

const IMAGE_INPUT = 'image'
const LINK_INPUT = 'linked_image'
const POINTS_OUTPUT = 'points'
const UI_KEY = 'p3s_image' // what the node sends after a run with a linked picture
const SIZE_KEY = 'p3s_size' // the size of the picture that the points were last placed on
const MASK_ROUTE = '/p3s/masks'
const RUN_ENDS = ['execution_success', 'execution_error', 'execution_interrupted']
const WATCH = 400 // milliseconds; changes of upstream nodes raise no event here
const MIN_SIZE = [380, 520]

const TEXTS = {
  none: () => t('Choose, drop or paste a picture.'),
  loading: () => t('Loading the picture…'),
  linked: () => t('The linked picture shows here after a run.'),
  failed: () => t('The picture cannot be loaded. Is the file still there?')
}

export function bindPicker(node, inputName, { app, api }) {
  const source = Math.random().toString(36) // the server answers the newest request of each editor
  const view = new PickerView({
    change: (text) => changed(text),
    passWheel: (event) => passWheel(event, app),
    dragOver: (event) => node.onDragOver?.(event),
    drop: (event) => node.onDragDrop?.(event),
    pasteFiles: (files) => pasteFiles(node, files),
    askMasks: (request) => askMasks(api, { ...request, source })
  })
  let last = view.value
  let executed = null // the file of the linked picture, as of the last run
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
    socketless: true, // clicked, not wired; and no frontend shows a custom editor outside a subgraph
    hideInPanel: true, // there is one element; in the side panel it would be missing in the node
    onDraw: () => view.refresh()
  })

  function changed(text) {
    asOneStep(app, () => {
      if (view.picture) node.properties[SIZE_KEY] = [view.picture.width, view.picture.height]
      // What a run has shown may be newer than what the graph's undo has left here; saved with this change, not alone,
      // because a change of its own would end the graph's redo.
      if (executed) node.properties[UI_KEY] = executed
      view.warn('')
      widget.callback?.(text)
      node.onWidgetChanged?.(inputName, text, last, widget)
      last = text
    })
  }

  async function update() {
    takePlace(node, view.element, app)
    view.refresh()
    const rootGraph = app.rootGraph ?? app.graph
    const picture = findPicture(node, IMAGE_INPUT, LINK_INPUT, rootGraph)
    const linked = picture.kind === 'linked'
    executed = linked ? (runPicture(node, LINK_INPUT, app) ?? node.properties[UI_KEY] ?? null) : null
    const file = picture.file ?? executed
    const settings = findMaskSettings(node, POINTS_OUTPUT, rootGraph)
    view.setMaskSource(file ? { image: annotated(file), settings } : null)
    const now = JSON.stringify([picture.kind, file])
    if (now === shown) return
    shown = now
    if (!file) {
      view.showNothing(TEXTS[picture.kind]())
      return warnOfShape()
    }
    const url = api.apiURL(`${viewRoute(file)}&rand=${Math.random()}`) // a file of the same name may be new
    const many = file.batch > 1 ? t('First of {count} pictures.', { count: file.batch }) : ''
    view.showNothing(TEXTS.loading())
    await view.showPicture(url, {
      size: file.width ? { width: file.width, height: file.height } : null,
      emptyText: executed ? TEXTS.linked() : TEXTS.failed(),
      notice: executed ? many || t('Picture of the last run.') : ''
    })
    warnOfShape()
  }

  function warnOfShape() {
    const [width, height] = node.properties[SIZE_KEY] ?? []
    const now = view.picture
    if (!now || !width || !view.pointCount || !shapeChanged({ width, height }, now)) return view.warn('')
    const sizes = { before: `${width} × ${height}`, now: `${now.width} × ${now.height}` }
    view.warn(t('The shape of the picture changed from {before} to {now}: check the points.', sizes))
  }

  const onRunEnd = () => view.refreshMasks()

  function start() {
    if (timer) return
    node.properties ??= {}
    enterPlace(view.element)
    view.attach()
    for (const name of RUN_ENDS) api.addEventListener(name, onRunEnd)
    timer = setInterval(update, WATCH)
    update()
  }

  function stop() {
    clearInterval(timer)
    timer = 0
    shown = null
    for (const name of RUN_ENDS) api.removeEventListener(name, onRunEnd)
    view.detach()
    leavePlace(node, view.element)
  }

  chain(node, 'onAdded', start)
  chain(node, 'onRemoved', stop)
  chain(node, 'onConfigure', () => timer && update())
  chain(node, 'onExecuted', (output) => {
    const file = output?.[UI_KEY]?.[0]
    const picture = findPicture(node, IMAGE_INPUT, LINK_INPUT, app.rootGraph ?? app.graph)
    // The file's name is made from its content, so this changes the workflow only if the picture did.
    if (file && picture.kind === 'linked') {
      node.properties[UI_KEY] = file
      keepRunPicture(node, LINK_INPUT, app, file)
    }
    if (!view.picture) shown = null // the run may have written a file again that was gone
    update()
  })
  hideOutputImages(node)
  return widget
}

/** Room for a picture, for new nodes; a saved workflow's size comes later and wins. */
export function growPicker(node) {
  node.setSize([Math.max(node.size[0], MIN_SIZE[0]), Math.max(node.size[1], MIN_SIZE[1])])
}

/** What the points select, see nodes/host/mask_route.py. Throws an Error for the user. */
async function askMasks(api, request) {
  const response = await api.fetchApi(MASK_ROUTE, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(request)
  })
  const answer = await response.json().catch(() => ({}))
  if (!response.ok) throw new Error(answer.error ?? t('the server answered {status}.', { status: response.status }))
  return answer
}

function pasteFiles(node, files) {
  if (node.pasteFiles) node.pasteFiles(files)
  else if (node.pasteFile) node.pasteFile(files[0])
  else return false
  return true
}
