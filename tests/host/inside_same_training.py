"""Run by test_same_training.py inside a host: one training by Train P3S and one by the library, on the toy world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from comfyui_p3s.nodes.host import toy_world
from comfyui_p3s.nodes.host.weights import noise_schedule
from comfyui_p3s.nodes.training import run as train_run
from comfyui_p3s.nodes.training.task import make_task
from comfyui_p3s.p3s.models.pipeline import train_subject
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.subject.file import Subject
from comfyui_p3s.p3s.toyworld.world import click, picture_of
from comfyui_p3s.p3s.training.settings import TrainSettings
from comfyui_p3s.p3s.training.state import Checkpoints
from server import PromptServer

import nodes

PROMPT = "a photo of a sks dog on the grass"
SETTINGS = TrainSettings(steps=3, batch_size=4, learning_rate=1e-3)


def by_the_node(references: Any, copy: CopySettings, settings: TrainSettings) -> Subject:
    PromptServer.instance = SimpleNamespace(client_id=None, send_progress_text=lambda *_: None)
    model, clip = toy_world.model(), toy_world.Text()
    positive, empty = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, ""))
    task = make_task(model, toy_world.Vae(), references, positive, empty, 48, copy, settings, identifier="sks")
    node = SimpleNamespace(hidden=SimpleNamespace(unique_id="1"))
    return train_run.run(node, model, task, 0, Checkpoints(Path("no.training")), resume=False).subject


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    # The host keeps sigmas, from which the schedule is computed back: other last bits than the world's own.
    world, facts = replace(toy_world.world(), noise=noise_schedule(toy_world.model())), {}
    scenes = toy_world.drawn("dog", 4), toy_world.drawn("dog", 7)
    references = [world.reference(picture_of(scene), click(scene, 1)) for scene in scenes]
    for name, count, copy, settings in (
        ("one photo", 1, CopySettings(), SETTINGS),
        ("two photos", 2, CopySettings(), replace(SETTINGS, batch_size=3)),
        ("low rank", 1, CopySettings(kind="lora", rank=4), replace(SETTINGS, views="whole")),
    ):
        node = by_the_node(references[:count], copy, settings)
        with torch.inference_mode(False):
            library, _ = train_subject(world, references[:count], PROMPT, settings, copy, "sks")
            untrained = replace(settings, steps=1, learning_rate=1e-8)
            start, _ = train_subject(world, references[:count], PROMPT, untrained, copy)
        facts[name] = {
            "weights": node.weights.keys() == library.weights.keys()
            and all(torch.equal(node.weights[key], library.weights[key]) for key in node.weights),
            "moved": max((node.weights[k].float() - v.float()).abs().max().item() for k, v in start.weights.items()),
            "key": node.info.training_key == library.info.training_key,
            "losses": node.info.loss_map == library.info.loss_map,
        }
    return facts
