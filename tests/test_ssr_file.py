"""The files of an SSR-Encoder: every container gives the same model, and anything else is refused with words."""

from __future__ import annotations

import collections
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import SMALL
from ssr_models import rand, random_aligner, random_layers, random_model
from torch import Tensor

from p3s.__main__ import main
from p3s.errors import SSRFileError
from p3s.network.unet_config import Layer
from p3s.ssr import file as ssr_file
from p3s.ssr.file import load_ssr, save_ssr
from p3s.ssr.layers import SubjectLayers


def port_keys() -> dict[str, Tensor]:
    """The aligner's tensors under the port's keys. Its width is that of one released head, as no tensor says it."""
    return random_aligner(inner=64, heads=1, scales=6, vision=12).state_dict()


def authors_keys() -> dict[str, Tensor]:
    """The same under the authors' keys, written by hand."""
    renamed = {"to_q.weight": "aligner.to_q.weight", "to_k.weight": "aligner.to_k.weight"}
    for i in range(6):
        renamed[f"to_v.{i}.weight"] = f"aligner.processor.to_v.{i}.weight"
        renamed[f"to_out.{i}.weight"] = f"aligner.processor.to_out.{i}.weight"
    renamed |= {"norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    return {renamed[key]: tensor for key, tensor in port_keys().items()}


def layer_keys() -> dict[str, Tensor]:
    return dict(random_layers().state_dict())


def write(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    if path.suffix == ".bin":
        torch.save(collections.OrderedDict(tensors), path)  # as accelerate saves a state
    else:
        save_file(tensors, path)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, tuple[Path, ...]]:
    """The four containers, some under names that say the wrong thing."""
    layers = layer_keys()
    return {
        "authors, pickles": (
            write(tmp_path / "pytorch_model.bin", authors_keys()),
            write(tmp_path / "pytorch_model_1.bin", layers),
        ),
        "authors, safetensors": (
            write(tmp_path / "model.safetensors", authors_keys()),
            write(tmp_path / "model_1.safetensors", layers),
        ),
        "port": (
            write(tmp_path / "layers.safetensors", port_keys()),
            write(tmp_path / "aligner.safetensors", layers),
        ),
        "one file": (write(tmp_path / "both.safetensors", authors_keys() | layers),),
        "one file, twice": (tmp_path / "both.safetensors", tmp_path / "both.safetensors"),
    }


def test_every_container_gives_the_same_model(pairs: dict[str, tuple[Path, ...]]) -> None:
    states, query = rand(1, 6, 17, 12), rand(1, 7, 24, seed=1)
    expected = random_aligner(inner=64, heads=1, scales=6, vision=12)(states, query)
    found = {name: load_ssr(*files) for name, files in pairs.items()}
    for model in found.values():
        assert torch.equal(model.aligner(states, query), expected)
        assert model.layers.keys() == layer_keys().keys()
        assert all(torch.equal(model.layers[key], tensor) for key, tensor in layer_keys().items())
        SubjectLayers.from_state_dict(model.layers, SMALL)
        assert not any(p.requires_grad for p in model.aligner.parameters())
    assert len({model.sha256 for model in found.values()}) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_near(tmp_path: Path, pairs: dict[str, tuple[Path, ...]], dtype: torch.dtype) -> None:
    states, query = rand(1, 6, 17, 12), rand(1, 7, 24, seed=1)
    half = load_ssr(
        write(tmp_path / "a.bin", authors_keys(), dtype), write(tmp_path / "b.safetensors", layer_keys(), dtype)
    )
    full = load_ssr(*pairs["port"])
    assert half.aligner.to_q.weight.dtype == torch.float32
    assert half.layers["1.to_k_SSR.weight"].dtype == dtype
    difference = (half.aligner(states, query) - full.aligner(states, query)).abs().mean()
    assert 0 < difference < (2e-3 if dtype == torch.float16 else 2e-2)
    assert half.sha256 != full.sha256


def test_what_is_saved_is_one_file_that_is_read_back(tmp_path: Path) -> None:
    """Also of an aligner whose heads the shapes do not tell."""
    model = random_model()
    path = save_ssr(model, tmp_path / "both.safetensors")
    again = load_ssr(path)
    states, query = rand(1, 3, 17, 20), rand(1, 7, 24, seed=1)
    assert again.aligner.heads == 2
    assert torch.equal(again.aligner(states, query), model.aligner(states, query))
    assert save_ssr(again, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert load_file(path).keys() >= {"aligner.to_q.weight", "aligner.processor.to_v.2.weight", "31.to_v_SSR.weight"}
    with pytest.raises(SSRFileError, match="already exists"):
        save_ssr(again, path)


def test_the_command_that_a_message_names_writes_one_file(tmp_path: Path, pairs: dict[str, tuple[Path, ...]]) -> None:
    assert ssr_file.CONVERT == "python -m p3s ssr convert ALIGNER LAYERS OUT.safetensors"
    files, out = [str(file) for file in pairs["authors, pickles"]], tmp_path / "one.safetensors"
    assert main(["ssr", "convert", *files, str(out)]) == 0
    assert load_ssr(out).sha256 == load_ssr(*files).sha256
    before = out.read_bytes()
    assert main(["ssr", "convert", *files, str(out)]) == 1
    assert out.read_bytes() == before


def refused(message: str, *files: Path) -> None:
    with pytest.raises(SSRFileError, match=message):
        load_ssr(*files)


def test_the_wrong_half_is_named(tmp_path: Path, pairs: dict[str, tuple[Path, ...]]) -> None:
    aligner, layers = pairs["authors, pickles"]
    (both,) = pairs["one file"]
    refused("swapped: pytorch_model_1.bin holds the subject layers, pytorch_model.bin the aligner", layers, aligner)
    refused("pytorch_model.bin holds the aligner alone. Choose the file with the subject layers", aligner)
    refused("pytorch_model_1.bin holds the subject layers alone. Choose .* the aligner as well", layers, layers)
    other = write(tmp_path / "other.bin", authors_keys())
    refused("both pytorch_model.bin and other.bin hold the aligner", aligner, other)
    refused("both.safetensors holds both .* Choose it for both", both, layers)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"}, "an IP-Adapter, not an SSR-Encoder"),
        ({"lora_unet_down_blocks_0.lora_down.weight"}, "a LoRA, not"),
        ({"model.diffusion_model.input_blocks.0.0.weight"}, "a checkpoint or U-Net, not"),
        ({"vision_model.embeddings.class_embedding"}, "a CLIP model, not"),
        ({"something"}, "another kind, not an SSR-Encoder"),
    ],
)
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_other_models_are_named(tmp_path: Path, suffix: str, keys: set[str], message: str) -> None:
    refused(message, write(tmp_path / f"x.{suffix}", {key: torch.ones(2, 2) for key in keys}))


