"""The settings of a subject's copy: what must be the same in training and in sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..errors import P3SError

LARGEST_LAMBDA = 10.0
LARGEST_IMAGE_DIM = 1024
LARGEST_RANK = 1024


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether ``value`` is a real number (not a bool, not NaN) in low..high."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True)
class CopySettings:
    """Stored in the subject file.

    The letters are the rows of docs/method.md.
    """

    #: (a) what F_i is: "norm1", the input of the copy's self-attention, or "attn1", its output.
    feature: str = "norm1"
    #: (b) "level": every base layer reads a feature of its level and side; "one_to_one": only the base layers from
    #: which the copy's layers were initialised.
    pairing: str = "level"
    #: (c) the copy's latent input: "noisy", x_t + I'', or "reference", I'' alone.
    copy_input: str = "noisy"
    #: (l) whether the frozen U-Net's cross-attention queries get z + eps_t Z'(copy's norm2 output).
    cross_attention: bool = True
    #: lambda of Eq. 7.
    lam: float = 0.2
    #: (k) inner size d of Eq. 4.
    image_dim: int = 64
    #: eps_t in training: "one", or "learned", an MLP of t that is trained with the copy (Fig. 5).
    weight: str = "one"
    #: "full": weights of its own (the paper). "lora": the base's weights, shared with it, plus changes of low rank.
    kind: str = "full"
    #: Rank of the changes of "lora"; zero convolutions have ZERO_RANKS times as much.
    rank: int = 16

    #: Settings that subject files of format version 1 do not know; at these defaults they are left out of a file.
    LATER: ClassVar[tuple[str, ...]] = ("weight", "kind", "rank")
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "feature": ("norm1", "attn1"),
        "pairing": ("level", "one_to_one"),
        "copy_input": ("noisy", "reference"),
        "weight": ("one", "learned"),
        "kind": ("full", "lora"),
    }

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise P3SError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if not isinstance(self.cross_attention, bool):
            raise P3SError(f"cross_attention must be true or false; got {self.cross_attention!r}")
        if not is_number(self.lam, -LARGEST_LAMBDA, LARGEST_LAMBDA):
            raise P3SError(f"lam must be a number within +-{LARGEST_LAMBDA:g}; got {self.lam!r}")
        for name, largest in (("image_dim", LARGEST_IMAGE_DIM), ("rank", LARGEST_RANK)):
            if not is_number(getattr(self, name), 1, largest) or not isinstance(getattr(self, name), int):
                raise P3SError(f"{name} must be a whole number in 1..{largest}; got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """For a subject file's metadata; :meth:`from_dict` gives equal settings back."""
        values = asdict(self)
        if all(values[name] == getattr(CopySettings, name) for name in self.LATER):
            return {name: value for name, value in values.items() if name not in self.LATER}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CopySettings:
        """From a subject file's metadata. Unknown and missing names are refused: ignoring one would silently change
        the image."""
        values = {name: getattr(cls, name) for name in cls.LATER} | dict(values)
        names = set(asdict(cls()))
        if set(values) != names:
            wrong = ", ".join(sorted(set(values) ^ names))
            raise P3SError(f"the settings of the copy do not fit this version of P3S; unknown or missing: {wrong}")
        return cls(**values)
