"""The example workflows. `python tests/tools/generate.py templates` writes them into example_workflows/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.template_models import CHECKPOINT, CONTROLNET, SUBJECT, SUBJECTS, needed
from tools.template_parts import (
    NEGATIVE,
    NO_POINTS,
    PHOTO,
    apply,
    apply_file,
    both_pointed_out,
    checkpoint,
    generate,
    ksampler,
    loader,
    models,
    pointed_out,
    prompts,
    rngr,
    save,
    train,
    train_group,
    weight_schedule,
)
from tools.template_references import (
    clicks_to_flux2_klein,
    clicks_to_flux_kontext,
    clicks_to_ipadapter,
    clicks_to_qwen_image_edit,
    clicks_to_sam3,
)
from tools.template_sdxl import apply_saved_subject_sdxl, train_and_generate_sdxl
from tools.template_ssr import subject_without_training
from tools.template_toy import try_ssr_without_downloads, try_without_downloads
from tools.workflow_builder import Workflow


def train_and_generate(b: Workflow) -> None:
    base, vision = models(b)
    mask = pointed_out(b, vision, "It is removed from the reference.", "training")
    b.group("3  Train")
    b.column(400)
    b.note(
        "Train",
        170,
        """
The prompt names the subject by a **rare word** (**sks**) and its **class** (**dog**): change the class to yours,
here and on the right.

**name**, **steps**, **precision** and **kind** are what usually matters. **steps** 250 suits one photo; **0** follows
**epochs** instead: 60 passes over 3 to 5 photos, as in the paper.

The subject is saved to **models/p3s** under **name**, and is not trained again until an input of this group changes.
""",
    )
    trained = train(b, "", base, mask, "a photo of a sks dog", "my_subject", "sks")
    b.below("Empty prompt")
    b.add("LossGraphNode", 260, loss=trained["loss_map"], filename_prefix="loss_graph")
    b.group("4  Generate")
    b.column(420)
    b.note(
        "Generate",
        120,
        """
Use the rare word and the class in every prompt.

- Subject too weak: raise **strength** in Apply P3S.
- Prompt ignored: lower it, or raise **start_percent** a little.
- Weight Schedule sets the weight over the course of denoising; without it, the paper's is used.
""",
    )
    schedule = weight_schedule(b)
    applied = apply(b, base["MODEL"], trained["subject"], schedule=schedule["schedule"])
    generate(b, base, applied["model"], "a photo of a sks dog on the beach")


def apply_saved_subject(b: Workflow) -> None:
    b.group("1  Model and subject")
    b.column(440)
    b.note(
        "Apply a saved subject",
        300,
        needed(CHECKPOINT, "subject")
        + """

Use the checkpoint the subject was trained on; others of the SD 1.5 family work too, with less likeness.

The description gives the rare word (**sks**) that stands for the subject in prompts. A subject trained in a run is
listed after it, a file copied there after a refresh (key R); a later training of the same name gets a number
(my_subject_00002).
""",
    )
    apply_file(b, checkpoint(b), SUBJECT)


def with_controlnet(b: Workflow) -> None:
    b.group("1  Model and subject")
    b.column(440)
    b.note(
        "A saved subject in a given pose",
        280,
        needed(CHECKPOINT, "subject", CONTROLNET)
        + """

The subject comes from the file, the outlines from the picture you load on the right. P3S and ControlNet change
different parts of the model, so both can be used at once, in any order.
""",
    )
    base = checkpoint(b)
    subject = b.add("P3S_LoadSubject", 106, subject_file=SUBJECT)
    applied = apply(b, base["MODEL"], subject["subject"])
    b.group("2  ControlNet")
    b.column(400)
    b.note(
        "Outlines",
        110,
        """
**Upload a picture** whose outlines the result should follow.

