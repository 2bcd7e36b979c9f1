"""One process that trains, or several together: what they have to agree on. Several are run by accelerate."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..optional_packages import import_package

Value = TypeVar("Value")


class Alone:
    """The only process. Leaving it as a context ends what connects it to others."""

    rank, count = 0, 1

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        pass

    def wrapped(self, trainee: nn.Module) -> nn.Module:
        """The module to train through: its gradients are the means over the processes."""
        return trainee

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def any(self, flag: bool) -> bool:
        """Whether something is true in one process or more."""
        return flag

    def all(self, flag: bool) -> bool:
        """Whether something is true in all processes."""
        return not self.any(not flag)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The means of numbers over the processes."""
        return list(values)

    def first(self, value: Value) -> Value:
        """The value of the first process, whatever the others give."""
        return value


class Accelerated(Alone):
    """One of several processes; ``accelerator`` is ``accelerate.Accelerator``."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.rank, self.count = accelerator.process_index, accelerator.num_processes

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.any(False)  # none leaves while another still needs it
        gc.collect()  # a wrapper that outlives the connection can end the process badly
        self.accelerator.end_training()

    def wrapped(self, trainee: nn.Module) -> nn.Module:
        return self.accelerator.prepare_model(trainee)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def any(self, flag: bool) -> bool:
        return self.mean([float(flag)])[0] > 0

    def mean(self, values: Sequence[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, "mean").tolist()

    def first(self, value: Value) -> Value:
        held = [value]
        import_package("accelerate.utils", "accelerate", USE).broadcast_object_list(held)
        return held[0]


USE = "Several processes need"


def launched(device: str | None = None) -> tuple[Alone, str | None]:
    """This process's place among those that were launched together, and the device that it computes on.

    ``device``: the one that the user asked for, or None. Raises MissingPackageError without accelerate, TrainingError
    for a device of one process's own and for ways to share the work that need more than this.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        return Alone(), device
    accelerate = import_package("accelerate", "accelerate", USE)
    if device not in (None, "cpu"):
        raise TrainingError(f"--device {device}: with several processes each has a device of its own; leave it out")
    gpu = any(module.is_available() for module in (torch.cuda, getattr(torch, "xpu", None)) if module is not None)
    # The step has an arithmetic of its own, whatever accelerate's configuration says.
    accelerator = accelerate.Accelerator(cpu=device == "cpu" or not gpu, mixed_precision="no")
    kind = accelerator.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise TrainingError(
            f"accelerate is configured for {kind}; an SSR-Encoder is small and trained by plain data parallelism: run "
            "accelerate launch with --multi_gpu"
        )
    found = accelerator.device
    return Accelerated(accelerator), "cpu" if found.type == "cpu" else str(found)
