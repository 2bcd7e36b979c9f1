"""What Train P3S says of a training on SDXL that looks like one of SD 1.5."""

from __future__ import annotations

import pytest

from p3s.network.copy_settings import CopySettings
from p3s.network.unet_config import SDXL, UNetConfig
from p3s.training.advice import advice

FULL, LORA = CopySettings(), CopySettings(kind="lora")
SIZE = "SDXL was trained at 1024 x 1024 pixels: set resolution to 1024 (now 512)"
KIND = "a full subject network of SDXL takes several times as much memory and disk space as kind lora"


@pytest.mark.parametrize(
    ("resolution", "settings", "expected"),
    [(512, FULL, f"{SIZE}; {KIND}"), (512, LORA, SIZE), (1024, FULL, KIND), (768, LORA, None), (1024, LORA, None)],
)
def test_on_sdxl(resolution: int, settings: CopySettings, expected: str | None) -> None:
    assert advice(UNetConfig.build(**SDXL), resolution, settings) == expected


def test_there_is_none_where_the_defaults_are_right() -> None:
    for context_dim, linear_projection in ((768, False), (1024, True)):
        config = UNetConfig.build(context_dim=context_dim, linear_projection=linear_projection)
        assert advice(config, 512, FULL) is None