Subject lost to the outlines: lower the ControlNet's **strength** or **end_percent**.
""",
    )
    loaded = b.add("LoadImage", 330, image="example.png")
    outlines = b.add("Canny", 90, image=loaded["IMAGE"], low_threshold=0.4, high_threshold=0.8)
    b.add("PreviewImage", 280, "Outlines", images=outlines["IMAGE"])
    control = loader(b, "ControlNetLoader", "control_net_name", CONTROLNET)
    b.group("3  Generate")
    b.column(420)
    positive, negative = prompts(b, base, "a photo of a sks dog in the snow")
    conditions = b.add(
        "ControlNetApplyAdvanced",
        198,
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        control_net=control["CONTROL_NET"],
        image=outlines["IMAGE"],
        vae=base["VAE"],
        strength=0.8,
        start_percent=0,
        end_percent=0.8,
    )
    latent = b.add("EmptyLatentImage", 118, width=512, height=512, batch_size=1)
    b.column(420)
    sampled = ksampler(b, applied["model"], conditions["positive"], conditions["negative"], latent["LATENT"])
    save(b, sampled["LATENT"], base["VAE"])


A = {"sks": "a sks", "olis": "an olis"}


def two_similar_subjects(b: Workflow) -> None:
    b.after_a_run = "fixed"
    base, vision = models(b)
    what = "Two similar subjects are trained one by one, each with the other left out of its reference."
    masks = both_pointed_out(b, vision, what, "training")
    trained = []
    for number, (mask, word, name) in enumerate(zip(masks, ("sks", "olis"), ("first", "second"), strict=True), 3):
        b.group(f"{number}  Train the {name}")
        b.column(400)
        b.note(
            f"The {name} subject is called {word}",
            110,
            f"""
The prompt holds its own **rare word** (**{word}**) and the **class** (**dog**): change the class to yours.

The subject is saved to **models/p3s**; the template **two_subjects_with_masks** puts both into one picture.
""",
        )
        trained.append(train(b, "", base, mask, f"a photo of {A[word]} dog", f"my_{name}_subject", word))
    b.group("5  Generate each of them")
    b.column(400)
    b.note(
        "Generate",
        80,
        """
The same model, seed and scene, once with each subject: the two pictures differ in the dog.
""",
    )
    applied = [
        apply(b, base["MODEL"], one["subject"], f"Apply the {n}")
        for one, n in zip(trained, ("first", "second"), strict=True)
    ]
    latent = b.add("EmptyLatentImage", 118, width=512, height=512, batch_size=1)
    negative = b.add("CLIPTextEncode", 110, "Negative prompt", clip=base["CLIP"], text=NEGATIVE)
    for model, word, name in zip(applied, ("sks", "olis"), ("first", "second"), strict=True):
        b.column(400)
        prompt = f"a photo of {A[word]} dog on the beach"
        positive = b.add("CLIPTextEncode", 110, f"Prompt of the {name}", clip=base["CLIP"], text=prompt)
        sampled = ksampler(b, model["model"], positive["CONDITIONING"], negative["CONDITIONING"], latent["LATENT"])
        decoded = b.add("VAEDecode", 54, samples=sampled["LATENT"], vae=base["VAE"])
        b.add("SaveImage", 420, images=decoded["IMAGE"], filename_prefix=f"P3S_{name}")


def two_subjects_with_masks(b: Workflow) -> None:
    b.group("1  Model and subjects")
    b.column(440)
    b.note(
        "Two saved subjects in one picture",
        280,
        needed(CHECKPOINT, "subjects")
        + """

Each subject acts only in its half of the picture: the first on the left, the second on the right. The template
**two_similar_subjects** trains two subjects of one photo.
""",
    )
    base = checkpoint(b)
    subjects = [
        b.add("P3S_LoadSubject", 106, title, subject_file=file)
        for title, file in zip(("First", "Second"), SUBJECTS, strict=True)
    ]
    b.group("2  Where")
    b.column(400)
    b.note(
        "Masks",
        110,
        """
White is where a subject acts. The left half is drawn here; the right half is the rest. Any other mask will do; its
size does not matter, and soft edges are kept.
""",
    )
    nothing = b.add("SolidMask", 118, "The whole picture", value=0, width=512, height=512)
    half = b.add("SolidMask", 118, "Half of it", value=1, width=256, height=512)
    left = b.add(
        "MaskComposite", 146, "Left half", destination=nothing["MASK"], source=half["MASK"], x=0, y=0, operation="add"
    )
    right = b.add("InvertMask", 46, "Right half", mask=left["MASK"])
    shown = b.add("MaskToImage", 46, mask=left["MASK"])
    b.add("PreviewImage", 260, "Left half", images=shown["IMAGE"])
    b.group("3  Apply")
    b.column(400)
    b.note(
        "One after the other",
        90,
        """
