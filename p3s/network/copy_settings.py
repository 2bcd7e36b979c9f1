"""The settings of a subject's copy: what must be the same in training and in sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..errors import P3SError
from ..settings import as_before, check, setting


@dataclass(frozen=True)
class CopySettings:
    """Stored in the subject file.

    The letters are the rows of docs/method.md. Raises P3SError for a value that is not allowed.
    """

    #: (a) what F_i is.
    feature: str = setting(
        "norm1",
        "What the subject network hands over: the input (norm1) or output (attn1) of its self-attention.",
        ("norm1", "attn1"),
    )
    #: (b) "level": a base layer reads a feature of its level and side; "one_to_one": only the base layers from which
    #: the copy's layers were initialised do.
    pairing: str = setting(
        "level",
        "level: every self-attention layer of the model reads the subject. one_to_one: fewer do (10 of 16 in SD 1.x), "
        "which is faster.",
        ("level", "one_to_one"),
    )
    #: (c) the copy's latent input: "noisy", x_t + I'', or "reference", I'' alone; "cached": I'' alone, at timestep 0
    #: and without a text (:meth:`SubjectCopy.cached`).
    copy_input: str = setting(
        "noisy",
        "What the subject network sees. noisy: the noisy image plus the reference, as in the paper. reference: only "
        "the reference. cached: the reference without the prompt and at timestep 0, so that it runs once and not at "
        "every step; of the photo only the subject is used.",
        ("noisy", "reference", "cached"),
    )
    #: (l) whether the frozen U-Net's cross-attention queries get z + eps_t Z'(copy's norm2 output).
    cross_attention: bool = setting(True, "Let the subject also steer the queries of cross-attention.")
    #: lambda of Eq. 7.
    lam: float = setting(
        0.2,
        "Lambda: how much of the subject's features is added to the values of self-attention.",
        low=-10.0,
        high=10.0,
        step=0.01,
    )
    #: (k) inner size d of Eq. 4.
    image_dim: int = setting(
        64, "Inner size of the attention between the reference and its CLIP features.", low=1, high=1024
    )
    #: eps_t in training: 1, or an MLP of t (Fig. 5).
    weight: str = setting(
        "one",
        "Weight of the subject during training: 1, as in the paper, or a curve that is learned along with it.",
        ("one", "learned"),
    )
    #: "full": weights of its own. "lora": the base's weights, shared with it, plus changes of low rank.
    kind: str = setting(
        "full",
        "full: the whole subject network, as in the paper. lora: low-rank changes, a small file and less memory; "
        "for SDXL.",
        ("full", "lora"),
    )
    #: Zero convolutions have ZERO_RANKS times as much.
    rank: int = setting(
        16, "Rank of lora's changes. A higher rank can learn more; the file grows with it.", low=1, high=1024
    )
    #: See :attr:`change_scale`.
    alpha: float = setting(
        0.0,
        "Alpha of lora: its changes are multiplied by alpha / rank. 0 stands for the rank, that is a factor of 1.",
        low=0.0,
        high=4096.0,
        step=1.0,
    )

    #: Of the transformer blocks that lie in a row (up to 10 in SDXL), the base's blocks 0, n, 2n ... read a feature.
    depth_stride: int = setting(
        1,
        "SDXL has up to 10 attention layers in a row: every n-th of them reads the subject. 1: all of them. SD 1.x has "
        "single layers, which always read it.",
        low=1,
        high=10,
    )

    #: Settings that subject files of format version 1 do not know; at these defaults they are left out of a file.
    LATER: ClassVar[tuple[str, ...]] = ("weight", "kind", "rank")
    #: Settings that earlier files of version 2 do not know, either, with the values that those mean.
    ADDED: ClassVar[Mapping[str, Any]] = {"alpha": 0.0, "depth_stride": 1}

    def __post_init__(self) -> None:
        check(self)

    @property
    def cached(self) -> bool:
        """Whether the features are the same in every step."""
        return self.copy_input == "cached"

    @property
    def change_scale(self) -> float:
        """The factor of all low-rank changes, alpha / rank; 1 where alpha is 0."""
        return self.alpha / self.rank if self.alpha else 1.0

    def to_dict(self) -> dict[str, Any]:
        """For a subject file's metadata; :meth:`from_dict` gives equal settings back."""
        values = as_before(asdict(self), self.ADDED)
        if all(values[name] == getattr(CopySettings, name) for name in self.LATER):
            return {name: value for name, value in values.items() if name not in self.LATER}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CopySettings:
        """From a subject file's metadata. Unknown and missing names are refused: ignoring one would silently change
        the image."""
        values = {name: getattr(cls, name) for name in cls.LATER} | dict(cls.ADDED) | dict(values)
        names = set(asdict(cls()))
        if set(values) != names:
            wrong = ", ".join(sorted(set(values) ^ names))
            raise P3SError(
                f"the settings of the subject network do not fit this version of P3S; unknown or missing: {wrong}"
            )
        return cls(**values)
