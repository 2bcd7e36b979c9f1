// The drawing area of an editor, "stage": an element with a canvas in it, measured in CSS pixels however the graph is
// zoomed.

/** A screen position in stage pixels, correct under any CSS transform of the stage's ancestors. */
export function toStage(clientX, clientY, rect, stage) {
  return {
    x: rect.width ? ((clientX - rect.left) / rect.width) * stage.width : 0,
    y: rect.height ? ((clientY - rect.top) / rect.height) * stage.height : 0
  }
}

const MAX_BACKING = 4096 // pixels a side of a canvas's backing store, however far the graph is zoomed in

/** The size [width, height] of the backing store that makes a canvas as sharp as the screen, whatever scales it. */
export function backingSize(canvas) {
  const { width, height } = canvas.getBoundingClientRect()
  const scale = Math.min(window.devicePixelRatio || 1, MAX_BACKING / Math.max(width, height, 1))
  return [Math.round(width * scale), Math.round(height * scale)]
}

/** Give the canvas a backing store of that size. Returns its context in the stage's CSS pixels; null without a size. */
export function stageContext(canvas, stage) {
  const [width, height] = backingSize(canvas)
  if (!width || !height || !stage.width || !stage.height) return null
  if (canvas.width !== width) canvas.width = width
  if (canvas.height !== height) canvas.height = height
  const context = canvas.getContext('2d')
  context.setTransform(width / stage.width, 0, 0, height / stage.height, 0, 0)
  return context
}
