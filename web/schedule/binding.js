// Ties a CurveView to a Weight Schedule node. The curve has no value of its own: it shows and sets the node's widgets.

import { asOneStep } from '../common/comfyui.js'
import { widgetValue } from '../common/graph.js'
import { addViewWidget, bindView, graphHooks } from '../common/node_binding.js'
import { FROM_A_RUN } from './curve.js'
import { CurveView } from './view.js'

const NAMES = ['kind', 'alpha', 'beta', 'k', 'value', 'keyframes']
const STEPS_KEY = 'p3s_steps' // the number of steps that are marked, kept with the workflow
const SIGMAS_INPUT = 'sigmas'
const TIMESTEPS_KEY = 'p3s_timesteps' // what the node sends after a run with linked sigmas, kept with the workflow
const MIN_HEIGHT = 170

export function bindCurve(node, { app }) {
  const view = new CurveView({
    ...graphHooks(node, app),
    change: (settings) => asOneStep(app, () => write(settings)),
    setSteps: (count) => {
      node.properties[STEPS_KEY] = count
    }
  })

  const curve = addViewWidget(node, 'curve', 'P3S_CURVE', view, {
    serialize: false, // not an input of the node
    getMinHeight: () => MIN_HEIGHT
  })
  curve.serialize = false // nor a value of the workflow

  const isLinked = (name) => node.inputs?.some((input) => input.name === name && input.link != null) ?? false
  const widgetOf = (name) => node.widgets.find((widget) => widget.name === name)

  function update() {
    view.setSteps(node.properties?.[STEPS_KEY] ?? 20)
    view.timesteps = isLinked(SIGMAS_INPUT) ? (node.properties?.[TIMESTEPS_KEY] ?? []) : null
    const settings = Object.fromEntries(NAMES.map((name) => [name, widgetValue(node, name, app.rootGraph ?? app.graph)]))
    const isUnknown = NAMES.some((name) => settings[name] === undefined)
    view.settings = isUnknown ? { ...settings, kind: FROM_A_RUN, keyframes: '' } : settings
    view.locked = NAMES.some(isLinked)
  }

  function write(settings) {
    for (const name of NAMES) {
      const widget = widgetOf(name)
      if (widget.value === settings[name]) continue
      const before = widget.value
      widget.value = settings[name]
      widget.callback?.(settings[name])
      node.onWidgetChanged?.(name, settings[name], before, widget)
    }
  }

  bindView(node, view, app, {
    update,
    executed(output) {
      if (output?.[TIMESTEPS_KEY]) node.properties[TIMESTEPS_KEY] = output[TIMESTEPS_KEY]
    }
  })
  // As high as ComfyUI makes it when it loads it: else its undo would find a change, and that would end the redo.
  const [width, height] = node.computeSize()
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)])
}
