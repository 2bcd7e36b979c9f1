// Ties a PickerView to a Point Picker node: its value, its picture, its masks.

import { asOneStep, chain, RUN_ENDED, runNode } from '../common/comfyui.js'
import { hideWhile } from '../common/advanced_inputs.js'
import { executionId, widgetValue } from '../common/graph.js'
import { addViewWidget, bindView, graphHooks } from '../common/node_binding.js'
import { t } from '../common/translate.js'
import { findPicture, outputPicture, pictureRoute } from './find_picture.js'
import { shapeChanged } from './geometry.js'
import { linkedValue, rememberLinked } from './linked_values.js'
import { findMaskNode, hasGivenMask, maskSettings } from './mask_node.js'
import { visionOrigin } from './origin.js'
import { looksDifferent } from './perceptual_hash.js'
import { pointsIn, rememberPointsIn, savePointsIn } from './points_in.js'
import { askMasks, fetchPicture } from './server.js'
import { PickerView } from './view.js'

const IMAGE_INPUT = 'image'
const LINK_INPUT = 'linked_image'
const FRAME_INPUT = 'frame'
const UPLOAD = 'upload' // the host's button, which opens the file chooser
const POINTS_OUTPUTS = ['points', 'points_2', 'points_3', 'points_4'] // of the subjects
const UI_KEY = 'p3s_image' // what the node sends after a run with a linked picture
const POINTS_UI_KEY = 'p3s_points' // and with linked points
const SUBJECT_KEY = 'p3s_subject' // the subject that was changed last
const SIZE_KEY = 'p3s_size' // the size of the picture that the points were last placed on
const HASH_KEY = 'p3s_sketch' // and its perceptual hash
const MIN_SIZE = [400, 620] // wide enough for one row of buttons

const TEXTS = {
  none: () => t('Choose, drop or paste a picture.'),
  loading: () => t('Loading the picture…'),
  linked: () => t('The linked picture appears here after a run.'),
  failed: () => t('The picture cannot be loaded. Does the file still exist?')
}

