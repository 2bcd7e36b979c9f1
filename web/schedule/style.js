// The curve's own look, kept beside it; the colours follow ComfyUI's theme.

export const CSS = `
.p3s-curve { display: flex; flex-direction: column; gap: 4px; box-sizing: border-box; width: 100%; height: 100%;
  min-height: 130px; font: 12px/1.3 system-ui, sans-serif; color: var(--input-text, #ddd); user-select: none;
  -webkit-user-select: none; }
.p3s-curve *, .p3s-curve *::before { box-sizing: border-box; }
.p3s-plot { position: relative; flex: 1 1 0; min-height: 100px; overflow: hidden; border-radius: 6px;
  background: #16181c; }
.p3s-plot::after { content: ''; position: absolute; inset: 0; border: 1px solid var(--border-color, #444);
  border-radius: inherit; pointer-events: none; }
.p3s-plot:focus-within::after { border: 2px solid #6aa8ff; }
.p3s-plot canvas { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none; cursor: crosshair; }
.p3s-plot-hint { position: absolute; left: 34px; right: 12px; top: 50%; transform: translateY(-50%); color: #aab;
  text-align: center; pointer-events: none; }
.p3s-curve .p3s-keys { position: absolute; left: 0; top: 0; width: 1px; height: 1px; padding: 0; border: 0; opacity: 0;
  resize: none; pointer-events: none; }
.p3s-curve-row { display: flex; gap: 8px; align-items: center; color: var(--descrip-text, #999); font-size: 11px;
  font-variant-numeric: tabular-nums; }
.p3s-curve-row input { width: 52px; height: 20px; margin: 0 0 0 5px; padding: 0 2px 0 5px; border-radius: 4px;
  border: 1px solid var(--border-color, #444); background: var(--comfy-input-bg, #222); color: inherit; font: inherit; }
.p3s-curve-status { flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.p3s-unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
`
