// The pack's only entry into ComfyUI's frontend: the editor of the Point Picker, the curve of the Weight Schedule, the
// files of Load P3S Subject, and the advanced inputs.

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { foldAdvanced } from './common/advanced_inputs.js'
import { RUN_ENDED } from './common/comfyui.js'
import { useLanguage } from './common/translate.js'
import { bindPicker, growPicker } from './picker/binding.js'
import { forgetLinked } from './picker/linked_values.js'
import { bindCurve } from './schedule/binding.js'
import { loadNodesOf, refreshFiles } from './subjects/file_list.js'

app.registerExtension({
  name: 'P3S.Widgets',
  async init() {
    api.addEventListener('graphCleared', forgetLinked)
    // A training or Save P3S Subject may have written a file; a training that is cancelled does as well.
    for (const ended of RUN_ENDED) {
      api.addEventListener(ended, () => refreshFiles(loadNodesOf(app.rootGraph ?? app.graph), api))
    }
    const all = await api.fetchApi('/i18n').then((response) => response.json(), () => ({}))
    useLanguage(all, app.extensionManager?.setting?.get('Comfy.Locale'))
    // Comes before ComfyUI opens the workflow again in that language, which makes new nodes.
    app.ui?.settings?.addEventListener?.('Comfy.Locale.change', ({ detail }) => useLanguage(all, detail.value))
  },
  getCustomWidgets() {
    return {
      P3S_POINT_EDITOR: (node, inputName) => ({ widget: bindPicker(node, inputName, { app, api }) })
    }
  },
  nodeCreated(node) {
    if (node.comfyClass === 'P3S_PointPicker') growPicker(node)
    if (node.comfyClass === 'P3S_WeightSchedule') bindCurve(node, { app })
    if (node.comfyClass === 'P3S_LoadSubject') refreshFiles([node], api) // whose answer comes after a workflow's values
    if (node.comfyClass?.startsWith('P3S_') && node.comfyClass !== 'P3S_PointPicker') foldAdvanced(node, app)
  }
})
