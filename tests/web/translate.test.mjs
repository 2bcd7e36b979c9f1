import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { t, useLanguage } from '../../web/common/translate.js'

const REPO = new URL('../../', import.meta.url)

function sources(folder) {
  return readdirSync(new URL(folder, REPO), { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? sources(`${folder}${entry.name}/`) : entry.name.endsWith('.js') ? [`${folder}${entry.name}`] : []
  )
}

/** Every text that the code hands to t, and where it hands over something else than a literal. */
function collected() {
  const texts = new Set()
  const unread = []
  for (const file of sources('web/').filter((name) => !name.endsWith('common/translate.js'))) {
    const code = readFileSync(new URL(file, REPO), 'utf-8')
    for (const [call, literal] of code.matchAll(/\b(?:t|inWords)\(('(?:[^'\\]|\\.)*')?/g)) {
      if (!literal) unread.push(`${file}: ${call}`)
      else texts.add(literal.slice(1, -1).replaceAll("\\'", "'"))
    }
  }
  return { texts, unread }
}

const placeholders = (text) => [...text.matchAll(/\{\w+\}/g)].map(([name]) => name).sort()
const { texts, unread } = collected()
const languages = readdirSync(new URL('locales/', REPO)).filter((name) => name !== 'en')

test('all texts of the widgets are literals, so that they can be collected', () => {
  assert.deepEqual(unread, [])
  assert.ok(texts.size > 50, String(texts.size))
})

for (const language of languages) {
  const file = new URL(`locales/${language}/main.json`, REPO)
  const own = JSON.parse(readFileSync(file, 'utf-8')).P3S

  test(`${language} has every text of the widgets and no other`, () => {
    assert.deepEqual([...texts].filter((text) => !Object.hasOwn(own, text)), [])
    assert.deepEqual(Object.keys(own).filter((text) => !texts.has(text)), [])
  })

  test(`${language} keeps the places for values, and is written in its own script`, () => {
    for (const [english, text] of Object.entries(own)) {
      assert.deepEqual(placeholders(text), placeholders(english), english)
      assert.match(text, /[\u3040-\u30ff\u4e00-\u9fff]/, english)
    }
  })
}

test('values are filled in; what is no place of one stays', () => {
  assert.equal(t('{a} of {b}: {"x": ..} {c}', { a: 1, b: '{a}' }), '1 of {a}: {"x": ..} {c}')
})

test('a language, its variants, and English for the rest', () => {
  const all = { zh: { P3S: { Undone: '已撤销' } }, fr: { other: {} } }
  for (const [language, expected] of [['zh', '已撤销'], ['zh-TW', '已撤销'], ['fr', 'Undone'], [undefined, 'Undone']]) {
    useLanguage(all, language)
    assert.equal(t('Undone'), expected)
  }
  useLanguage(null, 'zh')
  assert.equal(t('toString'), 'toString')
})
