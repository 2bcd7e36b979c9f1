"""What several of the example workflows have in common."""

from __future__ import annotations

from typing import Any

from tools.template_models import CHECKPOINT, SOURCES, VISION, needed
from tools.workflow_builder import Added, Workflow

PREVIEW = 460  # pixels; Train P3S grows by this much in Nodes 2.0, and while it shows a text and a picture
NO_POINTS = '{"v":1,"positive":[],"negative":[]}'
NEGATIVE = "blurry, low quality, deformed"
PHOTO = (
    "None at hand? Two dogs: [docs/images/two_dogs.jpg]"
    "(https://github.com/p3s-diffusion/ComfyUI-P3S/blob/main/docs/images/two_dogs.jpg?raw=true)"
)
MASKS_OF = """Check the masks: press **M** in the picture, then **Run RNGR Mask** there. Blue is the subject, hatched
orange is removed; the second picture on RNGR Mask is what {} sees. Not right? Move the points; the masks follow."""
LOOK = MASKS_OF.format("training")
SAMPLER = {"seed": 1, "steps": 50, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1}


def loader(b: Workflow, kind: str, widget: str, name: str) -> Added:
    """A loader of a model file, which says where the file is to be had."""
    heights = {"CheckpointLoaderSimple": 102, "UNETLoader": 86}
    return loaders(b, kind, heights.get(kind, 62), {widget: name})


def loaders(b: Workflow, kind: str, height: int, files: dict[str, str], **more: Any) -> Added:
    """A loader of one or several model files (widget -> file)."""
    node = b.add(kind, height, **files, **more)
    b.keep(node, models=[{"name": n, "url": SOURCES[n][0], "directory": SOURCES[n][1]} for n in files.values()])
    return node


def checkpoint(b: Workflow) -> Added:
    return loader(b, "CheckpointLoaderSimple", "ckpt_name", CHECKPOINT)


def models(b: Workflow) -> tuple[Added, Added]:
    """The first group: the models."""
    b.group("1  Models")
    b.column(420)
    b.note("Models", 200, needed(CHECKPOINT, VISION))
    return checkpoint(b), loader(b, "CLIPVisionLoader", "clip_name", VISION)


def prompts(b: Workflow, base: Added, text: str, training: bool = False) -> tuple[Added, Added]:
    """A prompt and its negative one; in training, the empty one."""
    titles = ("Training prompt", "Empty prompt") if training else ("Prompt", "Negative prompt")
    found = [
        b.add("CLIPTextEncode", 110, title, clip=clip, text=content)
        for title, clip, content in zip(titles, [base["CLIP"]] * 2, (text, "" if training else NEGATIVE), strict=True)
    ]
    return found[0], found[1]


def ksampler(
    b: Workflow, model: Any, positive: Any, negative: Any, latent: Any, title: str = "", **other: Any
) -> Added:
    """KSampler with the settings of SAMPLER, less the ``other`` ones."""
    wires = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return b.add("KSampler", 262, title, **wires, **SAMPLER | other)


def generate(b: Workflow, base: Added, model: tuple[int, int], text: str, prefix: str = "P3S", side: int = 512) -> None:
    """Two columns: from prompts to a saved picture of ``side`` x ``side``."""
    b.column(420)
    positive, negative = prompts(b, base, text)
    latent = b.add("EmptyLatentImage", 118, width=side, height=side, batch_size=1)
    sampled = ksampler(b, model, positive["CONDITIONING"], negative["CONDITIONING"], latent["LATENT"])
    save(b, sampled["LATENT"], base["VAE"], prefix)


def save(b: Workflow, latent: tuple[int, int], vae: tuple[int, int], prefix: str = "P3S") -> None:
    b.column(400)
    decoded = b.add("VAEDecode", 54, samples=latent, vae=vae)
    b.add("SaveImage", 480, images=decoded["IMAGE"], filename_prefix=prefix)


