"""Small trainings of an SSR-Encoder: drawn pictures with captions, stand-ins of the frozen models, and a trainer.

Run by a launcher it is one process of several, which writes its state after each of ``STEPS`` steps:
``python -m torch.distributed.run ... tests/ssr_runs.py FOLDER``.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from real_models import CLIP_SIDE, write_real_models, write_tokenizer
from real_models import SIDE as FILES_SIDE
from small import SMALL, random_unet
from ssr_models import GRID, LENGTH, SIDE, VISION, rand, random_vision
from torch import Tensor

from p3s.image_files import write_png
from p3s.sampling.diffusion import NoiseSchedule
from p3s.ssr.dataset import CaptionedPictures, Reader
from p3s.ssr.processes import Alone, launched
from p3s.ssr.state_file import State, save_state
from p3s.ssr.trainer import FrozenModels, Report, RunSettings, Trainer
from p3s.ssr.training import SSRTrainSettings, start

RESOLUTION, POOL = 32, 4
STEPS = 3


def write_pictures(folder: Path, count: int = 6, captions: int = 1) -> Path:
    """Pictures, wider than high, whose left and right differ; the file that lists them."""
    lines = []
    for i in range(count):
        picture = torch.rand(40, 48, 3, generator=torch.Generator().manual_seed(i))
        picture[:, :24] *= 0.3
        write_png(picture, folder / f"{i}.png")
        texts = [f"picture {i} {j}" for j in range(captions)]
        lines.append(json.dumps({"file_name": f"{i}.png", "text": texts if captions > 1 else texts[0], "more": 1}))
    file = folder / "pictures.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def latent_of(picture: Tensor) -> Tensor:
    """Four channels, eight times eight: colours, and their mean."""
    small = torch.nn.functional.avg_pool2d(picture.movedim(-1, 0)[None], POOL)[0]
    return torch.cat([small, small.mean(0, keepdim=True)]) * 2 - 1


def text_of(texts: Sequence[str]) -> Tensor:
    """Tokens that depend on the text alone."""
    return torch.stack([rand(LENGTH, SMALL.context_dim, seed=zlib.crc32(text.encode())) for text in texts])


def frozen_models(**more: Any) -> FrozenModels:
    parts = FrozenModels(
        random_unet(), NoiseSchedule.stable_diffusion(), latent_of, text_of, random_vision(), RESOLUTION
    )
    return parts._replace(**more)


def trainer_on(
    file: Path,
    processes: Alone | None = None,
    settings: SSRTrainSettings | None = None,
    models: FrozenModels | None = None,
    facts: dict[str, str] | None = None,
    **run: Any,
) -> Trainer:
    """A training on the pictures of a file, by default of two rows a step."""
    run_settings = RunSettings(**({"steps": STEPS, "batch_size": 2, "workers": 2} | run))
    models, settings, processes = models or frozen_models(), settings or SSRTrainSettings(), processes or Alone()
    trainee = start(models.base, VISION, settings, run_settings.seed, inner=16, heads=2, scales=3)
    reader = Reader(
        CaptionedPictures(file),
        run_settings.seed,
        run_settings.batch_size,
        models.resolution,
        models.vision.size,
        run_settings.workers,
        processes.rank,
        processes.count,
    )
    return Trainer(trainee, models, reader, settings, run_settings, facts or {"the model": "small"}, processes)


def trained(trainer: Trainer, steps: int | None = None) -> list[Report]:
    """Its reports, after all its steps or so many."""
    with trainer.reader:
        return list(trainer.steps(lambda: trainer.done == steps))


def same(a: State, b: State) -> bool:
    """Whether two states are equal bit for bit."""
    tensors = [
        {**s.weights, **{f"{n} {i}": t for n, pair in s.moments.items() for i, t in enumerate(pair)}} for s in (a, b)
    ]
    rest = [(s.facts, s.settings, s.step, s.samples, set(found)) for s, found in zip((a, b), tensors, strict=True)]
    return rest[0] == rest[1] and all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


def write_files(folder: Path) -> dict[str, Path]:
    """``sd``, ``clip`` of six layers, a ``second`` one, a ``shallow`` one of two layers, and ``data``."""
    torch.manual_seed(0)
    paths = write_real_models(folder)
    import transformers  # there, or the test was skipped

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1, "patch_size": 8}
    config = transformers.CLIPVisionConfig(num_hidden_layers=6, image_size=CLIP_SIDE, **sizes)
    for name in ("deep", "second"):
        transformers.CLIPVisionModel(config).save_pretrained(folder / name)
        write_tokenizer(folder / name)
    (folder / "pictures").mkdir()
    data = write_pictures(folder / "pictures", 5, captions=2)
    return {
        "sd": paths["sd"],
        "clip": folder / "deep",
        "second": folder / "second",
        "shallow": paths["clip"],
        "data": data,
    }


def command(files: dict[str, Path], out: Path, *options: str, **other: Any) -> list[str]:
    """A training of three steps."""
    given = files | other
    models = ["--model", str(given["sd"]), "--clip", str(given["clip"]), "--device", "cpu"]
    small = [
        "--resolution",
        str(FILES_SIDE),
        "--steps",
        "3",
        "--batch-size",
        "2",
        "--workers",
        "2",
        "--learning-rate",
        "0.01",
    ]
    return ["ssr", "train", str(given["data"]), str(out), *models, *small, *options]


assert GRID * 8 == SIDE


if __name__ == "__main__":
    place, device = launched("cpu")
    assert (place.count, device) == (2, "cpu"), (place.count, device)
    folder = Path(sys.argv[1])
    training = trainer_on(folder / "pictures.jsonl", place)
    with training.reader:
        reports = []
        for report in training.steps():
            reports.append(report)
            save_state(training.state(), folder / f"{place.rank} after {report.step}.state")
    (folder / f"{place.rank}.json").write_text(json.dumps([report._asdict() for report in reports]))
    # A stop that one process asks for, and an error of one, end all.
    more = trainer_on(folder / "pictures.jsonl", place, steps=9, checkpointing=True)
    with more.reader:
        taken = len(list(more.steps(lambda: place.rank == 1 and more.done == 2)))
        try:
            broken = "" if place.rank == 0 else "broken"
            more.models = more.models._replace(latent=(lambda _: 1 / 0) if broken else latent_of)  # type: ignore[arg-type]
            next(more.steps())
            ended = "no error"
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"
    (folder / f"{place.rank}.txt").write_text(f"{taken} steps, {ended}")
    place.__exit__(None)
