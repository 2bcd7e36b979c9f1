"""The inputs of the nodes that hold settings are as the settings' classes describe them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from host.inside import Inside
from host.schemas import inputs_of, read_schemas

from p3s.network.copy_settings import CopySettings
from p3s.reference.masks import MaskSettings
from p3s.sampling.application import EFFECT_MASK, MODE, Application
from p3s.sampling.layer_strengths import IN_A_ROW, LAYER_STRENGTHS
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import SamplingSettings
from p3s.settings import Setting, settings_of
from p3s.ssr.attend import AppliedSSR
from p3s.ssr.embeds import WEIGHT
from p3s.ssr.query import QuerySettings
from p3s.subject.file import REFERENCE_INDEX
from p3s.subject.info import IDENTIFIER, LICENCE
from p3s.training.settings import RESOLUTION, TrainSettings

TRAIN, SCHEDULE, SSR = settings_of(TrainSettings), settings_of(Schedule), settings_of(AppliedSSR)
#: node -> its inputs that are settings. The command line alone has the first two names left out here.
NODES: dict[str, dict[str, Setting]] = {
    "P3S_Train": {
        **{name: known for name, known in TRAIN.items() if name not in ("weight_decay", "weight_learning_rate")},
        **settings_of(CopySettings),
        "identifier": IDENTIFIER,
        "licence": LICENCE,
        "resolution": RESOLUTION,
    },
    "P3S_RNGRMask": settings_of(MaskSettings),
    "P3S_WeightSchedule": {name: known for name, known in SCHEDULE.items() if name not in ("start", "end")},
    "P3S_Apply": {
        "strength": settings_of(Application)["strength"],
        "start_percent": SCHEDULE["start"],
        "end_percent": SCHEDULE["end"],
        "guidance": settings_of(SamplingSettings)["branches"],
        "reference_index": REFERENCE_INDEX,
        "mask": EFFECT_MASK,
        "mode": MODE,
        "layer_strengths": replace(LAYER_STRENGTHS, help=f"{LAYER_STRENGTHS.help} {IN_A_ROW}"),
    },
    "P3S_SSREncode": {**settings_of(QuerySettings), "weight": WEIGHT},
    "P3S_ApplySSR": {
        "strength": SSR["strength"],
        "start_percent": SSR["start"],
        "end_percent": SSR["end"],
        "guidance": SSR["guidance"],
        "mask": EFFECT_MASK,
        "layer_strengths": LAYER_STRENGTHS,
    },
}
TYPES = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}


@pytest.fixture(scope="module")
def schemas(inside: Inside) -> dict[str, Any]:
    return read_schemas(inside)


@pytest.mark.parametrize(("node", "name"), [(node, name) for node, known in NODES.items() for name in known])
def test_an_input_is_as_its_setting_says(schemas: dict[str, Any], node: str, name: str) -> None:
    known = NODES[node][name]
    kind, options = next((kind, options) for found, _, kind, options in inputs_of(schemas[node]) if found == name)
    assert options["tooltip"] == known.help
    if name == "mask":
        return
    choices = kind if isinstance(kind, list) else options.get("options")
    assert tuple(choices or ()) == known.choices
    assert choices or kind == TYPES.get(type(known.default), "STRING")
    if isinstance(known.default, (str, int, float)):
        assert options["default"] == known.default
    if kind in ("INT", "FLOAT"):
        assert (options["min"], options["max"], options.get("step")) == (known.low, known.high, known.step)
