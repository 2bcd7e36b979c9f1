"""A node pack for the tests' servers that lets trainings fail on purpose; the product knows nothing of it.

Copied to custom_nodes, it reads the file ``fault.json`` in the server's base directory before every backward pass of
torch: {"out_of_memory_from": n, "times": k} makes passes n, n + 1, ..., n + k - 1 (counted from the file's writing)
raise what torch raises on a GPU whose memory is full; with "not_finite_from" they give gradients that are not finite.
{"encoding_takes": n} lets every picture that a VAE encodes take n seconds more. {"free": n, "total": n} are what the
host believes of its memory,
in bytes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import comfy.model_management
import comfy.sd
import torch
from torch._subclasses.fake_tensor import FakeTensor

NODE_CLASS_MAPPINGS: dict[str, type] = {}
ORDER = Path(__file__).parents[1] / "fault.json"
_backward = torch.Tensor.backward
_encode = comfy.sd.VAE.encode


def _failing(self: torch.Tensor, *args: object, **keywords: object) -> None:
    # The estimate of the memory makes a pass as well, on tensors without values, and only once for a kind of training.
    order = {} if isinstance(self, FakeTensor) else _order()
    order["passes"] = order.get("passes", 0) + 1
    if "times" in order:
        ORDER.write_text(json.dumps(order))

    def ordered(name: str) -> bool:
        return name in order and 0 <= order["passes"] - order[name] < order["times"]

    if ordered("out_of_memory_from"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    _backward(self * float("nan") if ordered("not_finite_from") else self, *args, **keywords)


def _slow(*args: object, **keywords: object) -> object:
    time.sleep(_order().get("encoding_takes", 0))
    return _encode(*args, **keywords)


def _order() -> dict[str, int]:
    return json.loads(ORDER.read_text()) if ORDER.exists() else {}


def _believing(name: str) -> None:
    real = getattr(comfy.model_management, f"get_{name}_memory")

    def believed(*args: object, **keywords: object) -> object:
        order = _order()
        return order[name] if name in order else real(*args, **keywords)

    setattr(comfy.model_management, f"get_{name}_memory", believed)


torch.Tensor.backward = _failing  # type: ignore[method-assign]
comfy.sd.VAE.encode = _slow
_believing("free")
_believing("total")
