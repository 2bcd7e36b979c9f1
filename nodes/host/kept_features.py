"""Features that are the same in every step, kept with the copy that gives them: from run to run, until the host wants
the memory."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from ...p3s.network.injection import Features
from ...p3s.network.subject_copy import SubjectCopy

MOST = 4  # of a copy: for other photos of the subject, types and devices

_kept: weakref.WeakKeyDictionary[SubjectCopy, OrderedDict[Hashable, Features]] = weakref.WeakKeyDictionary()


def features_of(copy: SubjectCopy, key: Hashable, compute: Callable[[], Features]) -> Features:
    """The features of a copy with the ``copy_input`` "cached". ``key``: all that they depend on besides the copy."""
    own = _kept.setdefault(copy, OrderedDict())
    if key not in own:
        own[key] = compute()
        while len(own) > MOST:
            own.popitem(last=False)
    own.move_to_end(key)
    return own[key]


def drop(patcher: Any, unpatch_all: bool = True) -> None:
    """Forget those of a copy: the host's callback where it unloads a model. Where one patcher of a copy takes the place
    of another, as in every run, not all is unpatched, and they are kept."""
    if unpatch_all:
        _kept.pop(patcher.model, None)
