"""The trained subject and its file: the only place that knows the format.

A subject file is a safetensors file:

- tensors ``copy.<key>`` (the trained weights), ``reference.<i>.latent``, ``reference.<i>.tokens`` and, if it is there,
  ``reference.<i>.mask`` for i = 0, 1, ...;
- metadata ``format`` = "p3s-subject", ``format_version``, ``p3s`` (a SubjectInfo as JSON), ``sha256`` (of all these),
  and a title, licence and trigger phrase under ``modelspec.`` names for model managers, which P3S does not read.

Nothing in it can run code, and a changed byte is noticed. Tensors of another name or meaning need a new format version;
new facts in the metadata do not: unknown ones are kept (``SubjectInfo.extra``) and ignored.

Version 2 knows copies with settings of which version 1 has none (a learned weight). A subject without them is still
written as version 1, which says the same, so that older installations of P3S can read it. Version 3 has masks, and is
written for subjects that have them.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from .. import __version__
from ..errors import FamilyError, P3SError, PointError, SubjectFileError
from ..file_writing import write_atomic, write_new
from ..network.subject_tokens import SubjectTokens
from ..network.unet_config import family_name
from ..reference.points import PointSet
from ..safetensors_format import DTYPE_NAMES, DTYPES, as_bytes, check_entries, kind_of, read_header, write_safetensors
from ..settings import Setting
from .info import SubjectInfo, info_from_json, info_to_json

FORMAT = "p3s-subject"
FORMAT_VERSION = 3
V1_COPY_SETTINGS = {"feature", "pairing", "copy_input", "cross_attention", "lam", "image_dim"}
REFERENCE_INDEX = Setting(
    0, "For a subject trained on several photos: which one to use as the reference, counting from 0.", low=0, high=1000
)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class SubjectReference:
    """One clean reference. latent: I' [C, h, w] float32, the VAE's mean times its scale. tokens: c_s [1 + g*g, D].
    mask: [h, w] float32, 1 where a pixel of I' shows the subject, 0 elsewhere; None for copies that do not ask."""

    latent: Tensor
    tokens: Tensor
    mask: Tensor | None = None

    @property
    def subject_tokens(self) -> SubjectTokens | None:
        """Which tokens of the reference show the subject."""
        return None if self.mask is None else SubjectTokens.of(self.mask)


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained subject. weights: the state of the copy by key; float32, float16 or bfloat16."""

    weights: dict[str, Tensor]
    references: tuple[SubjectReference, ...]
    info: SubjectInfo


def save_subject(subject: Subject, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write ``subject`` to ``path``, all or nothing. Equal subjects give equal bytes.

    Raises SubjectFileError when the subject contradicts itself or is not finite, when ``path`` exists and ``overwrite``
    is not set, and when the disk does not take it; the file that was there before is then unchanged.
    """
    return write_atomic(Path(path), _writer(subject), overwrite)


def save_new_subject(subject: Subject, folder: str | os.PathLike[str], name: str) -> Path:
    """Write ``subject`` to the first free name in ``folder`` (see ``free_path``) and return the path.

    Never overwrites, also when two processes save under one name at once. Raises SubjectFileError as ``save_subject``.
    """
    return write_new(Path(folder), name, _writer(subject))


def load_subject(path: str | os.PathLike[str]) -> Subject:
    """Read a subject file; tensors are on the CPU and own their memory.

    Raises SubjectFileError, naming the file, for anything but a whole and consistent subject file of a known version.
    """
    return _named(Path(path), _load)


def load_info(path: str | os.PathLike[str]) -> SubjectInfo:
    """What a subject file says about itself. Quick: the tensors are not read, so the checksum is not checked.

    Raises SubjectFileError, naming the file, as far as the header shows that it is no subject file of a known version.
    """
    return _named(Path(path), lambda path: _load_header(path)[1])


def _named(path: Path, load: Callable[[Path], T]) -> T:
    try:
        if not path.is_file():
            raise SubjectFileError("there is no such file")
        return load(path)
    except SubjectFileError as error:
        raise SubjectFileError(f"{path.name}: {error}") from error
    except OSError as error:
        raise SubjectFileError(f"{path.name}: cannot be read ({error.strerror or error})") from error


def _load_header(path: Path) -> tuple[dict[str, str], SubjectInfo, list[str]]:
    """Metadata, the info in it, and the names of the tensors, all checked."""
    metadata, entries, data_size = read_header(path)
    _check_format(metadata, entries)
    return metadata, info_from_json(metadata["p3s"]), list(check_entries(entries, data_size))


