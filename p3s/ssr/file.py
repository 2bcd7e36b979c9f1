"""The files of an SSR-Encoder: the only place that knows their formats.

The released model is two files, the aligner (16 tensors) and the subject layers (32). They come as PyTorch files
(pickles) or safetensors, the aligner's keys with the authors' prefixes or without any. Both may lie in one safetensors
file, which is what :func:`save_ssr` writes: the tensors of both under the authors' keys, and the metadata ``format`` =
"ssr-encoder", ``format_version`` and ``aligner_heads``. Files are told apart by their keys, never by their names.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import SSRFileError, SubjectFileError
from ..file_writing import write_atomic
from ..safetensors_format import DTYPE_NAMES, DTYPES, as_bytes, check_entries, kind_of, read_header, write_safetensors
from .aligner import Aligner

FORMAT = "ssr-encoder"
FORMAT_VERSION = 1
HEAD_WIDTH = 64  # of the released aligner; its heads are in no tensor
#: The first version of torch whose weights_only cannot be broken out of (CVE-2025-32434).
SAFE_TORCH = (2, 6)
CONVERT = "python -m p3s ssr convert ALIGNER LAYERS OUT.safetensors"
#: The authors' prefixes of the aligner's keys.
PREFIX, PROCESSOR = "aligner.", "aligner.processor."
ALIGNER_KEY = re.compile(r"to_[qk]\.weight|to_(?:v|out)\.(?:0|[1-9]\d?)\.weight|norm\.(?:weight|bias)")
LAYER_KEY = re.compile(r"(0|[1-9]\d{0,3})\.to_[kv]_SSR\.weight")
HALVES = {"aligner": "the aligner", "layers": "the subject layers"}


@dataclass(frozen=True, eq=False)
class SSRModel:
    """An SSR-Encoder. ``aligner``: float32 on the CPU, frozen. ``layers``: W_K^S and W_V^S under the file's keys, as
    stored (:meth:`p3s.ssr.layers.SubjectLayers.from_state_dict`). ``sha256``: of all tensors, whatever the container.
    """

    aligner: Aligner
    layers: Mapping[str, Tensor]
    sha256: str


class _Content(NamedTuple):
    """What a file holds, each half empty where it is not there: the aligner under :class:`Aligner`'s keys, the layers
    under the file's; and the aligner's heads where the file says so."""

    name: str
    aligner: dict[str, Tensor]
    layers: dict[str, Tensor]
    heads: int | None

    @property
    def halves(self) -> list[str]:
        return [half for half in HALVES if getattr(self, half)]


def load_ssr(aligner_file: str | os.PathLike[str], layers_file: str | os.PathLike[str] | None = None) -> SSRModel:
    """Read an SSR-Encoder from its two files, or from one that holds both (given once or twice).

    Raises SSRFileError, naming the file, for anything but whole and consistent files of it.
    """
    first = Path(aligner_file)
    second = first if layers_file is None else Path(layers_file)
    same = os.path.realpath(first) == os.path.realpath(second)
    one = _read(first)
    two = one if same else _read(second)
    _check_pair(one, two)
    aligner = _aligner(one)
    _check_layers(two, len(one.aligner["norm.weight"]))
    return SSRModel(aligner, two.layers, _digest(one.aligner, two.layers, aligner.heads))


def describe(model: SSRModel) -> str:
    """A few lines about an SSR-Encoder, for people."""
    aligner = model.aligner
    sizes = [sum(t.numel() for t in half) for half in (aligner.state_dict().values(), model.layers.values())]
    lines = [
        f"Aligner: query {aligner.to_q.in_features} wide, vision {aligner.to_k.in_features} wide, {aligner.scales} "
        f"scales, {aligner.heads} heads, {sizes[0]:,} parameters",
        f"Subject layers: {len(model.layers) // 2} cross-attentions, {sizes[1]:,} parameters",
        f"sha256: {model.sha256}",
    ]
    return "\n".join(lines)


def save_ssr(
    model: SSRModel,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    notes: Mapping[str, str] | None = None,
) -> Path:
    """Write both halves to one safetensors file, all or nothing. Equal models give equal bytes. ``notes`` are further
    entries of its metadata.

    Raises SSRFileError as :func:`p3s.file_writing.write_atomic` does SubjectFileError.
    """
    tensors = {_authors_key(key): tensor for key, tensor in model.aligner.state_dict().items()} | dict(model.layers)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    metadata = {
        **(notes or {}),
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "aligner_heads": str(model.aligner.heads),
    }
    try:
        return write_atomic(Path(path), lambda file: write_safetensors(file, tensors, metadata), overwrite)
    except SubjectFileError as error:
        raise SSRFileError(str(error)) from error


def _read(path: Path) -> _Content:
    try:
        if not path.is_file():
            raise SSRFileError("there is no such file")
        with open(path, "rb") as file:
            start = file.read(2)
        if start == b"PK" or start[:1] == b"\x80":
            return _sorted_out(path.name, {}, _read_pickle(path))
        return _sorted_out(path.name, *_read_safetensors(path))
    except (SSRFileError, SubjectFileError) as error:
        raise SSRFileError(f"{path.name}: {error}") from error
    except OSError as error:
        raise SSRFileError(f"{path.name}: cannot be read ({error.strerror or error})") from error


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    metadata, entries, data_size = read_header(path)
    _check_kind(metadata, entries)
    check_entries(entries, data_size)
    try:
        with safe_open(path, framework="pt") as file:
            return metadata, {name: file.get_tensor(name).clone() for name in entries}
    except SafetensorError as error:
        raise SSRFileError(f"the file is damaged ({error})") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, in which nothing is run."""
    if (version := _torch_version()) < SAFE_TORCH:
        raise SSRFileError(
            f"this is a PyTorch (pickle) file. It can be read safely with PyTorch {_dotted(SAFE_TORCH)} or newer, and "
            f"this is {_dotted(version)}. Update PyTorch, or convert the files where it is newer: {CONVERT}"
        )
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, torch's and pickle's
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # the disk's; torch seeks before a cut-off start
            raise
        if re.search(r"unsupported (?:global|class)|unrecognized function|can only build", str(error), re.IGNORECASE):
            raise SSRFileError(
                "this PyTorch (pickle) file holds more than tensors: code, which was not run. Download the model again "
                "from its authors"
            ) from None
        raise SSRFileError("this PyTorch (pickle) file is damaged or cut off; download it again") from None
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise SSRFileError(f"this PyTorch file holds a {type(loaded).__name__}, not tensors by name")
    _check_kind({}, loaded)
    size = 0
    for key, tensor in loaded.items():
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise SSRFileError(f"{key[:80]!r} is not a tensor ({type(tensor).__name__})")
        if tensor.dtype not in DTYPES.values() or not tensor.numel():
            raise SSRFileError(f"tensor {key[:80]!r} has type {tensor.dtype} and shape {_show(tensor.shape)}")
        size += tensor.numel() * tensor.element_size()
    if size > path.stat().st_size:  # views of a few bytes that claim to be many
        raise SSRFileError("the tensors of this PyTorch file claim more bytes than it has")
    return {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in loaded.items()}


