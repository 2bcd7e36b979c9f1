"""What may not be meant in a training on SDXL, because the defaults suit SD 1.5."""

from __future__ import annotations

from ..network.copy_settings import CopySettings
from ..network.unet_config import UNetConfig

#: Pixels along a side, of 1024 that SDXL was trained at, from which on nothing is said. By convention, not measured.
LEAST_OF_SDXL = 768


def advice(config: UNetConfig, resolution: int | None, copy_settings: CopySettings) -> str | None:
    """For a training on a base of ``config`` at about ``resolution`` squared pixels, where that is known; None where
    there is none to give."""
    if not config.label_dim:
        return None
    given = []
    if resolution is not None and resolution < LEAST_OF_SDXL:
        given.append(f"SDXL was trained at 1024 x 1024 pixels: set resolution to 1024 (now {resolution})")
    if copy_settings.kind == "full":
        given.append("a full subject network of SDXL takes several times as much memory and disk space as kind lora")
    return "; ".join(given) or None
