import assert from 'node:assert/strict'
import { test } from 'node:test'
import { hideOutputImages } from '../../web/common/comfyui.js'

test('the canvas sees no picture of the node, and what another extension draws is still drawn', () => {
  const drawn = []
  const node = {
    imgs: ['a picture'],
    onDrawBackground(context) {
      drawn.push(context)
      if (this.imgs?.length) drawn.push('the preview') // as the canvas does
    }
  }
  hideOutputImages(node)
  node.onDrawBackground('a context')
  assert.deepEqual(drawn, ['a context'])
  assert.deepEqual(node.imgs, ['a picture'], 'the menu still offers to open it')
  assert.equal(node.hideOutputImages, true)
})

test('pictures that come while it draws stay, also when another extension fails', () => {
  const node = {
    imgs: ['old'],
    onDrawBackground() {
      this.imgs = ['new']
      throw new Error('of another')
    }
  }
  hideOutputImages(node)
  assert.throws(() => node.onDrawBackground(), /of another/)
  assert.deepEqual(node.imgs, ['new'])
  const plain = {}
  hideOutputImages(plain)
  plain.onDrawBackground()
  assert.equal(plain.imgs, undefined)
})