def _torch_version() -> tuple[int, int]:
    major, minor = re.findall(r"\d+", torch.__version__)[:2]
    return int(major), int(minor)


def _check_kind(metadata: Mapping[str, str], names: Mapping[str, Any]) -> None:
    """Raise SSRFileError for a file without any tensor of an SSR-Encoder."""
    if not any(LAYER_KEY.fullmatch(name) or ALIGNER_KEY.fullmatch(_own_key(name)) for name in names):
        raise SSRFileError(
            f"this is {kind_of(metadata, names)}, not an SSR-Encoder. The released one is two files: the aligner "
            "(pytorch_model.bin, or ssr_aligner.safetensors) and the layers (pytorch_model_1.bin, or "
            "ssr_layers.safetensors)"
        )


def _sorted_out(name: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> _Content:
    version = metadata.get("format_version", "") if metadata.get("format") == FORMAT else "1"
    if version != str(FORMAT_VERSION):
        raise SSRFileError(f"format version {version[:20]!r} is not {FORMAT_VERSION}, which is read here; update P3S")
    aligner: dict[str, Tensor] = {}
    layers: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        own = _own_key(key)
        if LAYER_KEY.fullmatch(key):
            layers[key] = tensor
        elif not ALIGNER_KEY.fullmatch(own):
            raise SSRFileError(f"tensor {key[:80]!r} has no place in an SSR-Encoder")
        elif own in aligner:
            raise SSRFileError(f"tensor {own!r} is there twice, with the authors' prefix and without")
        else:
            aligner[own] = tensor
        if tensor.ndim != (1 if own.startswith("norm.") else 2):
            raise SSRFileError(f"tensor {key!r} has the shape {_show(tensor.shape)}")
        low, high = torch.aminmax(tensor)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise SSRFileError(f"tensor {key!r} holds values that are not finite (NaN or infinity)")
    heads = metadata.get("aligner_heads")
    if heads is not None and not re.fullmatch(r"[1-9]\d{0,3}", heads):
        raise SSRFileError(f"aligner_heads in the metadata is {heads[:20]!r}, not a number of heads")
    return _Content(name, aligner, layers, None if heads is None else int(heads))


def _own_key(key: str) -> str:
    """:class:`Aligner`'s key of an aligner's tensor with the authors' prefix, or any other key as it is."""
    for prefix in (PROCESSOR, PREFIX):
        if key.startswith(prefix):
            return key[len(prefix) :]
    return key


def _authors_key(key: str) -> str:
    return key if key.startswith("norm.") else (PREFIX if key[3] in "qk" else PROCESSOR) + key


def _check_pair(one: _Content, two: _Content) -> None:
    """Raise SSRFileError unless the first file holds the aligner and the second the layers, or one file both."""
    if one is two:
        if len(one.halves) == 2:
            return
        (there,) = one.halves
        (missing,) = HALVES.keys() - {there}
        raise SSRFileError(f"{one.name} holds {HALVES[there]} alone. Choose the file with {HALVES[missing]} as well")
    if (one.halves, two.halves) == (["layers"], ["aligner"]):
        raise SSRFileError(
            f"the two files are swapped: {one.name} holds the subject layers, {two.name} the aligner. Choose each in "
            "the other's place"
        )
    for content in (one, two):
        if len(content.halves) == 2:
            raise SSRFileError(f"{content.name} holds both the aligner and the subject layers. Choose it for both")
    if one.halves == two.halves:
        (there,) = one.halves
        (missing,) = HALVES.keys() - {there}
        raise SSRFileError(
            f"both {one.name} and {two.name} hold {HALVES[there]}. Choose the file with {HALVES[missing]} for one"
        )


def _aligner(content: _Content) -> Aligner:
    """The aligner of a file. Raises SSRFileError for a missing tensor, and one of a wrong shape."""
    state, name = content.aligner, content.name
    scales = sum(key.startswith("to_v.") for key in state)
    for key in ("to_q.weight", "to_k.weight"):
        if key not in state:
            raise SSRFileError(f"{name}: tensor {_authors_key(key)} is missing")
    inner, query = state["to_q.weight"].shape
    vision = state["to_k.weight"].shape[1]
    heads = content.heads or max(1, inner // HEAD_WIDTH)
    if inner % heads:
        raise SSRFileError(f"{name}: the aligner is {inner} wide, which {heads} heads do not divide")
    with torch.device("meta"):
        aligner = Aligner(query, vision, inner, heads, scales)
    expected = {key: tensor.shape for key, tensor in aligner.state_dict().items()}
    for key in [*expected, *state]:
        if key not in state or key not in expected:
            what = "missing" if key in expected else "one too many"
            raise SSRFileError(f"{name}: tensor {_authors_key(key)} is {what}")
        if state[key].shape != expected[key]:
            raise SSRFileError(
                f"{name}: tensor {_authors_key(key)} is {_show(state[key].shape)}, expected {_show(expected[key])}"
            )
    aligner.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    return aligner.requires_grad_(False).train(False)


def _check_layers(content: _Content, width: int) -> None:
    """Raise SSRFileError unless the layers are complete and read embeddings of ``width``."""
    state, name = content.layers, content.name
    count = (len(state) + 1) // 2
    numbers = range(1, 2 * count, 2)
    expected = [f"{n}.to_{kind}_SSR.weight" for n in numbers for kind in "kv"]
    for key in [*expected, *state]:
        if key not in state:
            raise SSRFileError(f"{name}: tensor {key} is missing")
        if key not in expected:
            raise SSRFileError(f"{name}: tensor {key} is one too many: layers have odd numbers, from 1 without a gap")
    for number in numbers:
        k, v = (state[f"{number}.to_{kind}_SSR.weight"].shape for kind in "kv")
        if k != v or k[1] != width:
            raise SSRFileError(
                f"{name}: the keys and values of layer {number} are {_show(k)} and {_show(v)}; both must be equal and "
                f"read the aligner's width, {width}"
            )


def _digest(aligner: Mapping[str, Tensor], layers: Mapping[str, Tensor], heads: int) -> str:
    """sha256 of every tensor's key, type, shape and bytes, the same for every container."""
    digest = hashlib.sha256(f"{FORMAT} {heads}".encode())
    for key, tensor in sorted({**aligner, **layers}.items()):
        digest.update(f" {key} {DTYPE_NAMES[tensor.dtype]} {_show(tensor.shape)} ".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _show(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "scalar"
