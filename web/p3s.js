// The pack's only entry into ComfyUI's frontend: the widget of the Point Picker node.

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { bindPicker, growPicker } from './picker/binding.js'

app.registerExtension({
  name: 'P3S.PointPicker',
  getCustomWidgets() {
    return {
      P3S_POINT_EDITOR: (node, inputName) => ({ widget: bindPicker(node, inputName, { app, api }) })
    }
  },
  nodeCreated(node) {
    if (node.comfyClass === 'P3S_PointPicker') growPicker(node)
  }
})
