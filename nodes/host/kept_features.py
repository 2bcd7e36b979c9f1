"""Features that are the same in every step, kept with the copy that gives them: from run to run, until the host unloads
it."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from ...p3s.network.injection import Features
from ...p3s.network.subject_copy import SubjectCopy

MOST = 4  # of a copy: for other photos of the subject, types and devices

#: By what else they depend on, and of which weights they are.
_Kept = OrderedDict[Hashable, tuple[Hashable, Features]]
_kept: weakref.WeakKeyDictionary[SubjectCopy, _Kept] = weakref.WeakKeyDictionary()


def features_of(copy: SubjectCopy, key: Hashable, weights: Hashable, compute: Callable[[], Features]) -> Features:
    """The features of a copy with the ``copy_input`` "cached". ``key``: all that they depend on besides the copy and,
    where it runs on those of a MODEL, its ``weights``, of which only the last are kept."""
    own = _kept.setdefault(copy, OrderedDict())
    if key not in own or own[key][0] != weights:
        own[key] = weights, compute()
        while len(own) > MOST:
            own.popitem(last=False)
    own.move_to_end(key)
    return own[key][1]


def drop(patcher: Any, unpatch_all: bool = True) -> None:
    """Forget those of a copy: the host's callback where it unloads a model. Where one patcher of a copy takes the place
    of another, as in every run, not all is unpatched, and they are kept."""
    if unpatch_all:
        _kept.pop(patcher.model, None)