def train(
    b: Workflow, title: str, base: Added, reference: Added, prompt: str, name: str, identifier: str, **more: Any
) -> Added:
    """Two columns: prompts and a training, with its loss. ``more``: other settings of Train P3S."""
    positive, empty = prompts(b, base, prompt, training=True)
    b.column(400)
    trained = b.add(
        "P3S_Train",
        430,
        title,
        model=base["MODEL"],
        vae=base["VAE"],
        reference=reference["reference"],
        positive=positive["CONDITIONING"],
        empty=empty["CONDITIONING"],
        name=name,
        steps=250,
        identifier=identifier,
        **more,
    )
    b.room(PREVIEW)
    return trained


def train_group(b: Workflow, base: Added, reference: Added) -> None:
    """The fourth and last group: a training, for another template to use."""
    b.group("4  Train")
    b.column(400)
    b.note(
        "Train",
        90,
        """
As in **train_and_generate**: change the class in the prompt to yours. The subject is saved to **models/p3s**, and
the template **apply_saved_subject** uses it.
""",
    )
    train(b, "", base, reference, "a photo of a sks dog", "my_subject", "sks")


def rngr(
    b: Workflow, vision: Added | None, image: Any, points: Any, title: str = "", height: int = 780, **more: Any
) -> Added:
    assert vision
    return b.add("P3S_RNGRMask", height, title, clip_vision=vision["CLIP_VISION"], image=image, points=points, **more)


def pointed_out(b: Workflow, vision: Added, left_out: str, reader: str) -> Added:
    """The second group: a photo with clicks and its masks; what becomes of the one left out, who reads the rest."""
    b.group("2  Subject")
    b.column(460)
    b.note(
        "Point out the subject",
        200,
        f"""
1. **Upload your photo** in Point Picker. {PHOTO}
2. **Click the subject** you want (+).
3. **Right-click** a similar one you want left out (-). {left_out}
4. {MASKS_OF.format(reader)} Then **Run**.
""",
    )
    picker = b.add("P3S_PointPicker", 660, image="", points=NO_POINTS)
    b.column(400)
    return rngr(b, vision, picker["image"], picker["points"])


def both_pointed_out(b: Workflow, vision: Added, what: str, reader: str) -> list[Added]:
    """The second group: a photo of two similar subjects, clicked in one picker, and the masks of each. ``what`` becomes
    of them, who reads the masks."""
    b.group("2  One photo, both subjects clicked")
    b.column(460)
    b.note(
        "Two subjects of one photo",
        220,
        f"""
{what}

1. **Upload your photo** in Point Picker. {PHOTO}
2. **Click the first** subject.
3. Press **+** below the picture and **click the second** one. Each now has the other, drawn faintly, as what to leave
out.
4. {MASKS_OF.format(reader)} Press **1** and do the same there, then **Run**.
""",
    )
    picker = b.add("P3S_PointPicker", 660, image="", points=NO_POINTS)
    b.column(400)
    return [
        rngr(b, vision, picker["image"], picker[output], f"RNGR Mask, {title}", 660)
        for output, title in (("points", "first subject"), ("points_2", "second subject"))
    ]


def weight_schedule(b: Workflow) -> Added:
    """With the weights at the steps of the templates' sampler marked."""
    added = b.add("P3S_WeightSchedule", 480)
    b.keep(added, p3s_steps=SAMPLER["steps"])
    return added


def apply(b: Workflow, model: Any, subject: Any, title: str = "", **more: Any) -> Added:
    return b.add("P3S_Apply", 300, title, model=model, subject=subject, **more)


def apply_file(b: Workflow, base: Added, subject_file: str, **size: int) -> None:
    """From a checkpoint to a picture with a subject trained earlier; ``size``: see :func:`generate`."""
    subject = b.add("P3S_LoadSubject", 106, subject_file=subject_file)
    b.add("PreviewAny", 230, "About the subject", source=subject["description"])
    b.group("2  Apply")
    b.column(400)
    schedule = weight_schedule(b)
    applied = apply(b, base["MODEL"], subject["subject"], schedule=schedule["schedule"])
    b.group("3  Generate")
    generate(b, base, applied["model"], "a photo of a sks dog in the snow", **size)
