"""The widgets speak the language that is set in ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage


@pytest.fixture(params=["zh", "ja"])
def foreign_page(chromium, server, renderer, pictures, request) -> Iterator[tuple[EditorPage, str]]:
    server.client.post("/settings/Comfy.Locale", request.param)
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = EditorPage(context, server, renderer, pictures)
    try:
        page.open()
        yield page, request.param
    finally:
        server.client.post("/settings/Comfy.Locale", "en")
        context.close()


def test_texts_of_picker_and_curve(foreign_page: tuple[EditorPage, str]) -> None:
    page, language = foreign_page
    hint = {"zh": "点击主体。右键点击要排除的物体。", "ja": "被写体をクリック。除くものは右クリック。"}[language]
    keep = {"zh": "保留", "ja": "残す"}[language]
    page.fresh()
    page.page.wait_for_function("(hint) => document.querySelector('.p3s-hint').textContent === hint", arg=hint)
    assert page.button("positive").text_content() == keep
    page.load(EMPTY_GRAPH)
    page.add("P3S_WeightSchedule", (420, 130))
    start = {"zh": "第一步权重 0.70", "ja": "最初のステップの重み 0.70"}[language]
    page.page.wait_for_function(
        "(start) => document.querySelector('.p3s-curve-status')?.textContent.startsWith(start)", arg=start
    )
    assert page.errors == []


def test_another_language_needs_no_reload(editor_page: EditorPage, server) -> None:
    """ComfyUI opens the workflow again in the other language; the widgets come along."""
    page = editor_page.page
    editor_page.click(0.5, 0.5)
    value = editor_page.value
    page.evaluate("() => { window.same = true }")
    try:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'zh')")
        page.wait_for_function(
            "() => document.querySelector('.p3s-picker [data-command=positive]')?.textContent === '保留'",
            timeout=30_000,
        )
        assert page.evaluate("() => window.same"), "the page was not loaded again"
        editor_page.becomes(lambda: editor_page.value, value)
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")
        page.wait_for_function(
            "() => document.querySelector('.p3s-picker [data-command=positive]')?.textContent === 'Keep'",
            timeout=30_000,
        )
        editor_page.errors.clear()