def _load(path: Path) -> Subject:
    from safetensors import SafetensorError, safe_open

    metadata, info, names = _load_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned, so that no tensor stays tied to the file on the disk.
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise SubjectFileError(f"the file is damaged ({error})") from None
    if metadata.get("sha256") != _digest(tensors, metadata["p3s"], metadata["format_version"]):
        raise SubjectFileError("the content does not match its checksum: the file is damaged, or was edited")
    subject = _assemble(tensors, info)
    _check(subject)
    return subject


def _check_format(metadata: Mapping[str, str], entries: Mapping[str, Any]) -> None:
    if metadata.get("format") != FORMAT:
        raise SubjectFileError(f"this is {kind_of(metadata, entries)}, not a P3S subject")
    version = metadata.get("format_version", "")
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise SubjectFileError("the metadata has no valid format version")
    if int(version) > FORMAT_VERSION:
        raise SubjectFileError(
            f"format version {version} is newer than version {FORMAT_VERSION}, "
            f"the newest that P3S {__version__} reads; update P3S"
        )
    if "p3s" not in metadata:
        raise SubjectFileError("the metadata of the subject is missing")


def _digest(tensors: Mapping[str, Tensor], info_json: str, version: str) -> str:
    """sha256 of the format version, the info and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(f"{FORMAT} {version} {len(info_json)} {info_json}".encode(errors="surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = "x".join(map(str, tensor.shape))
        digest.update(f" {name} {DTYPE_NAMES[tensor.dtype]} {shape} ".encode(errors="surrogatepass"))
        digest.update(as_bytes(tensor))
    return digest.hexdigest()


def _writer(subject: Subject) -> Callable[[BinaryIO], None]:
    _check(subject)
    info_json = info_to_json(subject.info)
    tensors = {f"copy.{key}": tensor for key, tensor in subject.weights.items()}
    for i, reference in enumerate(subject.references):
        tensors |= {f"reference.{i}.latent": reference.latent, f"reference.{i}.tokens": reference.tokens}
        if reference.mask is not None:
            tensors[f"reference.{i}.mask"] = reference.mask
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    version = "1" if V1_COPY_SETTINGS.issuperset(subject.info.copy_settings) else "2"
    version = "3" if any(reference.mask is not None for reference in subject.references) else version
    metadata = {
        "format": FORMAT,
        "format_version": version,
        "p3s": info_json,
        "sha256": _digest(tensors, info_json, version),
        "modelspec.title": subject.info.identifier or subject.info.prompt,
        "modelspec.trigger_phrase": subject.info.identifier,
        "modelspec.license": subject.info.licence,
    }
    return lambda file: write_safetensors(file, tensors, metadata)


def _assemble(tensors: Mapping[str, Tensor], info: SubjectInfo) -> Subject:
    weights: dict[str, Tensor] = {}
    parts: dict[tuple[int, str], Tensor] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"reference\.(0|[1-9][0-9]{0,5})\.(latent|tokens|mask)", name)
        if match:
            parts[int(match[1]), match[2]] = tensor
        elif name.startswith("copy.") and len(name) > len("copy."):
            weights[name[len("copy.") :]] = tensor
        else:
            raise SubjectFileError(f"tensor {name[:80]!r} has no place in a subject file")
    references = []
    for i in range(len(info.points)):
        if (i, "latent") not in parts or (i, "tokens") not in parts:
            raise SubjectFileError(f"{len(info.points)} references are listed, but number {i + 1} is missing")
        found = (parts.pop((i, "latent")), parts.pop((i, "tokens")), parts.pop((i, "mask"), None))
        references.append(SubjectReference(*found))
    if parts:
        raise SubjectFileError(f"{len(info.points)} references are listed, but the file holds more")
    return Subject(weights, tuple(references), info)


def _check(subject: Subject) -> None:
    """Raise SubjectFileError unless the parts of ``subject`` are of the right kind and fit each other."""
    info, references = subject.info, subject.references
    if not subject.weights:
        raise SubjectFileError("the subject has no weights")
    if not references:
        raise SubjectFileError("the subject has no reference image")
    for what, count in (("point sets", len(info.points)), ("image hashes", len(info.image_hashes))):
        if count != len(references):
            raise SubjectFileError(f"the subject has {len(references)} references but {count} {what}")
    cached = info.copy_settings.get("copy_input") == "cached"
    for i, (reference, points) in enumerate(zip(references, info.points, strict=True), 1):
        if cached != (reference.mask is not None):
            raise SubjectFileError(
                f"reference {i} has {'no' if cached else 'a'} mask, which its subject network "
                f"{'needs' if cached else 'cannot use'}"
            )
        _check_reference(reference, references[0], i)
        try:
            PointSet.parse(points)
        except PointError as error:
            raise SubjectFileError(f"the points of reference {i} cannot be read: {error}") from None
    for key, tensor in subject.weights.items():
        if tensor.dtype not in DTYPES.values() or tensor.dim() == 0 or tensor.numel() == 0:
            raise SubjectFileError(f"weight {key!r} has type {tensor.dtype} and shape {_show(tensor.shape)}")
        _check_finite(tensor, f"weight {key!r}")


def _check_reference(reference: SubjectReference, first: SubjectReference, number: int) -> None:
    latent, tokens = reference.latent, reference.tokens
    if latent.dtype != torch.float32 or latent.dim() != 3 or latent.numel() == 0:
        raise SubjectFileError(
            f"the latent of reference {number} is {latent.dtype} {_show(latent.shape)}, not float32 C x h x w"
        )
    if tokens.dtype not in DTYPES.values() or tokens.dim() != 2 or tokens.shape[0] < 2 or tokens.shape[1] < 1:
        raise SubjectFileError(
            f"the tokens of reference {number} are {tokens.dtype} {_show(tokens.shape)}, not float (1 + g*g) x D"
        )
    if math.isqrt(tokens.shape[0] - 1) ** 2 != tokens.shape[0] - 1:
        raise SubjectFileError(f"the {tokens.shape[0]} tokens of reference {number} are not one and a square grid")
    if latent.shape[0] != first.latent.shape[0] or tokens.shape[1] != first.tokens.shape[1]:
        raise SubjectFileError(f"reference {number} does not have as many channels as reference 1")
    mask = reference.mask
    if mask is not None and mask.shape != latent.shape[1:]:
        raise SubjectFileError(
            f"the mask of reference {number} is {_show(mask.shape)}, its latent {_show(latent.shape)}"
        )
    if mask is not None and not (((mask == 0) | (mask == 1)).all() and mask.any()):
        raise SubjectFileError(f"the mask of reference {number} has other values than 0 and 1, or shows nothing")
    _check_finite(latent, f"the latent of reference {number}")
    _check_finite(tokens, f"a token of reference {number}")


def _check_finite(tensor: Tensor, what: str) -> None:
    low, high = torch.aminmax(tensor.detach())  # both are NaN if any value is; much quicker than isfinite
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SubjectFileError(f"{what} holds values that are not finite (NaN or infinity)")


def reference_of(subject: Subject, index: int) -> SubjectReference:
    """The reference of a number, from 0, that serves as the condition. Raises P3SError for one that does not exist."""
    last = len(subject.references) - 1
    if not 0 <= index <= last:
        photos = "one photo" if not last else f"{last + 1} photos"
        raise P3SError(f"reference_index must lie in 0..{last}: the subject was trained on {photos}; got {index}")
    return subject.references[index]


def check_weights(subject: Subject, expected: Mapping[str, torch.Size]) -> None:
    """Raise SubjectFileError unless the subject's weights have exactly the keys and shapes that the copy expects."""
    found = {key: tensor.shape for key, tensor in subject.weights.items()}
    problems = [f"{key} is missing" for key in expected if key not in found]
    problems += [f"{key} is unexpected" for key in found if key not in expected]
    problems += [
        f"{key} is {_show(found[key])}, expected {_show(expected[key])}"
        for key in expected
        if key in found and tuple(found[key]) != tuple(expected[key])
    ]
    if problems:
        more = f", and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise SubjectFileError(f"The subject's weights do not fit this model: {'; '.join(problems[:4])}{more}.")


def check_family(subject: Subject, family: str, fingerprint: str) -> tuple[str, ...]:
    """Warnings about using ``subject`` with a base of this family and fingerprint (usually none).

    Raises FamilyError naming both models when their families differ.
    """
    if subject.info.family != family:
        fits, came = family_name(subject.info.family), family_name(family)
        raise FamilyError(
            f"This subject was trained on {fits}, but this is {came}. Use {fits}, or train the subject again on this "
            "one."
        )
    if subject.info.base_fingerprint != fingerprint:
        return (
            "This subject was trained on other weights of the same family; likeness may suffer. "
            "It works best with the checkpoint it was trained on.",
        )
    return ()


def _show(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "scalar"
