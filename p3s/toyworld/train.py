"""Train the toy world's models from nothing: ``python -m p3s.toyworld.train codec|base|clip|judge --out DIR``, then
``pack``; then ``ssr``, on the packed weights, and ``pack`` again. The base needs the finished codec.

Every command is seeded; pictures come from the "train" stream of scenes alone, the judge's from a stream of its own.
A run that was stopped (Ctrl-C, SIGTERM, --stop, --minutes) continues where it was, with the numbers of an unbroken one.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..file_writing import write_atomic
from ..network.unet import UNet
from . import operations
from .codec import Autoencoder
from .losses import LossOf, Pool, base_loss, clip_loss, codec_loss, judge_loss
from .models import Clip, Judge, TextEncoder, unet_config
from .scenes import SIDE
from .ssr import SORTS, Couples, pack_ssr, ssr_loss, untrained
from .world import SSR_FILE, WEIGHTS, load_world

EMA = 0.999
WARM_UP = 100  # steps until the learning rate is whole
LAST_RATE = 0.01  # of the learning rate, at the end
KEEP_EVERY = 250  # steps between two writings of the state


@dataclass(frozen=True)
class Settings:
    """Of a run. Only ``steps`` may change when it is continued: the learning rate's cosine ends there."""

    steps: int
    batch: int = 16
    rate: float = 1.5e-3
    seed: int = 0
    pool: int = 8000
    device: str = "cpu"
    bfloat16: bool = False
    #: Of the part "ssr" alone; see :func:`p3s.toyworld.ssr.couple`.
    pairs: str = "other"


Prepared = tuple[nn.ModuleDict, Callable[[], LossOf], dict[str, Any]]


def prepare(part: str, settings: Settings, out: Path, weights: Path) -> Prepared:
    """The models of a part, untrained; what makes their loss; and the facts that a training's result depends on."""
    facts = asdict(settings)
    if part == "ssr":
        world, layers = load_world(weights), operations if settings.bfloat16 else nn
        base = UNet.from_state_dict(world.unet.state_dict(), layers).requires_grad_(False).to(settings.device)
        trainee = untrained(world.unet, settings.seed).to(settings.device)

        def ssr() -> LossOf:
            return ssr_loss(trainee, Couples(settings.pool, out, settings.pairs), world, base, settings.device)

        return nn.ModuleDict({"ssr": trainee}), ssr, {**facts, "world": world.fingerprint()}
    del facts["pairs"]
    modules = build(part, settings)

    def others() -> LossOf:
        pool = Pool("judge" if part == "judge" else "train", settings.pool, out, settings.device)
        return LOSSES[part](modules, pool, *([trained_codec(out, settings.device)] if part == "base" else []))

    return modules, others, facts


def build(part: str, settings: Settings) -> nn.ModuleDict:
    """The models of a part that starts from nothing."""
    layers = operations if settings.bfloat16 else nn
    made: dict[str, Callable[[], dict[str, nn.Module]]] = {
        "codec": lambda: {"codec": Autoencoder(operations=layers)},
        "base": lambda: {"text": TextEncoder(), "unet": UNet(unet_config(), layers)},
        "clip": lambda: {"clip": Clip()},
        "judge": lambda: {"judge": Judge()},
    }
    return nn.ModuleDict(made[part]()).to(settings.device)


LOSSES: dict[str, Callable[..., LossOf]] = {
    "codec": codec_loss,
    "base": base_loss,
    "clip": clip_loss,
    "judge": judge_loss,
}
PARTS = (*LOSSES, "ssr")


def run(
    part: str,
    settings: Settings,
    out: Path,
    stop: int = 0,
    minutes: float = math.inf,
    weights: Path = WEIGHTS,
) -> None:
    """Train a part, or continue its training, and leave its state and averaged weights in ``out``/``part``.pt.

    ``stop``: end early after so many steps in all; ``minutes``: after so much time of this call; ``weights``: folder of
    the packed models that the SSR-Encoder is trained on. The state also lists from which step on which number of steps
    was aimed at. Raises SystemExit when it was made with other settings.
    """
    torch.manual_seed(settings.seed)
    modules, make_loss, facts = prepare(part, settings, out, weights)
    optimizer = torch.optim.AdamW(
        modules.parameters(), lr=settings.rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
    )
    average = {k: v.clone() for k, v in modules.state_dict().items()}
    file, first, spent, runs = out / f"{part}.pt", 0, 0.0, list[tuple[int, int]]()
    if file.exists():
        state = torch.load(file, weights_only=True, map_location=settings.device)
        refuse_others(state["settings"], facts, file)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        average, first, spent, runs = state["average"], state["step"], state["seconds"], state["runs"]
    last = min(stop or settings.steps, settings.steps)
    if first >= last:
        print(f"{file} has its {first} steps")
        return
    if not runs or runs[-1][1] != settings.steps:
        runs = [*runs, (first, settings.steps)]
    print(f"{part} from step {first}", flush=True)
    loss_of = make_loss()
    started, smooth = time.monotonic(), 0.0

    def save(step: int) -> None:
        state = {
            "modules": modules.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "step": step,
            "seconds": spent + time.monotonic() - started,
            "settings": facts,
            "runs": runs,
        }
        write_atomic(file, partial(torch.save, state), overwrite=True)

    with Stop() as stopped:
        for step in range(first, last):
            value = train_step(part, settings, step, modules, optimizer, loss_of)
            follow(average, modules.state_dict(), min(EMA, (1 + step) / (10 + step)))
            smooth = value if step == first else 0.98 * smooth + 0.02 * value
            done, seconds = step + 1, time.monotonic() - started
            if done % 50 == 0:
                print(f"{part} step {done}/{settings.steps} loss {smooth:.4f} {seconds:.0f} s", flush=True)
            if done == last or stopped.asked or seconds > 60 * minutes:
                break
            if done % KEEP_EVERY == 0:
                save(done)
    if part == "codec" and done == settings.steps:
        pool = Pool("train", settings.pool, out, settings.device)
        fit(average, pool.pictures[:2000].float() / 255)
    save(done)