Two Apply P3S nodes in a row, each with its own subject, strength and mask. Each subject adds the cost of its network to
every step.
""",
    )
    model = base["MODEL"]
    for subject, side, title in zip(subjects, (left, right), ("Apply the first", "Apply the second"), strict=True):
        model = apply(b, model, subject["subject"], title, mask=side["MASK"])["model"]
    b.group("4  Generate")
    generate(b, base, model, "a photo of two dogs, a sks dog on the left, an olis dog on the right, in the snow")


def external_inpainting(b: Workflow) -> None:
    b.after_a_run = "fixed"  # another inpainted picture would be another training
    base, vision = models(b)
    b.group("2  Subject")
    b.column(460)
    b.note(
        "A better clean reference",
        180,
        f"""
The built-in fill is blurry. Here Stable Diffusion inpaints the unwanted subject instead; any other inpainting works
too.

1. **Upload your photo** in Point Picker. {PHOTO}
2. **Click the subject**, **right-click** the one you want left out.
3. In **What is behind it**, describe what should be seen in its place.
""",
    )
    picker = b.add("P3S_PointPicker", 660, image="", points=NO_POINTS)
    b.column(400)
    scaled = b.add(
        "ImageScale",
        154,
        "Size for inpainting",
        image=picker["image"],
        upscale_method="lanczos",
        width=768,
        height=0,
        crop="disabled",
    )
    rough = rngr(b, vision, scaled["IMAGE"], picker["points"], "RNGR Mask, where it is", 660)
    wider = b.add("GrowMask", 86, mask=rough["negative_mask"], expand=12, tapered_corners=True)
    b.group("3  Inpaint")
    b.column(400)
    behind = b.add(
        "CLIPTextEncode", 110, "What is behind it", clip=base["CLIP"], text="an empty meadow, blurred background"
    )
    avoid = b.add("CLIPTextEncode", 110, "What must not be there", clip=base["CLIP"], text="dog, animal, person")
    conditions = b.add(
        "InpaintModelConditioning",
        142,
        positive=behind["CONDITIONING"],
        negative=avoid["CONDITIONING"],
        vae=base["VAE"],
        pixels=scaled["IMAGE"],
        mask=wider["MASK"],
        noise_mask=True,
    )
    sampled = ksampler(b, base["MODEL"], conditions["positive"], conditions["negative"], conditions["latent"], steps=30)
    b.column(400)
    decoded = b.add("VAEDecode", 54, samples=sampled["LATENT"], vae=base["VAE"])
    pasted = b.add(
        "ImageCompositeMasked",
        158,
        "Only there",
        destination=scaled["IMAGE"],
        source=decoded["IMAGE"],
        mask=wider["MASK"],
        x=0,
        y=0,
        resize_source=True,
    )
    clean = rngr(
        b,
        vision,
        scaled["IMAGE"],
        picker["points"],
        "RNGR Mask with the inpainted photo",
        660,
        inpainted=pasted["IMAGE"],
    )
    train_group(b, base, clean)


TEMPLATES: dict[str, Callable[[Workflow], None]] = {
    make.__name__: make
    for make in (
        train_and_generate,
        train_and_generate_sdxl,
        apply_saved_subject,
        apply_saved_subject_sdxl,
        with_controlnet,
        two_similar_subjects,
        two_subjects_with_masks,
        external_inpainting,
        subject_without_training,
        clicks_to_flux_kontext,
        clicks_to_qwen_image_edit,
        clicks_to_flux2_klein,
        clicks_to_ipadapter,
        clicks_to_sam3,
        try_without_downloads,
        try_ssr_without_downloads,
    )
}


#: Templates that not every host can open: the type of a node that it must have, and the pack that brings it, if any.
NEEDS: dict[str, tuple[str, str]] = {
    "clicks_to_flux2_klein": ("Flux2Scheduler", ""),
    "clicks_to_sam3": ("SAM3_Detect", ""),
    "clicks_to_ipadapter": ("IPAdapterAdvanced", "ComfyUI_IPAdapter_plus"),
}


def fits(name: str, info: dict[str, Any]) -> bool:
    """Whether a host, whose GET /object_info is given, has the nodes of a template."""
    return name not in NEEDS or NEEDS[name][0] in info


def build(name: str, info: dict[str, Any]) -> dict[str, Any]:
    """A template by name, for a host whose GET /object_info is given."""
    workflow = Workflow(info)
    TEMPLATES[name](workflow)
    return workflow.saved()
