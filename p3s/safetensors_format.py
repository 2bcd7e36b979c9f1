"""The safetensors layout: 8 bytes of header length, the header as JSON, then the tensors' bytes.

It is written here rather than by the library because the library orders metadata at random, and equal subjects must
give equal files; a header is checked here before the library opens a file, because versions of the library differ in
what they let through.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from .errors import SubjectFileError

MAX_HEADER = 16 * 2**20  # bytes; a subject's header has less than 1 MB
MAX_DIMENSIONS = 8
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # of weights
ALL_DTYPES = DTYPES | {
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in ALL_DTYPES.items()}
#: What a model file seems to be, by a tensor's name; the first that fits.
KINDS = (
    ("an SSR-Encoder", r"\.to_[kv]_SSR\.weight$|^aligner\.to_q\."),
    ("an IP-Adapter", r"^image_proj\.|^ip_adapter\."),
    ("a LoRA", r"lora_|\.lora|lokr_|hada_"),
    ("a checkpoint or U-Net", r"^model\.diffusion_model\.|^input_blocks\.|^down_blocks\."),
    ("a ControlNet", r"control_model\.|controlnet"),
    ("a VAE", r"^first_stage_model\.|^encoder\.|^decoder\."),
    ("a CLIP model", r"^(?:vision|text)_model\."),
)


class TensorEntry(NamedTuple):
    """What a header declares of one tensor: its type, its shape, and where its bytes begin after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU tensors. Equal input gives equal bytes.

    Raises SubjectFileError when the metadata would make a header that ``read_header`` refuses.
    """
    header, names = safetensors_header(tensors, metadata)
    file.write(header)
    for name in names:
        file.write(as_bytes(tensors[name]))


def safetensors_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """All that precedes the tensors' bytes in a file, and the order in which these follow.

    Raises SubjectFileError when the metadata would make a header that ``read_header`` refuses.
    """
    # Widest types first keeps every tensor aligned; the header is padded for the same reason.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise SubjectFileError(f"The subject's settings and notes take {len(text)} bytes; {MAX_HEADER} are allowed.")
    return len(text).to_bytes(8, "little") + text, names


def read_header(path: Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """Metadata, undecoded tensor entries and size of the data in bytes. Reads only the header.

    Raises SubjectFileError when the file does not start with a header that fits into it; OSError as it comes.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > MAX_HEADER or length > size - 8:
            raise SubjectFileError(_what_it_is(start, size, length))
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise SubjectFileError("the header is damaged, or this is not a safetensors file") from None
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SubjectFileError("the header is damaged: it is not the header of a safetensors file")
    return metadata, header, size - 8 - length


def _what_it_is(start: bytes, size: int, length: int) -> str:
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return "this is a PyTorch (pickle) file, which can run code when opened; P3S reads safetensors files only"
    if start[:1] == b"<" or start[:8] == b"version ":
        return "this is a text file, not a model: the download went wrong (a web page, or a Git LFS pointer)"
    if size < 8:
        return f"the file has only {size} bytes: it is cut off"
    return (
        f"the header should have {length} bytes, but the file has {size} and at most {MAX_HEADER} are read: "
        "it is cut off, or not a safetensors file"
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def kind_of(metadata: Mapping[str, str], names: Iterable[str]) -> str:
    """What a model file seems to be, by its metadata and its tensors' names."""
    if metadata.get("format") == "p3s-subject":
        return "a P3S subject"
    names = list(names)
    for kind, pattern in KINDS:
        if any(re.search(pattern, name) for name in names):
            return kind
    return "a model file of another kind"


def check_entries(entries: Mapping[str, Any], data_size: int, weights: bool = True) -> dict[str, TensorEntry]:
    """Decode a header's tensor entries; SubjectFileError unless they tile exactly ``data_size`` bytes. ``weights``:
    they must have one of ``DTYPES``, a dimension and a value."""
    dtypes, least = (DTYPES, 1) if weights else (ALL_DTYPES, 0)
    result: dict[str, TensorEntry] = {}
    spans = []
    for name, entry in entries.items():
        shown = repr(name[:80])
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise SubjectFileError(f"the entry of tensor {shown} is damaged")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in dtypes:
            raise SubjectFileError(f"tensor {shown} has type {str(dtype)[:20]}; allowed are {', '.join(dtypes)}")
        if not _whole_numbers(shape) or not least <= len(shape) <= MAX_DIMENSIONS or min(shape, default=1) < least:
            raise SubjectFileError(f"tensor {shown} has a bad shape")
        # Python's integers do not overflow, so a shape cannot claim less than it means.
        needed = math.prod(shape) * dtypes[dtype].itemsize
        if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != needed:
            raise SubjectFileError(f"tensor {shown}: its place in the file does not fit its shape")
        result[name] = TensorEntry(dtypes[dtype], tuple(shape), offsets[0])
        spans.append((offsets[0], offsets[1], shown))
    position = 0
    for begin, end, shown in sorted(spans):
        if begin != position:
            raise SubjectFileError(f"tensor {shown}: its place in the file overlaps another, or leaves a gap")
        position = end
    if position != data_size:
        raise SubjectFileError(f"the file should hold {position} bytes of tensors and has {data_size}: it is cut off")
    return result


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
