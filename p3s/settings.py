"""What a user may set: the default, the range or choices, and the help of every setting, each in one place.

The dataclasses of settings describe their fields with :func:`setting`. From that come their own checks (:func:`check`),
the nodes' inputs, the options of the command line, the rows of the help pages and the English locale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import P3SError, shown


@dataclass(frozen=True)
class Setting:
    """One setting.

    default: its type is the setting's; a number is whole where the default is an int. help: one or a few sentences.
    choices: of a text, all that it may be. low, high: the ends of a number's range, both allowed. step: by how much a
    widget changes a number.
    """

    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    step: float | None = None

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, int):
            return f"a whole number in {self.low}..{self.high}"
        return f"a number in {self.low:g}..{self.high:g}"

    def allows(self, value: Any) -> bool:
        """Whether ``value`` is of the setting's choices or range. Of other kinds of settings any is."""
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if isinstance(self.default, bool):
            return isinstance(value, bool)
        if isinstance(self.default, int):
            return isinstance(value, int) and is_number(value, self.low, self.high)
        return not isinstance(self.default, float) or is_number(value, self.low, self.high)


def setting(default: Any, help: str, choices: tuple[str, ...] = (), **limits: float) -> Any:
    """A dataclass field that is a setting, see :class:`Setting`."""
    return field(default=default, metadata={"setting": Setting(default, help, choices, **limits)})


def settings_of(kind: type) -> dict[str, Setting]:
    """name -> setting, of the fields of a dataclass that :func:`setting` describes."""
    return {f.name: f.metadata["setting"] for f in fields(kind) if "setting" in f.metadata}


def check(settings: Any, error: type[P3SError] = P3SError, prefix: str = "") -> None:
    """Raise ``error``, which names the setting, what is expected and what came, for a value that is not allowed."""
    for name, each in settings_of(type(settings)).items():
        value = getattr(settings, name)
        if not each.allows(value):
            raise error(f"{prefix}{name} must be {each.expected}; got {shown(value)}")


def as_before(values: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` by name as versions without the settings in ``added`` wrote them: without those of these settings that
    have the value given there."""
    return {name: value for name, value in values.items() if name not in added or value != added[name]}


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether ``value`` is a real number (not a bool, not NaN) in low..high."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