export function bindPicker(node, inputName, { app, api }) {
  const source = Math.random().toString(36) // the server answers the newest request of each editor
  const view = new PickerView({
    ...graphHooks(node, app),
    change: (text) => changed(text),
    dragOver: (event) => node.onDragOver?.(event),
    drop: (event) => node.onDragDrop?.(event),
    pasteFiles: (files) => pasteFiles(node, files),
    choosePicture: () => node.widgets.find((widget) => widget.name === UPLOAD)?.callback?.(),
    askMasks: (request) => askMasks(api, { ...request, source }),
    runMasks: () => runMasks(),
    subject: () => isBound && update()
  })
  let isBound = false
  let last = view.value
  let executed = null // the file of the linked picture, as of the last run
  let shown = null // what the view shows, as a text

  const rootGraph = () => app.rootGraph ?? app.graph
  const output = () => POINTS_OUTPUTS[view.subject]
  /** What an output is called on the node, in the user's language. */
  function labelOf(name) {
    const slot = node.outputs?.find((output) => output.name === name)
    return slot?.label ?? slot?.localized_name ?? name
  }
  const maskNode = () => findMaskNode(node, output(), rootGraph())

  const widget = addViewWidget(node, inputName, 'P3S_POINT_EDITOR', view, {
    getValue: () => view.value,
    setValue: (text) => {
      const before = view.value
      view.value = text
      last = view.value
      if (last !== before) view.subject = node.properties?.[SUBJECT_KEY] ?? 0
    },
    getMinHeight: () => 260,
    socketless: true // clicked, not wired; and no frontend shows a custom editor outside a subgraph
  })

  function changed(text) {
    asOneStep(app, () => {
      if (view.picture) {
        node.properties[SIZE_KEY] = [view.picture.width, view.picture.height]
        node.properties[HASH_KEY] = view.pictureHash
      }
      // What a run has shown may be newer than what the graph's undo has left here; saved with this change, not alone,
      // because a change of its own would end the graph's redo.
      if (executed) node.properties[UI_KEY] = executed
      savePointsIn(node, app)
      if (view.subject || SUBJECT_KEY in node.properties) node.properties[SUBJECT_KEY] = view.subject
      view.warn('')
      widget.callback?.(text)
      node.onWidgetChanged?.(inputName, text, last, widget)
      last = text
    })
  }

  async function update() {
    const found = findPicture(node, IMAGE_INPUT, LINK_INPUT, rootGraph())
    const linked = found.kind === 'linked'
    executed = linked ? (linkedValue(node, LINK_INPUT, app) ?? node.properties[UI_KEY] ?? null) : null
    const frame = widgetValue(node, FRAME_INPUT, rootGraph())
    if (executed && frame !== undefined && frame !== (executed.frame ?? 0)) executed = null // of another one
    view.setSeed(pointsIn(node, app))
    const picture = found.picture ?? (executed && outputPicture(executed))
    const masks = maskNode()
    const isGiven = hasGivenMask(masks, rootGraph())
    const source = picture && !isGiven ? { picture, origin: visionOrigin(masks, rootGraph()), settings: maskSettings(masks, rootGraph()) } : null
    view.setMaskSource(source, { isWired: masks !== null, isGiven, output: labelOf(output()) })
    const now = JSON.stringify([found.kind, picture])
    if (now === shown) return
    shown = now
    if (!picture) {
      view.showNothing(TEXTS[found.kind](), found.kind === 'none')
      return warn()
    }
    view.showNothing(TEXTS.loading())
    try {
      const { url, facts } = await fetchPicture(api, pictureRoute(picture))
      const size = sizeOf(executed ?? facts)
      if (now === shown) await view.showPicture(url, { size, emptyText: TEXTS.failed(), notice: noticeOf(facts) })
      URL.revokeObjectURL(url)
    } catch (error) {
      if (now === shown) view.showNothing(executed ? TEXTS.linked() : error.message || TEXTS.failed())
    }
    if (now === shown) warn()
  }

  const sizeOf = ({ width, height }) => (width ? { width, height } : null)

  function noticeOf({ transparent }) {
    const { batch: count, frame } = executed ?? {}
    if (count > 1) return frame ? t('Frame {frame} of {count}, counted from 0.', { frame, count }) : t('First of {count} pictures.', { count })
    if (executed) return t('Picture from the last run.')
    return transparent ? t('Transparent areas are shown as white.') : ''
  }

  /** Points that were placed on another picture may be wrong on this one. */
  function warn() {
    const [width, height] = node.properties[SIZE_KEY] ?? []
    const hash = node.properties[HASH_KEY]
    const now = view.picture
    if (!now || !view.pointCount) return view.warn('')
    if (width && shapeChanged({ width, height }, now)) {
      const sizes = { before: `${width} × ${height}`, now: `${now.width} × ${now.height}` }
      return view.warn(t('The shape of the picture changed from {before} to {now}: check the points.', sizes))
    }
    view.warn(hash && looksDifferent(hash, view.pictureHash) ? t('The points were placed on a different picture: check them.') : '')
  }

  async function runMasks() {
    const masks = maskNode()
    const id = masks && executionId(masks, rootGraph())
    view.setRunning(id !== null)
    if (id === null || !(await runNode(app, api, id))) onRunEnd()
  }

  function onRunEnd() {
    view.setRunning(false)
    view.refreshMasks()
  }

  bindView(node, view, app, {
    update,
    added() {
      isBound = true
      for (const name of RUN_ENDED) api.addEventListener(name, onRunEnd)
    },
    removed() {
      isBound = false
      shown = null
      for (const name of RUN_ENDED) api.removeEventListener(name, onRunEnd)
    },
    executed(output) {
      rememberPointsIn(node, app, output?.[POINTS_UI_KEY]?.[0])
      const file = output?.[UI_KEY]?.[0]
      // The file's name is made from its content, so this changes the workflow only if the picture did.
      if (file && findPicture(node, IMAGE_INPUT, LINK_INPUT, rootGraph()).kind === 'linked') {
        node.properties[UI_KEY] = file
        rememberLinked(node, LINK_INPUT, app, file)
      }
      if (!view.picture) shown = null // the run may have written a file again that was gone
    }
  })
  return widget
}

/** Once all inputs are there: room for a picture; a saved workflow's size comes later and wins. */
export function growPicker(node) {
  prepareFrame(node)
  node.setSize([Math.max(node.size[0], MIN_SIZE[0]), Math.max(node.size[1], MIN_SIZE[1])])
}

/** On the canvas it takes room only where a batch may come in; Nodes 2.0 folds it away by itself. */
function prepareFrame(node) {
  const frame = node.widgets?.find(({ name }) => name === FRAME_INPUT)
  if (!frame) return
  const isLinked = (name) => node.inputs.some((input) => input.name === name && input.link != null)
  hideWhile(frame, () => !isLinked(LINK_INPUT) && !isLinked(FRAME_INPUT) && !globalThis.LiteGraph?.vueNodesMode)
  // Values are saved by position. The upload button stands behind the frame in some frontends and before it in others,
  // and was saved as a text when there was no frame.
  chain(node, 'onConfigure', ({ widgets_values: saved }) => {
    const value = Array.isArray(saved) ? saved.slice(2).find(Number.isInteger) : frame.value
    frame.value = Number.isInteger(value) ? value : 0
  })
}

function pasteFiles(node, files) {
  if (node.pasteFiles) node.pasteFiles(files)
  else if (node.pasteFile) node.pasteFile(files[0])
  else return false
  return true
}
