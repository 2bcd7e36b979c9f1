"""A node pack for the tests' servers with a CLIP vision model that is no class of the host's: mean colours, and nothing
else that the host's models have. Not even a weak reference to it can be made."""

from __future__ import annotations

import torch


class MeanColours:
    __slots__ = ()

    def encode_image(self, image: torch.Tensor, crop: object = True) -> dict[str, torch.Tensor]:
        patches = torch.nn.functional.avg_pool2d(image[..., :3].movedim(-1, 1) - 0.4, 14).flatten(2).movedim(1, 2)
        tokens = torch.cat([patches, torch.full_like(patches[..., :1], 0.05)], 2)
        return {"last_hidden_state": torch.cat([tokens[:, :1], tokens], 1)}


class Loader:
    RETURN_TYPES = ("CLIP_VISION",)
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {}}

    def load(self) -> tuple:
        return (MeanColours(),)


NODE_CLASS_MAPPINGS = {"TestMeanColours": Loader}