def test_a_p3s_subject_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"copy.a": torch.ones(2)}, path, {"format": "p3s-subject"})
    refused("x.safetensors: this is a P3S subject, not", path)


Edit = Any  # (tensors) -> None


def test_all_but_whole_halves_is_refused(tmp_path: Path) -> None:
    def nan(tensors: dict[str, Any]) -> None:
        tensors["to_k.weight"] = tensors["to_k.weight"].clone().fill_(float("nan"))

    edits: list[tuple[str, str, Edit]] = [
        ("aligner", "aligner.to_k.weight is missing", lambda t: t.pop("to_k.weight")),
        ("aligner", r"aligner.processor.to_out.3.weight is missing", lambda t: t.pop("to_out.3.weight")),
        (
            "aligner",
            r"aligner.processor.to_out.6.weight is one too many",
            lambda t: t.update({"to_out.6.weight": torch.zeros(24, 64)}),
        ),
        ("aligner", "norm.bias is 25, expected 24", lambda t: t.update({"norm.bias": torch.zeros(25)})),
        ("aligner", "'to_q.weight' has the shape 24", lambda t: t.update({"to_q.weight": torch.zeros(24)})),
        ("aligner", "'extra' has no place", lambda t: t.update(extra=torch.zeros(2, 2))),
        ("aligner", "'to_k.weight' holds values that are not finite", nan),
        ("aligner", "'to_q.weight' is there twice", lambda t: t.update({"aligner.to_q.weight": torch.zeros(64, 24)})),
        ("layers", "tensor 3.to_v_SSR.weight is missing", lambda t: t.pop("3.to_v_SSR.weight")),
        (
            "layers",
            r"2.to_k_SSR.weight is one too many|1.to_k_SSR.weight is missing",
            lambda t: t.update({"2.to_k_SSR.weight": t.pop("1.to_k_SSR.weight")}),
        ),
        ("layers", "layer 5 are 65 x 24 and 64 x 24", lambda t: t.update({"5.to_k_SSR.weight": torch.zeros(65, 24)})),
        (
            "layers",
            "read the aligner's width, 24",
            lambda t: t.update({f"5.to_{kv}_SSR.weight": torch.zeros(64, 25) for kv in "kv"}),
        ),
        ("layers", "'5.to_k_SC.weight' has no place", lambda t: t.update({"5.to_k_SC.weight": torch.zeros(64, 24)})),
    ]
    for suffix in ("safetensors", "bin"):
        for half, message, edit in edits:
            halves = {"aligner": port_keys(), "layers": layer_keys()}
            edit(halves[half])
            files = [write(tmp_path / f"{name}.{suffix}", tensors) for name, tensors in halves.items()]
            refused(rf"^{half}\.{suffix}: .*{message}", *files)


