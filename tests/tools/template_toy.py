"""The example workflow that needs no download."""

from __future__ import annotations

from tools.template_parts import PREVIEW, apply
from tools.workflow_builder import Workflow

from p3s.toyworld.scenes import scene
from p3s.toyworld.world import picture_of

ANIMAL, SCENE = "dog", 4


def sketch() -> str:
    """The photo in a few letters, as web/picker/perceptual_hash.js makes them."""
    cells = picture_of(scene("heldout", SCENE, "different", ANIMAL)).unflatten(0, (8, 6)).unflatten(2, (8, 6))
    return "".join(f"{int(level):x}" for level in cells.mean((1, 3)).mul(255 / 16).flatten())


def try_without_downloads(b: Workflow) -> None:
    b.after_a_run = "fixed"
    b.group("1  A toy world")
    b.column(420)
    b.note(
        "Try it now: nothing to download",
        320,
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
    world = b.add("P3S_ToyWorld", 242, animal=ANIMAL, scene=SCENE, batch_size=4)
    b.group("2  Subject")
    b.column(440)
    picker = b.add(
        "P3S_PointPicker",
        560,
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
    b.group("3  Train")
    b.column(400)
    b.note(
        "Train",
        120,
        """
**sks** is the rare word that stands for the subject. **steps**, **batch_size**, **learning_rate** and **zero_init**
suit this small world; with Stable Diffusion, start from the template **train_and_generate**.
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
        """
The toy world knows few words. Try: on the beach, on the grass, in the snow, at night, in a room, under water, in
the forest, on the road.

**strength** 0 in Apply P3S gives the plain model's pictures.
""",
    )
    applied = apply(b, world["model"], trained["subject"])
    positive = b.add("CLIPTextEncode", 110, "Prompt", clip=world["clip"], text="a photo of a sks dog in the forest")
    for title, model in (("with the subject", applied["model"]), ("without", world["model"])):
        b.column(400)
        sampled = b.add(
            "KSampler",
            262,
            f"KSampler, {title}",
            model=model,
            positive=positive["CONDITIONING"],
            negative=empty["CONDITIONING"],
            latent_image=world["latent"],
            seed=1,
            steps=25,
            cfg=3,
            sampler_name="ddim",
            scheduler="normal",
            denoise=1,
        )
        decoded = b.add("VAEDecode", 54, samples=sampled["LATENT"], vae=world["vae"])
        b.add("PreviewImage", 480, title.capitalize(), images=decoded["IMAGE"])
