"""Run by test_origin.py inside a host: where the CLIP vision model of node 9 comes from, in each prompt."""

from __future__ import annotations

from typing import Any

from comfyui_p3s.nodes.host.origin import origin_of, origin_text


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    cases = arguments["cases"]
    found = [origin_of(case["prompt"], "9", "clip_vision") for case in cases]
    return {
        "found": found,
        "expected": [case["origin"] and origin_text(case["origin"]) for case in cases],
        "of no node of the prompt": origin_of(cases[0]["prompt"], "9.0.1", "clip_vision"),
    }
