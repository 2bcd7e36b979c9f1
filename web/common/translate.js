// The widgets' texts in the user's language. The code holds them in English, which is also the key of each in
// locales/*/main.json. No DOM in here.

let translated = {}

/** all: {language: {P3S: {english: text}}}, as ComfyUI's server collects them. zh-TW takes zh where it has none. */
export function useLanguage(all, language) {
  const name = String(language ?? '')
  translated = all?.[name]?.P3S ?? all?.[name.split('-')[0]]?.P3S ?? {}
}

/** The text for the user; {name} in it becomes values.name. Call it with a literal only: the tests collect them. */
export function t(english, values = {}) {
  const text = Object.hasOwn(translated, english) ? translated[english] : english
  return text.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? String(values[name]) : whole))
}
