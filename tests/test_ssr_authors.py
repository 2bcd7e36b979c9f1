"""SSR-Encoder as its authors' code and its other port compute it.

Their repositories are not shipped: checkouts of github:Xiaojiu-z/SSR_Encoder and github:logtd/ComfyUI-SSREncoder are
looked for in P3S_PEERS (~/comfy/peers by default).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from real_models import diffusers_twin
from small import SMALL, random_unet
from ssr_models import MODEL, rand
from torch import Tensor, nn

from p3s.network.unet_config import Layer, UNetConfig
from p3s.ssr.attend import AppliedSSR, SSRHooks, SubjectRun
from p3s.ssr.embeds import Embed, SubjectEmbeds
from p3s.ssr.file import load_ssr
from p3s.ssr.layers import SubjectLayers, file_index
from p3s.ssr.query import query_bias
from p3s.ssr.training import embedding_consistency

PEERS = Path(os.environ.get("P3S_PEERS") or Path.home() / "comfy" / "peers")


def peer(config: pytest.Config, name: str) -> Path:
    if not (PEERS / name).is_dir():
        pytest.skip(f"{name} is not in {PEERS}; P3S_PEERS names another folder")
    return PEERS / name


def module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


class Resize:
    """torchvision's, of that time, for tensors: bilinear without antialiasing."""

    def __init__(self, size: list[int]) -> None:
        self.size = size

    def __call__(self, picture: Tensor) -> Tensor:
        return F.interpolate(picture, self.size, mode="bilinear", align_corners=False)


@pytest.fixture
def authors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The authors' classes: Aligner, the attention processors, and the aligner with a mask. On the CPU, where the
    last has "cuda" written into it."""
    folder = peer(request.config, "SSR_Encoder") / "ssr_encoder"
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    transforms = module("torchvision.transforms", Resize=Resize)
    monkeypatch.setitem(sys.modules, "torchvision", module("torchvision", transforms=transforms))
    monkeypatch.setitem(sys.modules, "torchvision.transforms", transforms)
    package = module("ssr_encoder", __path__=[str(folder)])
    monkeypatch.setitem(sys.modules, "ssr_encoder", package)
    found = SimpleNamespace()
    for name in ("attention_processor", "ssr_encoder"):
        made = module(f"ssr_encoder.{name}", __package__="ssr_encoder")
        monkeypatch.setitem(sys.modules, made.__name__, made)
        text = (folder / f"{name}.py").read_text(encoding="utf-8").replace('"cuda"', '"cpu"')
        exec(compile(text, name, "exec"), vars(made))  # noqa: S102
        setattr(found, name, made)
    return found


def authors_aligner(authors: SimpleNamespace, masked: bool = False) -> Any:
    torch.manual_seed(0)
    processors, aligner = authors.attention_processor, authors.ssr_encoder.Aligner()
    kind = processors.AlignerAttnProcessor_mask if masked else processors.AlignerAttnProcessor
    if masked:
        scores = processors.get_attention_scores_mask
        aligner.aligner.get_attention_scores_mask = scores.__get__(aligner.aligner)
    aligner.aligner.set_processor(kind(query_dim=768, inner_dim=512, cross_attention_dim=1024))
    with torch.no_grad():
        for p in aligner.parameters():
            p.mul_(2).add_(0.01 * torch.randn_like(p))
    return aligner.requires_grad_(False)


def sd15_layers(value: Any = None) -> dict[str, Tensor]:
    """Layers of SD 1.5's shapes; ``value`` fills those of a number."""
    state = SubjectLayers(UNetConfig.build(), device="meta").state_dict()
    torch.manual_seed(1)
    return {
        key: torch.full(t.shape, float(key.split(".")[0])) if value else 0.03 * torch.randn(t.shape)
        for key, t in state.items()
    }


