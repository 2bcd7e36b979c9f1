"""How torch computes during a training: by deterministic algorithms, on how many threads of a CPU, and how batches get
to their device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: A network with fewer parameters is computed on one thread of a CPU. More gain little, because its operators take well
#: below a millisecond, and lose much where another program wants the cores: threads spin while they wait for each other
#: (benchmarks/README.md, "On busy cores"). By size alone, because their number decides the last bits of the result.
SMALL = 50_000_000


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``. To a CUDA device it is copied from pinned memory, for which the processor does not
    wait."""
    pin = device.type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if pin else tensor).to(device, non_blocking=pin)


@contextmanager
def few_threads(network: nn.Module) -> Iterator[None]:
    """Within, torch computes on one thread if ``network`` is small and on the CPU. The former number is restored
    afterwards."""
    before = torch.get_num_threads()
    parameters = list(network.parameters())
    small = sum(p.numel() for p in parameters) < SMALL and all(p.device.type == "cpu" for p in parameters)
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if small:
            torch.set_num_threads(before)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Within, torch uses deterministic algorithms; the former state is restored afterwards.

    On a CUDA device this needs the environment variable CUBLAS_WORKSPACE_CONFIG (the host's --deterministic sets it).
    Without it torch only prefers deterministic algorithms, and runs of one seed may differ in the last bits.
    """
    cudnn: Any = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        memory.fill_uninitialized_memory,
    )
    cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = True, False, False
    try:
        torch.use_deterministic_algorithms(True)
        torch.use_deterministic_algorithms(True, warn_only=not _products_obey(device))
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = before[2:]


def _products_obey(device: torch.device) -> bool:
    """Whether matrix products can be deterministic on a device. On CUDA torch refuses one otherwise."""
    try:
        one = torch.ones(1, 1, device=device)
        one @ one
    except RuntimeError:
        return False
    return True
