// The widget's own look, kept beside it; the colours follow ComfyUI's theme.

const icon = (path) =>
  `<svg viewBox="0 0 16 16" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.6" ` +
  `stroke-linecap="round" stroke-linejoin="round">${path}</svg>`

const BIN = '<path d="M1.5 4h8M4 4V2.8h3V4M2.5 4l.5 9.2h5L8.5 4"/>'

export const ICONS = {
  positive: icon('<circle cx="8" cy="8" r="6.2"/><path d="M5 8h6M8 5v6"/>'),
  negative: icon('<rect x="2.2" y="2.2" width="11.6" height="11.6" rx="2"/><path d="M5 8h6"/>'),
  boxes: icon('<path d="M4 2.5h8M13.5 4v8M12 13.5H4M2.5 12V4"/><path d="M2.5 2.5h.01M13.5 2.5h.01M13.5 13.5h.01M2.5 13.5h.01" stroke-width="3"/>'),
  removeSubject: icon('<path d="M4.5 4.5l7 7M11.5 4.5l-7 7"/>'),
  undo: icon('<path d="M3 6.5h6.5a3.5 3.5 0 0 1 0 7H6M3 6.5l3-3M3 6.5l3 3"/>'),
  redo: icon('<path d="M13 6.5H6.5a3.5 3.5 0 0 0 0 7H10M13 6.5l-3-3M13 6.5l-3 3"/>'),
  remove: icon('<path d="M5.5 3.5H14v9H5.5L2 8zM7.8 6.2l3.6 3.6M11.4 6.2L7.8 9.8"/>'),
  masks: icon('<circle cx="8" cy="8" r="6.2"/><path d="M3.7 8.6l4.9-4.9M4.2 12.3l8.1-8.1M7.4 13.4l6-6"/>'),
  grid: icon('<path d="M2.5 2.5h11v11h-11zM6.2 2.5v11M9.8 2.5v11M2.5 6.2h11M2.5 9.8h11"/>'),
  fit: icon('<path d="M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10"/>'),
  clearPositive: icon(`${BIN}<path d="M11 9h4M13 7v4"/>`),
  clearNegative: icon(`${BIN}<path d="M11 9h4"/>`),
  clearBoxes: icon(`${BIN}<path d="M11.2 7.2h3.6v3.6h-3.6z"/>`)
}

