"""The weight eps_t of the condition, learned with the subject (Fig. 5)."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Timesteps run from T (pure noise) down to 0 (the finished image).
T = 1000.0


class LearnedWeight(nn.Module):
    """eps_t as a small MLP of t that is trained with the copy, in 0..2.

    Before training it is 1 at every t: the first step is then that of a training without it, and the data alone shapes
    the curve. The bound keeps it from growing without end in place of the features it multiplies.
    """

    HIDDEN = 16

    def __init__(self, **factory: Any) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, self.HIDDEN, **factory)
        self.out = nn.Linear(self.HIDDEN, 1, **factory)

    def reset(self, generator: torch.Generator) -> None:
        """Start values: a curve of 1, with hidden units that bend at places spread over 0..T."""
        with torch.no_grad():
            self.hidden.weight.normal_(std=4.0, generator=generator)
            self.hidden.bias.copy_(-self.hidden.weight[:, 0] * torch.rand(self.HIDDEN, generator=generator))
            self.out.weight.zero_()
            self.out.bias.zero_()

    # Fig. 5:  eps_t = 2 sigmoid(MLP(t / T))
    def forward(self, timesteps: Tensor) -> Tensor:
        """Weights [batch] of ``timesteps`` [batch] (0..T), in the type of the parameters, whatever autocast says."""
        device = timesteps.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            u = timesteps.to(self.hidden.weight.dtype)[:, None] / T
            return 2 * torch.sigmoid(self.out(F.silu(self.hidden(u))))[:, 0]

    @torch.no_grad()
    def curve(self) -> tuple[float, ...]:
        """The weights at t = 0, 1, ..., T, for ``Schedule.learned``."""
        exact = deepcopy(self).to("cpu", torch.float64)
        return tuple(exact(torch.arange(T + 1, dtype=torch.float64)).tolist())
