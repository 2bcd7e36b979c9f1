// The widget: shows a picture, points, masks and texts as the Editor has them; PickerInput takes what the user does. It
// knows nothing of ComfyUI, and works from attach() to detach().

import { CachedLayer } from '../common/cached_layer.js'
import { FrameLoop } from '../common/frame_loop.js'
import { stageContext } from '../common/stage.js'
import { drawStage } from './draw_stage.js'
import { Editor } from './editor.js'
import { buildElements } from './elements.js'
import { loadImage, pixelsOf } from './image.js'
import { PickerInput } from './input.js'
import { MaskClient } from './mask_client.js'
import { MaskOverlay } from './mask_overlay.js'
import { HASHED_SIDE, perceptualHash } from './perceptual_hash.js'
import { toJson } from './points.js'
import { describeMasks, showBar, showTexts } from './status.js'
import { count, pointsOf } from './subjects.js'

export class PickerView {
  #editor
  #elements = buildElements()
  #input
  #frames
  #image = null // of loadImage
  #loads = 0 // pictures asked for so far; only the last one is shown
  #emptyText = ''
  #notice = ''
  #warning = ''
  #message = ''
  #pictureLayer = new CachedLayer()
  #maskOverlay = new MaskOverlay()
  #maskClient
  #maskSource = null // {picture, origin, settings}: what the server calls the picture, by which model and how its points will be read
  #maskNode = { isWired: false, isRunning: false, isGiven: false, output: '' } // the RNGR Mask that reads the subject's output
  #announced = '' // what was last said about the masks

  /**
   * hooks: {change(text), select(), leave(), passWheel(event), dragOver(event), drop(event), pasteFiles(files),
   * choosePicture(), askMasks(request), runMasks(), subject()}, all optional; askMasks as MaskClient takes it,
   * subject() when another one is shown.
   */
  constructor(hooks = {}) {
    const { stage, canvas } = this.#elements
    this.#editor = new Editor({
      render: () => this.#frames.request(),
      change: (text) => hooks.change?.(text),
      say: (message) => this.#say(message),
      subject: () => hooks.subject?.()
    })
    const press = () => {
      this.#message = ''
    }
    this.#input = new PickerInput(this.#elements, this.#editor, { ...hooks, press })
    this.#maskClient = new MaskClient(hooks.askMasks, () => this.#frames.request())
    this.#frames = new FrameLoop(stage, canvas, {
      resize: (width, height) => this.#editor.setStage(width, height),
      draw: () => this.#draw()
    })
  }

  get element() {
    return this.#elements.root
  }

  get value() {
    return this.#editor.value
  }

  set value(text) {
    this.#editor.value = text
  }

  get pointCount() {
    return count(this.#editor.subjects)
  }

  /** The subject that is shown, counted from 0. */
  get subject() {
    return this.#editor.active
  }

  set subject(index) {
    this.#editor.showSubject(index)
  }

  /** Points from outside, as State.setSeed takes them. */
  setSeed(text) {
    this.#editor.setSeed(text)
  }

  /** The shown picture's true size {width, height}, or null. */
  get picture() {
    return this.#editor.picture
  }

  /** Of the shown picture, for looksDifferent; null if there is none. */
  get pictureHash() {
    return this.#image && (this.#image.hash ??= perceptualHash(pixelsOf(this.#image, HASHED_SIDE)))
  }

  attach() {
    this.#input.attach()
    this.#frames.start()
  }

  detach() {
    this.#input.detach()
    this.#frames.stop()
    this.#maskClient.want(null)
  }

  /** Call it when the graph's zoom may have changed. */
  refresh() {
    this.#frames.measure()
  }

  // --- what is shown -----------------------------------------------------------------------------------------------

  /**
   * Show the picture at a URL. `size` is its true size if the file is a reduced preview. Resolves to whether it loaded.
   * While it loads, and if it fails, `emptyText` is shown on the empty stage.
   */
  async showPicture(url, { size = null, emptyText = '', notice = '' } = {}) {
    const load = ++this.#loads
    const image = await loadImage(url).catch(() => null)
    if (load !== this.#loads) return false
    if (image === null) {
      this.showNothing(emptyText)
      return false
    }
    this.#image = image
    this.#notice = notice
    this.#emptyText = ''
    this.#input.canChoose = false
    this.#editor.setPicture(size ?? { width: image.full.naturalWidth, height: image.full.naturalHeight })
    return true
  }

  /** An empty stage with a text; `canChoose`: a click there asks for a picture. */
  showNothing(emptyText, canChoose = false) {
    this.#loads++
    this.#image = null
    this.#notice = ''
    this.#emptyText = emptyText
    this.#input.canChoose = canChoose
    this.#editor.setPicture(null)
  }

  /** A warning above the status; '' takes it away. */
  warn(text) {
    this.#warning = text
    this.#frames.request()
  }

  /**
   * What to ask for the masks: {picture, origin, settings}, or null where they cannot be known; `isWired`: RNGR Mask is there, at
   * the output of that name; `isGiven`: with a mask connected to it.
   */
  setMaskSource(source, { isWired = false, isGiven = false, output = '' } = {}) {
    const { isRunning } = this.#maskNode
    const maskNode = { isWired, isRunning, isGiven, output }
    if (JSON.stringify([source, maskNode]) === JSON.stringify([this.#maskSource, this.#maskNode])) return
    this.#maskSource = source
    Object.assign(this.#maskNode, maskNode)
    this.#frames.request()
  }

  /** Whether a run of RNGR Mask was asked for here and has not ended. */
  setRunning(isRunning) {
    this.#maskNode.isRunning = isRunning
    this.#frames.request()
  }

  /** After a run the server may know more. */
  refreshMasks() {
    this.#maskClient.refresh()
  }

  #wantMasks() {
    const { overlay, gestures, grid } = this.#editor
    const points = pointsOf(this.#editor.subjects, this.#editor.active)
    const client = this.#maskClient
    const isShown = overlay !== 'none' && points.positive.length
    const isWanted = (isShown || grid) && this.#image && this.#maskSource // the answer also tells the grid
    client.want(isWanted ? { ...this.#maskSource, points: toJson(points) } : null)
    if (!isShown) this.#announced = ''
    if (!isShown || !isWanted || gestures.isBusy || !client.isSettled) return
    const text = describeMasks(client, this.#maskNode)
    if (text === this.#announced) return
    this.#announced = text
    this.#say(text)
    if (!client.masks) this.#message = '' // it is shown in the picture
  }

  // --- drawing -----------------------------------------------------------------------------------------------------

  #draw() {
    const editor = this.#editor
    const { canvas } = this.#elements
    this.#wantMasks()
    const context = stageContext(canvas, editor.stage)
    if (context) {
      drawStage(context, {
        editor,
        image: this.#image,
        rect: this.#image && editor.rect,
        pixelRatio: canvas.width / editor.stage.width,
        pictureLayer: this.#pictureLayer,
        patchCount: this.#maskClient.grid,
        overlay: (context, scene) => this.#maskOverlay.draw(context, scene, this.#maskClient.masks)
      })
    }
    showBar(this.#elements, editor)
    showTexts(this.#elements, editor, {
      hasPicture: this.#image !== null,
      emptyText: this.#emptyText,
      warning: this.#warning,
      message: this.#message || this.#notice,
      maskClient: this.#maskClient,
      maskNode: this.#maskNode
    })
    this.#input.showCursor()
  }

  /** In the status line, and to screen readers. */
  #say(message) {
    this.#message = message
    this.#elements.live.textContent = message
    this.#frames.request()
  }
}