export const CSS = `
.p3s-picker { container-type: inline-size; display: flex; flex-direction: column; gap: 4px; box-sizing: border-box;
  width: 100%; height: 100%; min-height: 220px; font: 12px/1.3 system-ui, sans-serif; color: var(--input-text, #ddd);
  user-select: none; -webkit-user-select: none; }
.p3s-picker *, .p3s-picker *::before { box-sizing: border-box; }
.p3s-bar { display: flex; flex-wrap: wrap; align-items: center; gap: 3px; }
.p3s-group { display: flex; gap: 1px; }
.p3s-group.p3s-signs { margin-right: auto; }
.p3s-picker button { display: flex; align-items: center; gap: 4px; height: 25px; min-width: 24px; margin: 0; padding: 0 4px;
  justify-content: center; white-space: nowrap;
  border: 1px solid transparent; border-radius: 6px; background: transparent; color: inherit; font: inherit;
  cursor: pointer; }
.p3s-picker button[hidden] { display: none; }
.p3s-foot { display: flex; align-items: center; gap: 8px; }
.p3s-tabs { display: flex; flex: none; gap: 1px; }
.p3s-picker .p3s-foot button { flex: none; height: 20px; padding: 0 3px; }
.p3s-picker .p3s-tabs button { border-color: var(--border-color, #444); }
.p3s-picker .p3s-tabs button svg { width: 11px; height: 11px; }
.p3s-picker .p3s-tabs button[aria-pressed="true"] { border-color: currentColor; font-weight: bold; }
.p3s-picker button[aria-pressed="true"].p3s-boxes { color: var(--p3s-boxes); }
.p3s-picker button svg { width: 15px; height: 15px; flex: none; }
.p3s-picker button:hover:not(:disabled) { background: var(--comfy-input-bg, #333); }
.p3s-picker button:disabled { opacity: 0.3; cursor: default; }
.p3s-picker button:focus-visible { outline: 2px solid #6aa8ff; outline-offset: -1px; }
.p3s-picker button[aria-pressed="true"] { background: var(--comfy-input-bg, #333); border-color: currentColor; }
.p3s-picker button[aria-pressed="true"].p3s-positive { color: var(--p3s-positive); }
.p3s-picker button[aria-pressed="true"].p3s-negative { color: var(--p3s-negative); }
.p3s-stage { position: relative; flex: 1 1 0; min-height: 140px; overflow: hidden; border-radius: 6px;
  background: #16181c; }
.p3s-stage::after { content: ''; position: absolute; inset: 0; border: 1px solid var(--border-color, #444);
  border-radius: inherit; pointer-events: none; }
.p3s-stage:focus-within::after { border: 2px solid #6aa8ff; }
.p3s-stage canvas { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none;
  cursor: crosshair; }
.p3s-stage canvas[data-cursor="grab"] { cursor: grab; }
.p3s-stage canvas[data-cursor="grabbing"] { cursor: grabbing; }
.p3s-stage canvas[data-cursor="move"] { cursor: move; }
.p3s-stage canvas[data-cursor="ew-resize"] { cursor: ew-resize; }
.p3s-stage canvas[data-cursor="ns-resize"] { cursor: ns-resize; }
.p3s-stage canvas[data-cursor="nwse-resize"] { cursor: nwse-resize; }
.p3s-stage canvas[data-cursor="nesw-resize"] { cursor: nesw-resize; }
.p3s-stage canvas[data-cursor="default"] { cursor: default; }
.p3s-stage canvas[data-cursor="pointer"] { cursor: pointer; }
.p3s-keys { position: absolute; left: 0; top: 0; width: 1px; height: 1px; padding: 0; border: 0; opacity: 0; resize: none;
  pointer-events: none; }
.p3s-note { position: absolute; left: 50%; bottom: 10px; transform: translateX(-50%); max-width: calc(100% - 16px);
  width: max-content; display: flex; flex-direction: column; align-items: center; gap: 5px; pointer-events: none; }
.p3s-note.p3s-alone { bottom: auto; top: 50%; transform: translate(-50%, -50%); }
.p3s-hint { padding: 3px 9px; border-radius: 10px; background: rgba(0, 0, 0, 0.72); color: #fff; text-align: center; }
.p3s-alone .p3s-hint { background: none; color: #aab; }
.p3s-hint:empty, .p3s-run[hidden], .p3s-news[hidden] { display: none; }
.p3s-picker button.p3s-run { padding: 0 12px; background: #2868c8; color: #fff; pointer-events: auto; }
.p3s-picker button.p3s-take { flex: none; padding: 0 10px; background: #2868c8; color: #fff; }
.p3s-picker button.p3s-run:hover, .p3s-picker button.p3s-take:hover:not(:disabled) { background: #3a7ce0; }
.p3s-status { display: flex; flex: 1; min-width: 0; gap: 8px; min-height: 16px; color: var(--descrip-text, #999); font-size: 11px;
  font-variant-numeric: tabular-nums; }
.p3s-status span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.p3s-status span:first-child { flex: 1; }
.p3s-picker .p3s-lack { color: var(--input-text, #ddd); }
.p3s-status .p3s-lack:empty { display: none; }
.p3s-warning { margin: 0; padding: 3px 8px; border-radius: 6px; background: #5c4208; color: #ffe7ae; font-size: 11px; }
.p3s-warning:empty { display: none; }
.p3s-news { display: flex; align-items: center; gap: 8px; padding: 2px 2px 2px 8px; border-radius: 6px;
  background: #1c3556; color: #d6e6ff; font-size: 11px; }
.p3s-news span { flex: 1; }
.p3s-unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@container (max-width: 340px) { .p3s-signs button span { display: none; } }
`
