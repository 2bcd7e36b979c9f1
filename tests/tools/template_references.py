"""The example workflows in which the clicks choose a subject for other models that draw from a picture."""

from __future__ import annotations

from typing import Any

from tools.template_models import (
    CHECKPOINT,
    CLIP_L,
    FLUX2_VAE,
    FLUX_VAE,
    IPADAPTER,
    KLEIN,
    KONTEXT,
    QWEN3,
    QWEN_EDIT,
    QWEN_VAE,
    QWEN_VL,
    SAM3,
    T5,
    VISION,
    VISION_H,
    needed,
)
from tools.template_parts import (
    NO_POINTS,
    PHOTO,
    both_pointed_out,
    checkpoint,
    generate,
    ksampler,
    loader,
    loaders,
    models,
    pointed_out,
    rngr,
    save,
    train_group,
)
from tools.workflow_builder import Added, Workflow

CUT = """**Reference Picture** cuts the subject out of the clean reference. **view** *whole* keeps the scene;
**background** *plain* takes the surroundings away."""
SIZE = {"width": 1024, "height": 1024, "batch_size": 1}


def picture(b: Workflow, mask: Added, title: str = "", **more: Any) -> Added:
    return b.add("P3S_ReferencePicture", 500, title, reference=mask["reference"], **more)


def clicks_to_flux_kontext(b: Workflow) -> None:
    b.group("1  Models")
    b.column(460)
    b.note("FLUX.1 Kontext", 400, needed(KONTEXT, CLIP_L, T5, FLUX_VAE, VISION) + "\n\nAbout 18 GB in all.")
    model = loader(b, "UNETLoader", "unet_name", KONTEXT)
    clip = loaders(b, "DualCLIPLoader", 130, {"clip_name1": CLIP_L, "clip_name2": T5}, type="flux")
    vae, vision = loader(b, "VAELoader", "vae_name", FLUX_VAE), loader(b, "CLIPVisionLoader", "clip_name", VISION)
    mask = pointed_out(b, vision, "Kontext will not see it.", "Reference Picture")
    b.group("3  Reference")
    b.column(400)
    b.note("The subject as a picture", 130, f"\n{CUT}\n")
    cut = picture(b, mask)
    scaled = b.add("FluxKontextImageScale", 30, image=cut["image"])
    encoded = b.add("VAEEncode", 50, pixels=scaled["IMAGE"], vae=vae["VAE"])
    b.group("4  Generate")
    b.column(420)
    b.note(
        "Generate",
        170,
        """
Nothing is trained. Say what is to happen with the subject, and what must stay: change **dog** to yours.

The text says *the dog*, and only one is left in the reference: Kontext need not guess which.
""",
    )
    prompt = "The same dog runs along a beach at sunset, keeping its face, its colours and the markings of its fur"
    positive = b.add("CLIPTextEncode", 130, "Prompt", clip=clip["CLIP"], text=prompt)
    negative = b.add("ConditioningZeroOut", 30, conditioning=positive["CONDITIONING"])
    with_reference = b.add("ReferenceLatent", 50, conditioning=positive["CONDITIONING"], latent=encoded["LATENT"])
    guided = b.add("FluxGuidance", 62, conditioning=with_reference["CONDITIONING"], guidance=2.5)
    latent = b.add("EmptySD3LatentImage", 110, **SIZE)
    b.column(420)
    sampled = ksampler(
        b,
        model["MODEL"],
        guided["CONDITIONING"],
        negative["CONDITIONING"],
        latent["LATENT"],
        steps=20,
        cfg=1,
        sampler_name="euler",
        scheduler="simple",
    )
    save(b, sampled["LATENT"], vae["VAE"], "P3S_kontext")


