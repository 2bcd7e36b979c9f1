"""What the protocol of twins reads, small: photos in DreamBench's layout, random models, image encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from real_models import SIDE, write_real_models, write_ssr

from benchmarks.dreambench.data import LIST
from benchmarks.dreambench.twins.run import Likeness
from p3s.image_files import write_png

LIVE = ["a {0} {1} in the snow", "a wet {0} {1}", "a {0} {1} in a hat"]
QUICK = ["--prompts=2", "--images=2", "--sample-steps=2", "--steps=1", f"--resolution={SIDE}"]
METHODS = ["p3s", "p3s-no-rngr", "plain", "reference-only", "ssr"]
PAIRS = ("dog-dog2.png", "dog6-dog.png", "dog6-dog2.png")


def drawn(colour: int, number: int) -> torch.Tensor:
    """A picture [60, 45, 3] of one colour; its level tells one photo of a subject from another."""
    picture = torch.full((60, 45, 3), 0.1 * number)
    picture[:, :, colour] = 1
    return picture


def write_data(folder: Path) -> Path:
    """DreamBench's layout: three dogs of three photos each, and a teapot, which is of no other's class."""
    for colour, name in enumerate(("dog", "dog2", "dog6")):
        for number in range(3):
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_png(drawn(colour, number), folder / name / f"{number + 10}.png")
    (folder / "teapot").mkdir()
    write_png(drawn(0, 7), folder / "teapot" / "10.png")
    lists = "".join(
        f"\n{heading}\n\nprompt_list = [\n" + ",\n".join(f"'{prompt}'.format(u, c)" for prompt in LIVE) + "\n]\n"
        for heading in ("Object Prompts", "Live Subject Prompts")
    )
    classes = "subject_name,class\ndog,dog\ndog2,dog\nteapot,teapot\ndog6,dog\n"
    (folder / LIST).write_text(f"Classes\n\n{classes}\nPrompts\n{lists}")
    return folder


def write_nearid(folder: Path) -> Any:
    """NearID's layout: SigLIP's vision tower under other names, and code that nobody needs. Returns the tower."""
    import transformers
    from safetensors.torch import load_file, save_file

    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"image_size": 28, "patch_size": 14}
    tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes)).eval()
    tower.save_pretrained(folder)
    weights = {f"backbone.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code = {"AutoConfig": "configuration_nearid.NearIDConfig", "AutoModel": "modeling_nearid.NearIDModel"}
    config = {"model_type": "nearid", "architectures": ["NearIDModel"], "vision_config": sizes, "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 28, "width": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return tower


def write_files(folder: Path) -> dict[str, Path]:
    """Photos, models and encoders, by what they are."""
    torch.manual_seed(0)
    paths = write_real_models(folder)
    write_nearid(folder / "nearid")
    ssr = write_ssr(folder / "ssr.safetensors")
    return paths | {"data": write_data(folder / "data"), "nearid": folder / "nearid", "ssr": ssr}


def options_of(files: dict[str, Path]) -> list[str]:
    """Options that name models, and make the run short."""
    models = [f"--model={files['sd']}", f"--clip={files['clip']}", f"--ssr={files['ssr']}"]
    return [*models, f"--encoder=clip={files['clip']}", f"--encoder=dino={files['dino']}", *QUICK]


def read_scores(folder: Path, photo: str, row: str) -> list[dict[str, Likeness]]:
    """For clicks on a and b, the likeness by the encoder's fingerprint, in the order of the run's encoders."""
    texts = [(folder / photo / row / f"scores-{side}.json").read_text() for side in "ab"]
    return [{key: Likeness(**value) for key, value in json.loads(text).items()} for text in texts]
