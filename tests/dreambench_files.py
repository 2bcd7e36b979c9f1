"""What the paper's protocol reads, small: photos in DreamBench's layout, random models. DREAMBENCH_PATH
names a folder of DreamBench whose photos are then used; without it photos are drawn."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from PIL import Image
from real_models import SIDE, write_real_models

from benchmarks.dreambench.data import LIST
from p3s.image_files import write_png

PROMPTS = ["a {0} {1} in the snow", "a {0} {1} on top of pink fabric", "a red {0} {1}"]
LIVE_PROMPTS = ["a {0} {1} in the snow", "a {0} {1} wearing a red hat", "a wet {0} {1}"]
QUICK = ["--prompts", "2", "--images", "2", "--sample-steps", "1", "--steps", "2", "--resolution", str(SIDE)]


def prompt_list(prompts: list[str]) -> str:
    lines = ",\n".join(f"'{prompt}'.format(unique_token, class_token)" for prompt in prompts)
    return f"prompt_list = [\n{lines}\n]\n"


def write_data(folder: Path) -> Path:
    """DreamBench's layout with two subjects (of three in the list) and four photos."""
    real = os.environ.get("DREAMBENCH_PATH")
    folder.mkdir(parents=True)
    for name in ("dog", "teapot"):
        (folder / name).mkdir()
        for number in range(2):
            if real:
                with Image.open(sorted((Path(real) / name).glob("*.jpg"))[number]) as photo:
                    photo.resize((90, 60 + 30 * number)).save(folder / name / f"{number:02}.jpg")
                continue
            picture = torch.full((60, 90, 3), 0.2 + 0.3 * number)
            picture[:, :40, 0] = picture[:, 60:, 2] = 1
            write_png(picture, folder / name / f"{number:02}.png")
    classes = "subject_name,class\ndog,dog\nbear_plushie,stuffed animal\nteapot,teapot\n"
    lists = f"Object Prompts\n\n{prompt_list(PROMPTS)}\nLive Subject Prompts\n\n{prompt_list(LIVE_PROMPTS)}"
    (folder / LIST).write_text(f"Classes\n\n{classes}\nPrompts\n\n{lists}")
    return folder


def options_of(folder: Path) -> list[str]:
    """Write data and models. Options that name them, and make the run short."""
    torch.manual_seed(0)
    files = write_real_models(folder)
    data = write_data(folder / "data")
    models = [f"--{option}={files[name]}" for option, name in (("model", "sd"), ("clip", "clip"), ("dino", "dino"))]
    return [f"--data={data}", *models, *QUICK]
