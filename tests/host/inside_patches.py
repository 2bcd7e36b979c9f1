"""Run by test_mask_route.py inside a host: what is read of pictures between runs, and what runs make of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import execution
import folder_paths
import numpy as np
import torch
from comfy import clip_vision
from comfyui_p3s.nodes import point_picker
from comfyui_p3s.nodes.host.clip_patches import patches_of as read_of
from comfyui_p3s.nodes.host.clip_token_cache import token_cache
from comfyui_p3s.nodes.host.encoders import clip_encoder, clip_image_size
from comfyui_p3s.nodes.host.picker_pictures import PickerFile
from comfyui_p3s.nodes.host.picture_files import find_picture, load_picture
from comfyui_p3s.p3s.reference.masks import Patches
from comfyui_p3s.p3s.reference.rngr import clip_tokens
from PIL import Image
from server import PromptServer

ITEM = (0, "a run", {}, {}, [])


FROM = "where a run had its model from"


def patches_of(source: PickerFile, origin: str = FROM) -> Patches | None:
    read = read_of(source, origin)
    return read and read.patches


def picture(number: int, side: int = 240) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side // 8, side // 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def like(patches: Patches | None, tokens: torch.Tensor) -> bool:
    frame = patches.frame if patches else None
    return frame is not None and torch.equal(patches.vectors, Patches(tokens, frame).vectors)


@contextmanager
def meanwhile(vision: Any, act: Callable[[], object]) -> Iterator[list[bool]]:
    """Do something in another thread while the model computes; the list says whether it could, each time."""
    done: list[bool] = []

    def hook(*_: Any) -> None:
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(2)
        done.append(not thread.is_alive())

    handle = vision.model.register_forward_pre_hook(hook)
    try:
        yield done
    finally:
        handle.remove()


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    vision = clip_vision.load(arguments["clip_vision"])
    PromptServer.instance = SimpleNamespace(queue_updated=lambda: None)
    queue = PromptServer.instance.prompt_queue = execution.PromptQueue(PromptServer.instance)
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    numbers = iter(range(1, 100))

    def exact(photo: torch.Tensor) -> torch.Tensor:
        return clip_tokens(photo, clip_encoder(vision), clip_image_size(vision))

    def new() -> tuple[PickerFile, torch.Tensor]:
        number = next(numbers)
        path = folder / f"{number}.png"
        Image.fromarray(picture(number)).save(path)
        return PickerFile(str(path)), load_picture(str(path))[0]

    found: dict[str, Any] = {}
    token_cache.tokens(new()[1], vision, FROM)  # a run has used the model

    big = torch.from_numpy(picture(0, 2400)).float() / 255
    shown = point_picker._save_preview(big, 1)
    preview = PickerFile(find_picture(f"{shown['filename']} [temp]"))
    by_route, from_preview = patches_of(preview), exact(load_picture(preview.path)[0])
    vectors = Patches(from_preview, by_route.frame).vectors
    found["the preview is read"] = (by_route.vectors * vectors).sum(-1).mean().item() > 0.99  # from a smaller one
    found["the preview differs"] = not torch.equal(from_preview, exact(big))
    found["a run reads the photo"] = torch.equal(token_cache.tokens(big, vision, FROM), exact(big))
    found["then the route shows it"] = like(patches_of(preview), exact(big))
    found["but to no graph with another model"] = patches_of(preview, "elsewhere") is None

    path, photo = new()
    loads: list[Any] = []
    load_models, comfy.model_management.load_models_gpu = comfy.model_management.load_models_gpu, loads.append
    with meanwhile(vision, lambda: queue.get_current_queue()) as could:
        patches = patches_of(path)
    comfy.model_management.load_models_gpu = load_models
    found["the queue is free meanwhile"] = could
    found["models are left alone"] = not loads
    found["the numbers are the host's"] = like(patches, exact(photo))

    def finish() -> None:
        queue.put(ITEM)
        _, number = queue.get()
        queue.currently_running.pop(number)

    def away() -> None:  # as after /free, where a GPU computes
        vision.load_device = torch.device("meta")

    dropped = {"a run waits": lambda: queue.put(ITEM), "a run came and went": finish, "the model is moved": away}
    for name, act in dropped.items():
        path, _ = new()
        device = vision.load_device
        with meanwhile(vision, act) as could:
            found[name] = [patches_of(path) is None, could]
        queue.wipe_queue()
        vision.load_device = device
        found[name].append(patches_of(path) is not None)

    path, _ = new()
    away()
    found["elsewhere"] = patches_of(path) is None
    vision.load_device = device
    vision.patcher.is_dynamic = lambda: True
    found["dynamic"] = patches_of(path) is None
    del vision.patcher.is_dynamic
    found["in place again"] = patches_of(path) is not None
    return found
