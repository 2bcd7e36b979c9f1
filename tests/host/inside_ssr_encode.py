"""What SSR Encode makes of the host's models, against the core on the tensors they give; for inside_ssr_nodes.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.clip_vision
import comfy.sd
import torch
from comfyui_p3s.nodes.host import ssr_encoders, toy_world
from comfyui_p3s.nodes.ssr_encode import SSREncode
from comfyui_p3s.p3s.reference.framing import Frame
from comfyui_p3s.p3s.ssr.embeds import SubjectEmbeds, Vision, encode
from comfyui_p3s.p3s.ssr.query import QuerySettings
from comfyui_p3s.p3s.toyworld.scenes import SIDE
from comfyui_p3s.p3s.toyworld.world import click, picture_of
from inside_ssr_subjects import random_encoder
from inside_subjects import difference, message


def query_facts(path: str) -> dict[str, Any]:
    """The host's text encoder for a query, and transformers' with the same weights."""
    import transformers

    clip = comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_model=False)[1]
    host = clip.cond_stage_model.clip_l.transformer
    torch.manual_seed(0)
    for parameter in host.parameters():  # layers that do something, each something else
        parameter.add_(0.05 * torch.randn(parameter.shape).to(parameter))
    skipping = clip.clone()
    skipping.clip_layer(-2)
    texts = {"dog": "a red dog", "empty": "", "long": "dog " * 100}
    found = {name: ssr_encoders.query(clip, text) for name, text in texts.items()}
    skipped = skipping.encode_from_tokens_scheduled(skipping.tokenize(texts["dog"]))[0][0]
    with torch.inference_mode(False):
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
        config = transformers.CLIPTextConfig(**sizes, hidden_act="quick_gelu", eos_token_id=49407)
        theirs = transformers.CLIPTextModel(config).train(False)
        # transformers 5 has no prefix any more.
        prefix = "" if "text_model.final_layer_norm.weight" in theirs.state_dict() else "text_model."
        state = {k.removeprefix(prefix): v.float() for k, v in host.state_dict().items() if k.startswith("text_model.")}
        missing = theirs.load_state_dict(state, strict=False).missing_keys
        ids = torch.tensor([[token for token, _ in clip.tokenize(texts["dog"])["l"][0]]])
        with torch.no_grad():
            expected = theirs(input_ids=ids).last_hidden_state
    dog = found["dog"].tokens
    return {
        "not loaded": [key for key in missing if "position_ids" not in key],
        "error": difference(dog, expected),
        "another layer is another query": difference(skipped, dog) > 0.01,
        "clip skip": torch.equal(ssr_encoders.query(skipping, texts["dog"]).tokens, dog),
        "skipping is left alone": skipping.layer_idx == -2,
        "words": [None if q.words is None else [q.words.start, q.words.stop] for q in found.values()],
        "shapes": [list(q.tokens.shape) for q in found.values()],
        "warnings": [list(q.warnings) for q in found.values()],
    }


def small_tower() -> Any:
    """A CLIP_VISION of the host with 24 narrow layers."""
    import json
    import tempfile

    from inside_ssr import TOWER

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({**TOWER, "model_type": "clip_vision_model"}, file)
        file.flush()
        vision = comfy.clip_vision.ClipVisionModel(file.name)
    torch.manual_seed(0)
    for parameter in vision.model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vision


def tower_facts() -> dict[str, Any]:
    """What the node reads of a vision tower, against the tower called by hand."""
    tower = small_tower()
    vision = ssr_encoders.vision(tower, 6)
    picture = torch.rand(1, 28, 28, 3, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(tower.image_mean), torch.tensor(tower.image_std)
    pixels = ((picture - mean) / std).permute(0, 3, 1, 2).float()
    by_hand = tower.model(pixel_values=pixels, intermediate_output="all")[1][:, 3::4]
    zeros = tower.model(pixel_values=torch.zeros(1, 3, 28, 28), intermediate_output="all")[1][:, 3::4]
    calls: list[int] = []
    handle = tower.model.register_forward_hook(lambda *_: calls.append(1))
    found = {
        "states": difference(vision.states(picture), by_hand),
        "zeros": torch.equal(vision.zeros(), zeros.float()),
        "zeros of another node": torch.equal(ssr_encoders.vision(tower, 6).zeros(), zeros.float()),
    }
    handle.remove()
    return found | {
        "calls": len(calls),  # one for the picture, one for all zeros
        "size": vision.size,
        "another depth": message(lambda: ssr_encoders.vision(tower, 7).states(picture)),
        "no tower": message(lambda: ssr_encoders.vision(object(), 6).states(picture)),
    }


def encode_facts() -> dict[str, Any]:
    """SSR Encode on the toy world's models, against the core on the world's own tensors."""
    world = toy_world.world()
    encoder = random_encoder(world.unet.config, query=64, vision=96, inner=64, heads=4, scales=3)
    clip, vision = toy_world.Text(), toy_world.Vision()
    photo = toy_world.photo("dog", 4)[:, :, :256]  # 3 : 2 upright
    mask = torch.zeros(1, 384, 256)
    mask[:, :200, :100] = 1
    by_hand = Vision(
        SIDE,
        world.encode_clip_layers,
        lambda: world.encode_clip_layers(torch.full((1, SIDE, SIDE, 3), 0.5)),
    )

    def node_of(**changed: Any) -> tuple[SubjectEmbeds, torch.Tensor, Any]:
        given = {"ssr": encoder, "clip": clip, "clip_vision": vision, "query": "dog", "weight": 1.0}
        found = SSREncode.EXECUTE_NORMALIZED(**{**given, "image": photo, **changed})
        return (*found.args, found.ui)

    def core(text: str, picture: torch.Tensor, where: Any, *settings: Any) -> SubjectEmbeds:
        tokens = world.encode_query(text)[None], world.encode_query("")[None]
        return encode(encoder, *tokens, picture, by_hand, where, QuerySettings(*settings)).embeds

    def same(found: SubjectEmbeds, expected: SubjectEmbeds) -> bool:
        pairs = zip(found.subjects, expected.subjects, strict=True)
        return all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(ours[:2], theirs[:2], strict=True))

    scene = toy_world.drawn("dog", 4)
    reference = world.reference(picture_of(scene), click(scene, 0))
    plain, attention, _ = node_of()
    masked, focused, _ = node_of(mask=mask, mask_mode="strict")
    by_reference, _, _ = node_of(image=None, reference=(reference,), mask_mode="strict")
    by_parts, _, _ = node_of(
        image=reference.image[None], mask=reference.subject_mask[None], mask_mode="strict", embeds=plain
    )
    nameless, _, ui = node_of(query="", mask=mask)
    row, column = Frame(256, 384).patch_at(0.2, 0.2, 12)
    point = torch.zeros(384, 256)
    point[int(0.2 * 384), int(0.2 * 256)] = 1
    _, dot, _ = node_of(mask=point, mask_mode="strict")
    middle = (dot[0, ..., 0] - 0.4 * (photo[0] @ torch.tensor((0.299, 0.587, 0.114)))).flatten().argmax().item()
    other, _, _ = node_of(image=toy_world.photo("cat", 7)[:, :, :256])
    return {
        "plain": same(plain, core("dog", photo[0], None)),
        "crop": same(node_of(framing="crop")[0], core("dog", photo[0], None, "crop")),
        "masked": same(masked, core("dog", photo[0], mask[0], "pad", "strict")),
        "a mask acts": not same(plain, masked),
        "focus": same(node_of(mask=mask, focus=5.0)[0], core("dog", photo[0], mask[0], "pad", "soft", 5.0)),
        "ones": same(node_of(mask=torch.ones(1, 384, 256), focus=5.0)[0], plain),
        "reference": same(by_reference, SubjectEmbeds(by_parts.subjects[1:], encoder)),
        "chained": len(by_parts.subjects) == 2 and same(SubjectEmbeds(by_parts.subjects[:1], encoder), plain),
        "unconditional": torch.equal(plain.subjects[0].unconditional, other.subjects[0].unconditional),
        "photos differ": not torch.equal(plain.subjects[0].c, other.subjects[0].c),
        "weight": node_of(weight=0.5)[0].subjects[0].weight,
        "attention": [list(attention.shape), bool((attention >= 0).all() and (attention <= 1).all())],
        "attention under the mask": not torch.equal(attention, focused),
        "patch under the point": [row, column, *frame_patch(middle, 12)],
        "warning": ui["text"],
        "nameless": same(nameless, core("", photo[0], mask[0])),
        "said": {
            "neither": message(lambda: node_of(image=None)),
            "both": message(lambda: node_of(reference=(reference,))),
            "mask of a reference": message(lambda: node_of(image=None, reference=(reference,), mask=mask)),
            "empty": message(lambda: node_of(query=" ")),
            "proportions": message(lambda: node_of(mask=torch.ones(1, 256, 256))),
            "masks": message(lambda: node_of(mask=mask.repeat(2, 1, 1))),
            "NaN": message(lambda: node_of(mask=mask * float("nan"))),
            "no mask": message(lambda: node_of(mask=0 * mask)),
            "embeds": message(
                lambda: node_of(
                    embeds=SubjectEmbeds(
                        plain.subjects,
                        random_encoder(world.unet.config, 2, query=64, vision=96, inner=64, heads=4, scales=3),
                    )
                )
            ),
            "another clip": message(lambda: node_of(clip=Wide())),
        },
    }


def frame_patch(pixel: int, grid: int) -> Sequence[int]:
    """Row and column of the patch in whose middle a pixel of the upright photo lies."""
    row, column = divmod(pixel, 256)
    return Frame(256, 384).patch_at((column + 0.5) / 256, (row + 0.5) / 384, grid)


class Wide:
    """Stands for the CLIP of another family."""

    def query(self, text: str) -> tuple[torch.Tensor, None]:
        return torch.zeros(1, 77, 2048), None
