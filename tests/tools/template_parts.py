"""What several of the example workflows have in common."""

from __future__ import annotations

from typing import Any

from tools.workflow_builder import Added, Workflow

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
VISION = "clip-vit-large-patch14.safetensors"
CONTROLNET = "control_v11p_sd15_canny_fp16.safetensors"
SSR = ("ssr_aligner.safetensors", "ssr_layers.safetensors")
# Where a file is to be had, and its folder in models: with it the editor offers to download what is missing.
HUB = "https://huggingface.co"
SOURCES = {
    CHECKPOINT: (f"{HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{CHECKPOINT}", "checkpoints"),
    VISION: (f"{HUB}/openai/clip-vit-large-patch14/resolve/main/model.safetensors", "clip_vision"),
    CONTROLNET: (f"{HUB}/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/{CONTROLNET}", "controlnet"),
    **{name: (f"{HUB}/logtd/ssr_encoder/resolve/main/{name}", "ssr") for name in SSR},
}
SUBJECT = "my_subject.safetensors"
SUBJECTS = ("my_first_subject.safetensors", "my_second_subject.safetensors")
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


def row(name: str, more: str) -> str:
    url, folder = SOURCES[name]
    return f"| [{name}]({url}){more} | **{folder}** |"


ROWS = {
    "checkpoint": row(CHECKPOINT, ", or another **SD 1.5** checkpoint"),
    "vision": row(VISION, " (CLIP ViT-L/14 with its vision tower; it arrives as model.safetensors: rename it)"),
    "controlnet": row(CONTROLNET, ", or another ControlNet for SD 1.5"),
    "aligner": row(SSR[0], " (or the authors' pytorch_model.bin)"),
    "layers": row(SSR[1], " (or the authors' pytorch_model_1.bin)"),
    "subject": "| your subject, saved by Train P3S | **p3s** |",
    "subjects": "| your two subjects, saved by Train P3S | **p3s** |",
}


def needed(*rows: str) -> str:
    table = "\n".join(["| file | folder in **models** |", "|---|---|", *(ROWS[row] for row in rows)])
    return f"**Needed** (choose your own files in the nodes below)\n\n{table}"


def loader(b: Workflow, kind: str, widget: str, name: str) -> Added:
    """A loader of a model file, which says where the file is to be had."""
    height = 102 if kind == "CheckpointLoaderSimple" else 62
    node = b.add(kind, height, **{widget: name})
    url, folder = SOURCES[name]
    b.keep(node, models=[{"name": name, "url": url, "directory": folder}])
    return node


def checkpoint(b: Workflow) -> Added:
    return loader(b, "CheckpointLoaderSimple", "ckpt_name", CHECKPOINT)


def models(b: Workflow) -> tuple[Added, Added]:
    """The first group: the models."""
    b.group("1  Models")
    b.column(420)
    b.note("Models", 200, needed("checkpoint", "vision"))
    return checkpoint(b), loader(b, "CLIPVisionLoader", "clip_name", VISION)


def prompts(b: Workflow, base: Added, text: str, training: bool = False) -> tuple[Added, Added]:
    """A prompt and its negative one; in training, the empty one."""
    titles = ("Training prompt", "Empty prompt") if training else ("Prompt", "Negative prompt")
    found = [
        b.add("CLIPTextEncode", 110, title, clip=clip, text=content)
        for title, clip, content in zip(titles, [base["CLIP"]] * 2, (text, "" if training else NEGATIVE), strict=True)
    ]
    return found[0], found[1]


def generate(b: Workflow, base: Added, model: tuple[int, int], text: str, prefix: str = "P3S") -> None:
    """Two columns: from prompts to a saved picture."""
    b.column(420)
    positive, negative = prompts(b, base, text)
    latent = b.add("EmptyLatentImage", 118, width=512, height=512, batch_size=1)
    sampled = b.add(
        "KSampler",
        262,
        model=model,
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        latent_image=latent["LATENT"],
        **SAMPLER,
    )
    save(b, sampled, base["VAE"], prefix)


def save(b: Workflow, sampled: Added, vae: tuple[int, int], prefix: str = "P3S") -> None:
    b.column(400)
    decoded = b.add("VAEDecode", 54, samples=sampled["LATENT"], vae=vae)
    b.add("SaveImage", 480, images=decoded["IMAGE"], filename_prefix=prefix)


def train(b: Workflow, title: str, base: Added, reference: Added, prompt: str, name: str, identifier: str) -> Added:
    """Two columns: prompts and a training, with its loss."""
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
    )
    b.room(PREVIEW)
    return trained


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


def weight_schedule(b: Workflow) -> Added:
    """With the weights at the steps of the templates' sampler marked."""
    added = b.add("P3S_WeightSchedule", 480)
    b.keep(added, p3s_steps=SAMPLER["steps"])
    return added


def apply(b: Workflow, model: Any, subject: Any, title: str = "", **more: Any) -> Added:
    return b.add("P3S_Apply", 300, title, model=model, subject=subject, **more)