def test_the_authors_file_gives_the_authors_embedding(authors: SimpleNamespace, tmp_path: Path) -> None:
    theirs = authors_aligner(authors)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    torch.save(sd15_layers(), tmp_path / "pytorch_model_1.bin")
    ours = load_ssr(tmp_path / "pytorch_model.bin", tmp_path / "pytorch_model_1.bin").aligner
    for batch in (1, 2):
        states, text = rand(batch, 6, 257, 1024), rand(batch, 77, 768, seed=1)
        expected = theirs(text, torch.cat(states.unbind(1), dim=1))
        assert expected.shape == (batch, 462, 768)
        torch.testing.assert_close(ours(states, text), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("focus", [0, 0.5, 1, 5])
def test_a_mask_is_the_authors_bias(authors: SimpleNamespace, tmp_path: Path, focus: float) -> None:
    theirs = authors_aligner(authors, masked=True)
    torch.save(theirs.state_dict(), tmp_path / "a.bin")
    torch.save(sd15_layers(), tmp_path / "b.bin")
    ours = load_ssr(tmp_path / "a.bin", tmp_path / "b.bin").aligner
    states, text = rand(1, 6, 257, 1024), rand(1, 77, 768, seed=1)
    mask = (rand(1, 1, 8, 8, seed=2) > 0).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    mask = F.pad(mask, (1, 0))[..., :32]  # edges between the patches' centres: soft on the grid
    expected = theirs(text, torch.cat(states.unbind(1), dim=1), mask=mask, mask_weight=focus)
    shares = Resize([16, 16])(mask)[0, 0]
    assert 0 < ((shares > 0) & (shares < 1)).sum() < 256
    bias = query_bias(torch.ones(16, 16, dtype=torch.bool), shares, focus)
    torch.testing.assert_close(ours(states, text, bias), expected, atol=1e-5, rtol=1e-5)


def test_the_u_net_with_the_authors_processors(authors: SimpleNamespace) -> None:
    """All layers by the files' numbers, through diffusers' own U-Net."""
    net = random_unet()
    twin = diffusers_twin(net)
    processors = authors.attention_processor
    torch.manual_seed(3)
    made: dict[str, nn.Module] = {}
    for name, old in twin.attn_processors.items():
        cross = name.endswith("attn2.processor")
        width = twin.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
        kind = processors.SSRAttnProcessor2_0 if cross else processors.AttnProcessor2_0
        made[name] = kind(width, SMALL.context_dim, text_context_len=7, scale=0.65) if cross else kind()
        assert old is not made[name]
    twin.set_attn_processor(made)
    state = nn.ModuleList(twin.attn_processors.values()).state_dict()  # as the authors save them
    layers = SubjectLayers.from_state_dict({key: 4 * tensor for key, tensor in state.items()}, SMALL)
    with torch.no_grad():
        for tensor in nn.ModuleList(twin.attn_processors.values()).parameters():
            tensor.mul_(4)
    c, other = rand(1, 21, 24, seed=5), rand(1, 21, 24, seed=6)
    x, t, text = rand(1, 4, 16, 16).repeat(2, 1, 1, 1), torch.tensor([400.0, 400.0]), rand(2, 7, 24, seed=1)
    run = SubjectRun(AppliedSSR(SubjectEmbeds((Embed(c, other),), MODEL), 0.65), layers)
    with torch.no_grad():
        expected = twin(x, t, torch.cat([text, torch.cat([other, c])], dim=1)).sample
        found = net(x, t, text, SSRHooks([run], (False, True)))
        assert found is not None
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert (found - net(x, t, text)).abs().max() > 0.01


def test_the_consistency_of_the_authors_training_step() -> None:
    """As their loop has it: both normalised first, one cosine a scale, summed."""
    c, z, total = rand(2, 6 * 77, 32), rand(2, 77, 32, seed=1), torch.zeros(())
    for n in range(6):
        part = c[:, 77 * n : 77 * (n + 1)]
        part, meaning = part / part.norm(dim=-1, keepdim=True), z / z.norm(dim=-1, keepdim=True)
        total = total + (1 - torch.cosine_similarity(part, meaning, dim=-1)).mean()
    torch.testing.assert_close(embedding_consistency(c, z, 6), total)


@pytest.fixture
def port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The port's class for loading layers, without its host."""
    folder = peer(request.config, "ComfyUI-SSREncoder")
    attention = module("comfy.ldm.modules.attention", optimized_attention=None)
    stand_ins = {
        "comfy": module("comfy"),
        "comfy.ops": module("comfy.ops", disable_weight_init=nn),
        "comfy.ldm": module("comfy.ldm"),
        "comfy.ldm.modules": module("comfy.ldm.modules"),
        "comfy.ldm.modules.attention": attention,
        "folder_paths": module("folder_paths", models_dir=str(tmp_path)),
        "other_port": module("other_port", __path__=[str(folder)]),
    }
    stand_ins["comfy"].ops = stand_ins["comfy.ops"]  # type: ignore[attr-defined]
    for name, made in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, made)
    return importlib.import_module("other_port.nodes.load_ssr_attention_node").LoadSSRAttentionNode


def test_the_port_numbers_the_input_blocks_wrongly(port: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(sd15_layers(value=True), tmp_path / "ssr" / "ssr_layers.safetensors")
    (loaded,) = port().load("ssr_layers.safetensors")
    theirs = {key: (int(part.to_k.weight[0, 0]), part.to_k.weight.shape[0]) for key, part in loaded.items()}
    config = UNetConfig.build()
    ours = {layer[:2]: (number, config.channels(layer)) for layer, number in file_index(config).items()}
    wrong = {key: (theirs.get(key), right) for key, right in ours.items() if theirs.get(key) != right}
    assert wrong == {
        ("input", 4): ((7, 640), (5, 640)),
        ("input", 5): ((9, 1280), (7, 640)),
        ("input", 7): (None, (9, 1280)),
        ("input", 8): (None, (11, 1280)),
    }
    assert set(theirs) - set(ours) == {("input", 3), ("input", 6)}  # blocks without attention, never asked
    assert Layer("middle", 0) in file_index(config) and theirs["middle", 0] == (31, 1280)
