"""What a training will need at most, found before its first step by running one without any numbers."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..network.copy_settings import CopySettings
from ..network.subject_copy import SubjectCopy
from ..network.subject_tokens import SubjectTokens
from ..network.unet import UNet
from ..network.unet_config import UNetConfig
from .examples import Example
from .losses import total_loss
from .precision import DTYPES, autocast, normalise_in_32_bits
from .settings import TrainSettings
from .step import Batch, batch_losses, compared_layers

#: Bytes that an optimiser keeps for each trained number.
STATE = {"adamw": 8, "adamw8bit": 2}
#: Upper limits of what a step of base and copy keeps, in float32 numbers: for each number of a residual block's input
#: and output, for each of a transformer block's hidden states and of as wide a text, and for each entry of an attention
#: map that L_ac compares. By :func:`estimate_memory` on SD 1.5, SD 2.x and SDXL, rounded up.
OF_RESIDUAL_BLOCK, OF_TRANSFORMER_BLOCK, OF_MAP = 10, 55, 12


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device that computes, at the time in a step when most are in use.

    ``weights`` of base and copy, ``gradients`` and ``optimizer`` stay the same whatever the picture; ``activations``
    grow with it and with the batch. Not counted: what libraries take for themselves.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def least(self) -> int:
        """What is needed at once, however small the pictures are."""
        return self.weights + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        return self.least + self.activations


class Shapes(NamedTuple):
    """Of the tensors of an :class:`Example`; ``reference``: the number of the one that it is a view of."""

    target: tuple[int, ...]
    latent: tuple[int, ...]
    tokens: tuple[int, ...]
    prompt: tuple[int, ...]
    label: int = 0
    subject: SubjectTokens | None = None
    reference: int = 0


CPU = torch.device("cpu")


def estimate_memory(
    config: UNetConfig,
    examples: Sequence[Example],
    copy_settings: CopySettings,
    settings: TrainSettings,
    device: torch.device = CPU,
) -> MemoryEstimate:
    """The memory of a training on ``device``, on a base of ``config``, held in the type of ``settings.precision``.

    One step on the largest examples is run on tensors that have shapes but no values, and what is alive in it is
    counted; that takes seconds. On a CPU a process was measured to hold up to 13 % more
    (of SD 1.5; benchmarks/README.md).
    """
    names = ("precision", "checkpointing", "optimizer", "attention_layers", "attention_norm", "gamma")
    counting = TrainSettings(**{name: getattr(settings, name) for name in names})
    kind = torch.device(device.type)
    return _estimate(config, _largest(examples, settings.batch_size), copy_settings, counting, kind)


def upper_bound(
    config: UNetConfig, examples: Sequence[Example], copy_settings: CopySettings, settings: TrainSettings
) -> MemoryEstimate:
    """At least what :func:`estimate_memory` finds on any device, from shapes alone, in a fraction of a second. Where it
    fits, that need not be known."""
    rows = _largest(examples, settings.batch_size)
    pictures = [latent for row in rows for latent in (row.target, row.latent)]
    height, width = (max(latent[axis] for latent in pictures) for axis in (-2, -1))
    text = rows[0].prompt[0]

    def tokens(level: int) -> int:
        return -(-height // 2**level) * -(-width // 2**level)

    blocks = [block for block in (*config.input_blocks, *config.output_blocks) if block.kind != "down"]
    residual = sum(tokens(block.level) * (block.in_channels + block.out_channels) for block in blocks)
    residual += 2 * 2 * tokens(config.output_blocks[0].level) * config.middle_channels
    hidden = sum((tokens(config.level(layer)) + text) * config.channels(layer) for layer in config.layers())
    base, copy = _shapes_of_networks(config, copy_settings, rows[0].tokens[-1])
    compared = compared_layers(copy, settings.attention_layers)
    heads = sum(tokens(config.level(layer)) * config.heads(config.channels(layer)) for layer in compared)
    kept = OF_RESIDUAL_BLOCK * residual + OF_TRANSFORMER_BLOCK * hidden + OF_MAP * heads * text
    if settings.checkpointing:  # a fourth to a sixth in fact
        kept //= 2
    trained = [p.numel() for p in copy.parameters()]
    weights = sum(p.numel() for p in base.parameters()) * DTYPES[settings.precision].itemsize + 4 * sum(trained)
    # Autocast has the copy's weights in 16 bits, too, and the optimiser works through one weight after the other.
    other = 2 * sum(trained) * (settings.precision != "fp32") + 4 * max(trained)
    optimizer = STATE[settings.optimizer] * sum(trained)
    return MemoryEstimate(weights, 4 * sum(trained), optimizer, 4 * len(rows) * kept + other)


@lru_cache(maxsize=16)
def _estimate(
    config: UNetConfig,
    shapes: tuple[Shapes, ...],
    copy_settings: CopySettings,
    settings: TrainSettings,
    device: torch.device,
) -> MemoryEstimate:
    from torch._subclasses.fake_tensor import FakeTensorMode  # slow to import

    base, copy = _shapes_of_networks(config, copy_settings, shapes[0].tokens[-1])
    with torch.inference_mode(False), torch.enable_grad(), FakeTensorMode(), LiveBytes() as live:
        fill(base, DTYPES[settings.precision])
        fill(copy, torch.float32)
        base.checkpointing = copy.unet.checkpointing = settings.checkpointing
        weights = bytes_of([*base.parameters(), *copy.parameters()])
        if device.type != "cpu":
            for network in (base, copy):
                normalise_in_32_bits(network)
        batch = _batch(shapes)
        live.peak = live.now
        with autocast(settings.precision, batch.x.device):
            loss = total_loss(*batch_losses(base, copy, batch, settings), settings.gamma)
        loss.backward()
    gradients = bytes_of([p.grad for p in copy.parameters() if p.grad is not None])
    trained = [p.numel() for p in copy.parameters()]
    # The optimiser works through one weight after the other, with something of its size at hand.
    in_step = max(live.peak, weights + gradients + 4 * max(trained))
    return MemoryEstimate(weights, gradients, STATE[settings.optimizer] * sum(trained), in_step - weights - gradients)


def _shapes_of_networks(config: UNetConfig, settings: CopySettings, token_dim: int) -> tuple[UNet, SubjectCopy]:
    """Base and copy of a training, on the meta device."""
    base = UNet(config, device="meta").requires_grad_(False)
    return base, SubjectCopy(config, settings, token_dim, device="meta")


def fill(network: nn.Module, dtype: torch.dtype) -> None:
    """Give a network on the meta device tensors of a type, of the kind that is made where this is called."""
    shapes = {key: weight.shape for key, weight in network.state_dict(keep_vars=True).items()}
    network.load_state_dict({key: torch.empty(shape, dtype=dtype) for key, shape in shapes.items()}, assign=True)


def _largest(examples: Sequence[Example], batch_size: int) -> tuple[Shapes, ...]:
    """A batch of those examples that need most."""
    area = max(e.learned_latent[0].numel() for e in examples)
    first = next(e for e in examples if e.learned_latent[0].numel() == area)
    same = [e for e in examples if e.learned_latent.shape == first.learned_latent.shape]
    # Of a subject network that runs once, a larger subject has more tokens, and any may be the condition.
    same.sort(key=lambda e: 0.0 if e.subject_mask is None else -float(e.subject_mask.sum()))
    rows = islice(cycle(same), batch_size)
    seen: dict[int, int] = {}
    return tuple(_shapes_of(row, seen.setdefault(id(row.latent), len(seen))) for row in rows)


def _shapes_of(example: Example, reference: int) -> Shapes:
    target, latent, tokens, prompt = (
        tuple(t.shape) for t in (example.learned_latent, example.latent, example.tokens, example.prompt)
    )
    label = 0 if example.label is None else len(example.label)
    # Of its own, because it keeps what is made of it, which has no values here.
    subject = None if example.subject_mask is None else SubjectTokens(example.subject_mask)
    return Shapes(target, latent, tokens, prompt, label, subject, reference)


def _batch(rows: Sequence[Shapes]) -> Batch:
    """What :func:`p3s.training.step.draw_batch` gives for these examples, without values."""
    x = torch.empty(len(rows), *rows[0].target)
    sources = {e: (torch.empty(e.latent), torch.empty(e.tokens)) for e in rows}
    return Batch(
        x=x,
        timesteps=torch.empty(len(rows), dtype=torch.long),
        target=torch.empty_like(x),
        context=torch.empty(len(rows), *rows[0].prompt),
        sources=tuple(sources[e] for e in rows),
        loss_mask=torch.empty_like(x[:, :1]),
        label=torch.empty(len(rows), rows[0].label) if rows[0].label else None,
        subjects=tuple(e.subject for e in rows),
    )


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """What tensors take together."""
    return sum(t.numel() * t.element_size() for t in tensors)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, ``now``, and their ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size
