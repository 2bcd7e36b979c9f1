"""The example workflow that needs no download."""

from __future__ import annotations

from typing import Any

from tools.template_parts import PREVIEW, apply, ksampler
from tools.workflow_builder import Added, Workflow

from p3s.toyworld.scenes import scene
from p3s.toyworld.world import picture_of

ANIMAL, SCENE = "dog", 4
KNOWN = """
The toy world knows few words. Try: on the beach, on the grass, in the snow, at night, in a room, under water, in
the forest, on the road.
"""


def sketch() -> str:
    """The photo in a few letters, as web/picker/perceptual_hash.js makes them."""
    cells = picture_of(scene("heldout", SCENE, "different", ANIMAL)).unflatten(0, (8, 6)).unflatten(2, (8, 6))
    return "".join(f"{int(level):x}" for level in cells.mean((1, 3)).mul(255 / 16).flatten())


def try_without_downloads(b: Workflow) -> None:
    world, mask = toy_subject(
        b,
        "Try it now: nothing to download",
        """
**Toy World** brings small models of drawn animals and a drawn photo of two of them. They come with the pack and run
on the CPU. All other nodes are the real ones and do here what they do with Stable Diffusion, so this is a place to
learn them. It does not show how well P3S does on photos.

1. Point Picker shows the photo, with one click on the blue and white dog (+) and one on the yellow and red one (-).
Press **Run**: RNGR Mask removes the second, Train P3S learns the first.
2. Compare the pictures of the two nodes on the right: the same prompt and noise, **with and without the subject**. The
prompt never says what the dog looks like.
3. Then **right-click each point**, which gives it the opposite sign, and run again to learn the other dog. Or choose
another **scene**, click its two animals, and name its place in **Training prompt**.
""",
    )
    b.group("3  Train")
    b.column(400)
    b.note(
        "Train",
        200,
        """
**sks** is the rare word that stands for the subject. **steps**, **batch_size**, **learning_rate** and **zero_init**
suit this small world; with Stable Diffusion, start from the template **train_and_generate**.

The **blurred picture on Train P3S** is only a quick preview of the training prompt: 12 x 12 coloured cells, in which
the subject's colours come up. The pictures on the right are sharp.
""",
    )
    positive = b.add(
        "CLIPTextEncode", 110, "Training prompt", clip=world["clip"], text="a photo of a sks dog on the beach"
    )
    empty = b.add("CLIPTextEncode", 110, "Empty prompt", clip=world["clip"], text="")
    b.column(400)
    trained = b.add(
        "P3S_Train",
        430,
        model=world["model"],
        vae=world["vae"],
        reference=mask["reference"],
        positive=positive["CONDITIONING"],
        empty=empty["CONDITIONING"],
        name="toy_dog",
        steps=200,
        batch_size=2,
        learning_rate=5e-4,
        resolution=384,
        zero_init="identity",
        identifier="sks",
        preview_every=25,
    )
    b.room(PREVIEW)
    b.group("4  Generate")
    b.column(400)
    b.note(
        "Prompts",
        140,
        f"""{KNOWN}
**strength** 0 in Apply P3S gives the plain model's pictures.
""",
    )
    applied = apply(b, world["model"], trained["subject"])
    positive = b.add("CLIPTextEncode", 110, "Prompt", clip=world["clip"], text="a photo of a sks dog in the forest")
    compare(b, world, positive, empty, {"with the subject": applied["model"], "without": world["model"]})


def try_ssr_without_downloads(b: Workflow) -> None:
    world, mask = toy_subject(
        b,
        "A subject without training: nothing to download",
        """
**SSR-Encoder** draws a subject from one photo at once, without training; its pictures resemble it less than P3S's do.
Here it is the toy world's own, which learned drawn animals; the two of the photo were not among them.

1. Point Picker shows the photo, with one click on the blue and white dog (+) and one on the yellow and red one (-).
Press **Run**.
2. Compare the two SSR Encode nodes. **By the word**, nothing says which dog is meant: the heat map may lie on either.
**By the clicks**, RNGR Mask removes one dog and masks the other.
3. Compare the pictures on the right: the same prompt and noise, **by the clicks and by the word**. Then **right-click
each point**, which gives it the opposite sign, and run again.
""",
    )
    b.group("3  Encode")
    b.column(400)
    shared = {"ssr": world["ssr"], "clip": world["clip"], "clip_vision": world["clip_vision"], "query": ANIMAL}
    clicked = b.add("P3S_SSREncode", 560, "By the clicks", **shared, reference=mask["reference"], mask_mode="strict")
    b.column(400)
    named = b.add("P3S_SSREncode", 560, "By the word", **shared, image=world["photo"])
    b.group("4  Generate")
    b.column(400)
    b.note(
        "Prompts",
        140,
        f"""{KNOWN}
No rare word is needed. **strength** 0 in Apply SSR gives the plain model's pictures.
""",
    )
    models = {
        title: b.add(
            "P3S_ApplySSR", 220, f"Apply SSR, {title}", model=world["model"], embeds=made["embeds"], strength=1
        )["model"]
        for title, made in (("by the clicks", clicked), ("by the word", named))
    }
    positive = b.add("CLIPTextEncode", 110, "Prompt", clip=world["clip"], text="a photo of a dog in the forest")
    empty = b.add("CLIPTextEncode", 110, "Empty prompt", clip=world["clip"], text="")
    compare(b, world, positive, empty, models)


def toy_subject(b: Workflow, title: str, text: str) -> tuple[Added, Added]:
    """The first two groups: the world under a note, and its photo with clicks and masks."""
    b.after_a_run = "fixed"
    b.group("1  A toy world")
    b.column(420)
    b.note(title, 320, text)
    world = b.add("P3S_ToyWorld", 262, animal=ANIMAL, scene=SCENE, batch_size=4)
    b.group("2  Subject")
    b.column(440)
    picker = b.add(
        "P3S_PointPicker",
        660,
        image="",
        linked_image=world["photo"],
        points='{"v":1,"positive":[[0.677083,0.59375]],"negative":[[0.21875,0.635417]]}',
    )
    b.keep(picker, p3s_size=[384, 384], p3s_sketch=sketch())
    b.column(400)
    mask = b.add(
        "P3S_RNGRMask",
        780,
        clip_vision=world["clip_vision"],
        image=picker["image"],
        points=picker["points"],
        blur=0.4,
        grow=1,
    )
    return world, mask


def compare(b: Workflow, world: Added, positive: Added, empty: Added, models: dict[str, Any]) -> None:
    """A column for each model: the same prompt and noise, to a picture."""
    for title, model in models.items():
        b.column(400)
        sampled = ksampler(
            b,
            model,
            positive["CONDITIONING"],
            empty["CONDITIONING"],
            world["latent"],
            title=f"KSampler, {title}",
            steps=25,
            cfg=3,
            sampler_name="ddim",
            scheduler="normal",
        )
        decoded = b.add("VAEDecode", 54, samples=sampled["LATENT"], vae=world["vae"])
        b.add("PreviewImage", 480, title.capitalize(), images=decoded["IMAGE"])