def clicks_to_qwen_image_edit(b: Workflow) -> None:
    b.group("1  Models")
    b.column(460)
    b.note("Qwen-Image-Edit", 360, needed(QWEN_EDIT, QWEN_VL, QWEN_VAE, VISION) + "\n\nAbout 32 GB in all.")
    model = loader(b, "UNETLoader", "unet_name", QWEN_EDIT)
    clip = loaders(b, "CLIPLoader", 106, {"clip_name": QWEN_VL}, type="qwen_image")
    vae, vision = loader(b, "VAELoader", "vae_name", QWEN_VAE), loader(b, "CLIPVisionLoader", "clip_name", VISION)
    mask = pointed_out(b, vision, "Qwen-Image-Edit will not see it.", "Reference Picture")
    b.group("3  Reference")
    b.column(400)
    b.note("The subject as a picture", 130, f"\n{CUT}\n")
    cut = picture(b, mask)
    b.group("4  Generate")
    b.column(420)
    b.note(
        "Generate",
        130,
        """
Nothing is trained. Say what is to happen with the subject of **Picture 1**: change **dog** to yours.

Pictures 2 and 3 may be others, such as a place or clothes.
""",
    )
    shared = {"clip": clip["CLIP"], "vae": vae["VAE"], "image1": cut["image"]}
    prompt = "The dog of Picture 1 runs along a beach at sunset. Its face, colours and markings stay the same."
    positive = b.add("TextEncodeQwenImageEditPlus", 210, "Prompt", prompt=prompt, **shared)
    negative = b.add("TextEncodeQwenImageEditPlus", 210, "Negative prompt", prompt="", **shared)
    latent = b.add("EmptySD3LatentImage", 110, **SIZE)
    b.column(420)
    shifted = b.add("ModelSamplingAuraFlow", 62, model=model["MODEL"], shift=3)
    normed = b.add("CFGNorm", 86, model=shifted["MODEL"], strength=1)
    sampled = ksampler(
        b,
        normed["patched_model"],
        positive["CONDITIONING"],
        negative["CONDITIONING"],
        latent["LATENT"],
        steps=20,
        cfg=2.5,
        sampler_name="euler",
        scheduler="simple",
    )
    save(b, sampled["LATENT"], vae["VAE"], "P3S_qwen")


def clicks_to_flux2_klein(b: Workflow) -> None:
    b.group("1  Models")
    b.column(460)
    b.note(
        "FLUX.2 klein",
        400,
        needed(KLEIN, QWEN3, FLUX2_VAE, VISION)
        + """

About 12 GB in all. It needs a ComfyUI that knows FLUX.2, such as 0.33.
""",
    )
    model = loader(b, "UNETLoader", "unet_name", KLEIN)
    clip = loaders(b, "CLIPLoader", 106, {"clip_name": QWEN3}, type="flux2")
    vae, vision = loader(b, "VAELoader", "vae_name", FLUX2_VAE), loader(b, "CLIPVisionLoader", "clip_name", VISION)
    what = "Each of the two similar subjects becomes a reference of its own, from which the other one is gone."
    masks = both_pointed_out(b, vision, what, "Reference Picture")
    b.group("3  References")
    b.column(400)
    latents = []
    for mask, title in zip(masks, ("First subject", "Second subject"), strict=True):
        cut = picture(b, mask, title)
        scaled = b.add(
            "ImageScaleToTotalPixels",
            110,
            image=cut["image"],
            upscale_method="lanczos",
            megapixels=1,
            resolution_steps=16,
        )
        latents.append(b.add("VAEEncode", 50, pixels=scaled["IMAGE"], vae=vae["VAE"]))
    b.group("4  Generate")
    b.column(420)
    b.note(
        "Generate",
        130,
        """
Nothing is trained. **image 1** is the first subject, **image 2** the second, in the order of the Reference Latents:
change **dog** to yours.
""",
    )
    prompt = (
        "The dog of image 1 and the dog of image 2 run side by side along a beach at sunset. "
        "Each keeps its own face, colours and markings."
    )
    positive = b.add("CLIPTextEncode", 130, "Prompt", clip=clip["CLIP"], text=prompt)
    negative = b.add("ConditioningZeroOut", 30, conditioning=positive["CONDITIONING"])
    sides = {"positive": positive["CONDITIONING"], "negative": negative["CONDITIONING"]}
    for side in sides:
        for number, latent in enumerate(latents, start=1):
            title = f"image {number}, {side}"
            chained = b.add("ReferenceLatent", 50, title, conditioning=sides[side], latent=latent["LATENT"])
            sides[side] = chained["CONDITIONING"]
    b.column(400)
    guider = b.add("CFGGuider", 102, model=model["MODEL"], cfg=1, **sides)
    noise = b.add("RandomNoise", 86, noise_seed=1)
    sampler = b.add("KSamplerSelect", 62, sampler_name="euler")
    sigmas = b.add("Flux2Scheduler", 110, steps=4, width=1024, height=1024)
    latent = b.add("EmptyFlux2LatentImage", 110, **SIZE)
    sampled = b.add(
        "SamplerCustomAdvanced",
        110,
        noise=noise["NOISE"],
        guider=guider["GUIDER"],
        sampler=sampler["SAMPLER"],
        sigmas=sigmas["SIGMAS"],
        latent_image=latent["LATENT"],
    )
    save(b, sampled["output"], vae["VAE"], "P3S_klein")


