import assert from 'node:assert/strict'
import { test } from 'node:test'
import { loadNodesOf, offerFiles, refreshFiles } from '../../web/subjects/file_list.js'

function loader(value, values = []) {
  const told = []
  const widget = { name: 'subject_file', value, options: { values }, callback: (chosen) => told.push(chosen) }
  return { comfyClass: 'P3S_LoadSubject', widgets: [{ name: 'other' }, widget], widget, told }
}

const named = (...files) => files.map((file) => ({ file, family: 'SDXL' }))
const server = (subjects, ok = true) => ({ fetchApi: async () => ({ ok, json: async () => subjects }) })

test('a node offers the files that there are and keeps its own', () => {
  for (const files of [['cat', 'dog'], ['dog'], ['cat', 'owl'], []]) {
    const node = loader('dog', ['dog'])
    offerFiles(node, named(...files))
    assert.deepEqual(node.widget.options.values, files)
    assert.equal(node.widget.value, 'dog')
    assert.deepEqual(node.told, [])
  }
})

test('a node whose file is missing takes the only one there is', () => {
  for (const value of ['gone', '', undefined]) {
    const node = loader(value)
    offerFiles(node, named('dog'))
    assert.equal(node.widget.value, 'dog')
    assert.deepEqual(node.told, ['dog'])
  }
})

test('loaders are found in subgraphs, too', () => {
  const [outer, inner] = [loader('a'), loader('b')]
  const graph = { nodes: [outer, { comfyClass: 'x', subgraph: { nodes: [{ comfyClass: 'y' }, inner] } }] }
  assert.deepEqual(loadNodesOf(graph), [outer, inner])
  assert.deepEqual(loadNodesOf({ _nodes: [inner] }), [inner])
  assert.deepEqual(loadNodesOf(undefined), [])
})

test('nothing is asked without a loader, and nothing changed without an answer', async () => {
  await refreshFiles([], { fetchApi: () => assert.fail() })
  const node = loader('gone', ['gone'])
  await refreshFiles([node], server(named('dog'), false))
  await refreshFiles([node], { fetchApi: () => Promise.reject(new Error('offline')) })
  assert.deepEqual([node.widget.value, node.widget.options.values], ['gone', ['gone']])
  await refreshFiles([node], server(named('dog')))
  assert.deepEqual([node.widget.value, node.widget.options.values], ['dog', ['dog']])
})

test('the list shows the family of each file, and keeps the names as they are', () => {
  const node = loader('dog', ['dog'])
  offerFiles(node, [{ file: 'dog', family: 'SD 1.x' }, { file: 'cat', family: 'SDXL' }, { file: 'lora', family: '' }])
  const { values, getOptionLabel } = node.widget.options
  assert.deepEqual(values, ['dog', 'cat', 'lora'])
  assert.deepEqual(values.map(getOptionLabel), ['dog (SD 1.x)', 'cat (SDXL)', 'lora'])
  assert.deepEqual([getOptionLabel('gone'), getOptionLabel(null)], ['gone', ''])
  assert.equal(node.widget.value, 'dog')
})