RAN: list[str] = []


class Canary:
    """Pickled, it is a call of ``boom``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return boom, ("ran",)


def boom(text: str) -> str:
    RAN.append(text)
    return text


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_with_code_is_refused_and_nothing_is_run(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "x.bin"
    torch.save({**authors_keys(), "x": Canary()}, path, _use_new_zipfile_serialization=not legacy)
    refused(r"^x\.bin: .* more than tensors: code, which was not run", path)
    assert RAN == []
    torch.load(path, weights_only=False)  # the canary sings where it may
    assert RAN == ["ran"]
    RAN.clear()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, not tensors by name"),
        ({"state_dict": {"1.to_k_SSR.weight": torch.zeros(2, 2)}}, "another kind, not an SSR-Encoder"),
        ({"1.to_k_SSR.weight": {"a": torch.zeros(2, 2)}}, r"'1.to_k_SSR.weight' is not a tensor \(dict\)"),
        ({"1.to_k_SSR.weight": 3}, r"is not a tensor \(int\)"),
        ({"1.to_k_SSR.weight": torch.zeros(2, 2, dtype=torch.int32)}, "has type torch.int32"),
        ({"1.to_k_SSR.weight": torch.zeros(0, 2)}, "shape 0 x 2"),
        ({"1.to_k_SSR.weight": torch.zeros(1).expand(2**20, 2**10)}, "claim more bytes than it has"),
        ({"1.to_k_SSR.weight": torch.zeros(2, 2).to_sparse()}, "is not a tensor"),
        ({1: torch.zeros(2)}, "holds a dict, not tensors by name"),
    ],
)
def test_pickles_of_something_else(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "x.bin"
    torch.save(content, path)
    refused(message, path)


def test_files_that_are_no_model_or_cut_off(tmp_path: Path, pairs: dict[str, tuple[Path, ...]]) -> None:
    refused("no.bin: there is no such file", tmp_path / "no.bin")
    path = tmp_path / "x.bin"
    for content, message in [
        (b"", "0 bytes: it is cut off"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"PK\x03\x04" + b"x" * 100, "damaged or cut off"),
        (b"\x80\x02}q\x00" + b"x" * 100, "damaged or cut off"),
        (struct.pack("<Q", 50) + b"{}", "header should have 50 bytes"),
        (struct.pack("<Q", 2) + b"{}", "not an SSR-Encoder"),
    ]:
        path.write_bytes(content)
        refused(f"x.bin: .*{message}", path)
    for whole in pairs["authors, pickles"] + pairs["authors, safetensors"]:
        content = whole.read_bytes()
        for length in (len(content) - 1, len(content) // 2, 40):
            path.write_bytes(content[:length])
            refused("x.bin: .*cut off", path)


def test_metadata_of_a_combined_file_is_checked(tmp_path: Path) -> None:
    path = save_ssr(random_model(), tmp_path / "x.safetensors")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    for change, message in [
        ({"format_version": "2"}, "format version '2' is not 1, which is read here; update P3S"),
        ({"aligner_heads": "-1"}, "aligner_heads in the metadata is '-1'"),
        ({"aligner_heads": "3"}, "16 wide, which 3 heads do not divide"),
    ]:
        header = json.loads(content[8 : 8 + length])
        header["__metadata__"] |= change
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        refused(message, path)


@pytest.mark.parametrize(("version", "safe"), [("2.5.1+cu121", False), ("2.6.0", True), ("2.10.0a0+git1", True)])
def test_pickles_need_a_torch_whose_weights_only_holds(
    monkeypatch: pytest.MonkeyPatch, pairs: dict[str, tuple[Path, ...]], version: str, safe: bool
) -> None:
    monkeypatch.setattr(ssr_file.torch, "__version__", version)
    if safe:
        load_ssr(*pairs["authors, pickles"])
    else:
        monkeypatch.setattr(ssr_file.torch, "load", boom)
        refused("PyTorch 2.6 or newer, and this is 2.5. .* python -m p3s ssr convert", *pairs["authors, pickles"])
        assert RAN == []
    load_ssr(*pairs["authors, safetensors"])


def test_what_is_read_in_a_hosts_inference_mode_serves_outside_of_it(tmp_path: Path) -> None:
    save_ssr(random_model(), tmp_path / "x.safetensors")
    with torch.inference_mode():
        model = load_ssr(tmp_path / "x.safetensors")
        layers = SubjectLayers.from_state_dict(model.layers, SMALL)
    states, query = rand(1, 3, 17, 20), rand(1, 7, 24, seed=1)
    expected = random_aligner()(states, query)
    assert torch.equal(model.aligner(states, query), expected)
    k, _ = layers.project(Layer("middle", 0), expected)
    torch.testing.assert_close(k, expected @ model.layers["31.to_k_SSR.weight"].T)
