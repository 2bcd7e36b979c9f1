"""Counting the memory that a real training takes."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Alive(TorchDispatchMode):
    """Counts what networks and the tensors of a real training take."""

    def __init__(self, weights):
        super().__init__()
        self.known = weakref.WeakKeyDictionary({weight.untyped_storage(): None for weight in weights})
        self.now = self.peak = sum(storage.nbytes() for storage in self.known)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.known:
                storage = tensor.untyped_storage()
                self.known[storage] = None
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
                self.peak = max(self.peak, self.now)
        return result

    def free(self, size):
        self.now -= size