def clicks_to_ipadapter(b: Workflow) -> None:
    """With nodes of the pack ComfyUI_IPAdapter_plus."""
    b.group("1  Models")
    b.column(460)
    b.note(
        "IPAdapter: needs another pack",
        400,
        """
**This template needs the pack [ComfyUI_IPAdapter_plus](https://github.com/cubiq/ComfyUI_IPAdapter_plus)**: without it,
the nodes of group 3 are missing.

"""
        + needed(CHECKPOINT, VISION, IPADAPTER, VISION_H)
        + """

IPAdapter Unified Loader finds the last two by their names.
""",
    )
    base, vision = checkpoint(b), loader(b, "CLIPVisionLoader", "clip_name", VISION)
    mask = pointed_out(b, vision, "IPAdapter will not see it.", "Reference Picture")
    b.group("3  IPAdapter (of another pack)")
    b.column(400)
    b.note(
        "The subject as a picture",
        170,
        """
IPAdapter reads all of a picture, the surroundings too, at 224 x 224 pixels: so the subject is cut out, and padded to a
square.

Subject too weak: raise **weight**. Prompt ignored: lower it.
""",
    )
    cut = picture(b, mask)
    square = b.add(
        "PrepImageForClipVision",
        106,
        image=cut["image"],
        interpolation="LANCZOS",
        crop_position="pad",
        sharpening=0,
    )
    b.column(400)
    loaded = b.add("IPAdapterUnifiedLoader", 82, model=base["MODEL"], preset="PLUS (high strength)")
    applied = b.add(
        "IPAdapterAdvanced",
        280,
        model=loaded["model"],
        ipadapter=loaded["ipadapter"],
        image=square["IMAGE"],
        weight=0.8,
    )
    b.group("4  Generate")
    generate(b, base, applied["MODEL"], "a photo of a dog on the beach", "P3S_ipadapter")


def clicks_to_sam3(b: Workflow) -> None:
    """SAM 3 draws the masks that the clicks ask for."""
    base, vision = models(b)
    b.group("2  Subject")
    b.column(460)
    b.note(
        "Point out the subject",
        200,
        f"""
1. **Upload your photo** in Point Picker. {PHOTO}
2. **Click the subject** you want (+), and **right-click** the similar one that is to be left out (-).

SAM 3 draws the masks from the clicks: after a run they are in the picture on RNGR Mask. (Point Picker shows none.)
""",
    )
    picker = b.add("P3S_PointPicker", 560, image="", points=NO_POINTS)
    b.group("3  Masks by SAM 3")
    b.column(420)
    b.note(
        "SAM 3",
        330,
        needed(SAM3)
        + """

It needs a ComfyUI with the node SAM3 Detect, such as 0.33.

The upper SAM3 Detect finds the subject; the lower one, with the clicks' roles swapped, what is to be removed. **Only
one subject in the photo?** Then disconnect **negative_mask** of RNGR Mask.
""",
    )
    sam = loader(b, "CheckpointLoaderSimple", "ckpt_name", SAM3)
    sides = (picker["positive_coords"], picker["negative_coords"])
    found = [
        b.add(
            "SAM3_Detect",
            190,
            title,
            model=sam["MODEL"],
            image=picker["image"],
            positive_coords=kept,
            negative_coords=left_out,
        )
        for title, (kept, left_out) in (("The subject", sides), ("What to remove", sides[::-1]))
    ]
    b.column(400)
    mask = rngr(
        b,
        vision,
        picker["image"],
        picker["points"],
        "RNGR Mask with SAM 3's masks",
        subject_mask=found[0]["masks"],
        negative_mask=found[1]["masks"],
    )
    train_group(b, base, mask)
