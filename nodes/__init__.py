"""The pack's nodes. Add a node by adding its module and class to NODES."""

from __future__ import annotations

import logging
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

log = logging.getLogger("p3s")

# (module, class), in the order in which they are registered.
NODES: tuple[tuple[str, str], ...] = (
    ("point_picker", "PointPicker"),
    ("rngr_mask", "RNGRMask"),
    ("reference_picture", "ReferencePicture"),
    ("training.train", "Train"),
    ("apply", "Apply"),
    ("weight_schedule", "WeightSchedule"),
    ("load_save_subject", "LoadSubject"),
    ("load_save_subject", "SaveSubject"),
    ("toy_world", "ToyWorld"),
    ("ssr_load", "LoadSSR"),
    ("ssr_encode", "SSREncode"),
    ("ssr_apply", "ApplySSR"),
)

ROUTES = (
    ("picture_route", "the Point Picker cannot show pictures"),
    ("mask_route", "the Point Picker cannot show masks"),
    ("subject_route", "Load P3S Subject cannot list new files"),
)


class P3SExtension(ComfyExtension):
    """What ComfyUI loads. A node whose module cannot be imported is reported and left out; the others still work."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        found = []
        for module, name in NODES:
            try:
                found.append(getattr(import_module(f".{module}", __name__), name))
            except Exception:
                log.exception("P3S: the node %s could not be loaded", name)
        for module, what in ROUTES:
            try:
                import_module(f".host.{module}", __name__).register()
            except Exception:
                log.exception("P3S: %s", what)
        return found