def train_step(
    part: str,
    settings: Settings,
    step: int,
    modules: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
    loss_of: LossOf,
) -> float:
    """One step, seeded by its number, so that a continued run equals an unbroken one. Returns the loss."""
    torch.manual_seed(settings.seed * 1_000_003 + step)
    rng = random.Random(f"{part}:{settings.seed}:{step}")
    for group in optimizer.param_groups:
        group["lr"] = settings.rate * rate_at(step, settings.steps)
    value = loss_of(rng, settings.batch)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
    optimizer.step()
    return value.item()


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step: a linear warm-up, then a cosine."""
    falling = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (step + 1) / WARM_UP) * falling


@torch.no_grad()
def follow(average: dict[str, Tensor], state: Mapping[str, Tensor], decay: float) -> None:
    """Move the average towards the weights; whole numbers are copied."""
    for name, value in state.items():
        average[name].lerp_(value, 1 - decay) if value.is_floating_point() else average[name].copy_(value)


def refuse_others(stored: Mapping[str, Any], asked: Mapping[str, Any], file: Path) -> None:
    other = [name for name in asked if name != "steps" and stored.get(name) != asked[name]]
    if other:
        pairs = ", ".join(f"{name} {stored.get(name)} (asked for {asked[name]})" for name in other)
        raise SystemExit(f"{file} was trained with {pairs}: give these, or another --out")


class Stop:
    """Within, the first Ctrl-C or SIGTERM sets ``asked``; the second acts as ever."""

    asked = False

    def __enter__(self) -> Stop:
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked = True
        self.__exit__()
        print("stopping after this step; the same command continues", flush=True)


def trained_codec(out: Path, device: str = "cpu") -> Autoencoder:
    """The codec whose training in ``out`` is finished."""
    file = out / "codec.pt"
    state = torch.load(file, weights_only=True, map_location=device) if file.exists() else None
    if state is None or state["step"] < state["settings"]["steps"]:
        raise SystemExit(f"the base needs the finished codec: train it first, with --out {out}")
    return averaged_codec(state["average"]).to(device).requires_grad_(False).train(False)


def averaged_codec(average: Mapping[str, Tensor]) -> Autoencoder:
    return Autoencoder.from_state_dict({name.removeprefix("codec."): value for name, value in average.items()})


def fit(average: dict[str, Tensor], pictures: Tensor) -> None:
    """Set what the averaged codec measures on pictures: the scale of its latents, and their colours."""
    codec = averaged_codec(average).to(pictures.device)
    codec.fit(pictures)
    average.update({f"codec.{k}": v for k, v in codec.state_dict().items()})


def pack(out: Path, weights: Path) -> None:
    """Write the averaged weights of the parts in ``out`` as float16 safetensors, with how they were made in the
    metadata."""
    from safetensors.torch import save

    for part in PARTS:
        if not (out / f"{part}.pt").exists():
            continue
        state = torch.load(out / f"{part}.pt", weights_only=True, map_location="cpu")
        made = {
            **state["settings"],
            "trained_steps": state["step"],
            "runs": state["runs"],
            "seconds": round(state["seconds"]),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "side": SIDE,
        }
        if part == "ssr":
            average = {name.removeprefix("ssr."): value for name, value in state["average"].items()}
            pack_ssr(average, made, weights / SSR_FILE)
            print(f"ssr: {state['step']} steps")
            continue
        tensors = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state["average"].items()}
        packed = save(tensors, {"made": json.dumps(made, sort_keys=True)})
        write_atomic(weights / f"{part}.safetensors", partial(_write, packed), overwrite=True)
        print(f"{part}: {state['step']} steps, {len(packed) / 2**20:.1f} MiB")


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m p3s.toyworld.train", description=str(__doc__).splitlines()[0])
    parser.add_argument("part", choices=(*PARTS, "pack"))
    parser.add_argument("--steps", type=int, default=3000, help="of the whole training; the learning rate ends there")
    parser.add_argument("--batch", type=int, default=Settings.batch)
    parser.add_argument("--rate", type=float, default=Settings.rate)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--pool", type=int, default=Settings.pool, help="how many scenes are drawn")
    parser.add_argument("--stop", type=int, default=0, help="stop after this many steps; a later run resumes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time; a later run resumes")
    parser.add_argument("--device", default=Settings.device)
    parser.add_argument(
        "--bfloat16", action="store_true", help="codec, base and ssr: faster where the processor has it"
    )
    parser.add_argument(
        "--pairs", choices=SORTS, default=Settings.pairs, help="ssr: targets are the references, or also other pictures"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; their number decides the last bits")
    parser.add_argument("--out", type=Path, required=True, help="folder for states and drawn scenes")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="of the packed models: for pack and ssr")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.part == "pack":
        pack(args.out, args.weights)
    else:
        settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
        run(args.part, settings, args.out, args.stop, args.minutes, args.weights)


if __name__ == "__main__":
    main()
