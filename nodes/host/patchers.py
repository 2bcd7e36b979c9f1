"""What is loaded beside a MODEL, and how a MODEL is given it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from comfy.model_patcher import ModelPatcher


class OneDevicePatcher(ModelPatcher):
    """Newer hosts copy what belongs to a MODEL to further GPUs, and for ours could only say that its loader is at
    fault: it raises ``several_gpus`` instead."""

    several_gpus: ClassVar[str]

    def deepclone_multigpu(self, *_: Any, **__: Any) -> ModelPatcher:
        # Of this type, because Select Model Device leaves the MODEL where it is then.
        raise RuntimeError(self.several_gpus)


def attach(patched: Any, key: str, patcher: OneDevicePatcher, wrappers: Mapping[str, Any]) -> None:
    """Let the host load a model beside a MODEL, unless it does already, and call ``wrappers``, by the host's kinds,
    instead of those there are under the key."""
    patchers = patched.get_additional_models_with_key(key)
    if all(p.model is not patcher.model for p in patchers):
        patched.set_additional_models(key, [*patchers, patcher])
    for kind, wrapper in wrappers.items():
        patched.remove_wrappers_with_key(kind, key)
        patched.add_wrapper_with_key(kind, key, wrapper)


def compute_dtype(model: Any) -> torch.dtype:
    """The type that the model's layers compute in, which may differ from the one its weights are stored in."""
    return model.model.manual_cast_dtype or model.model.get_dtype()
