"""The example workflows for SDXL."""

from __future__ import annotations

from tools.template_models import SDXL, SDXL_SUBJECT, VISION, needed
from tools.template_parts import apply, apply_file, generate, loader, pointed_out, train, weight_schedule
from tools.workflow_builder import Workflow

SIDE = 1024


def train_and_generate_sdxl(b: Workflow) -> None:
    b.group("1  Models")
    b.column(420)
    b.note("Models", 240, needed(SDXL, VISION))
    base, vision = (
        loader(b, "CheckpointLoaderSimple", "ckpt_name", SDXL),
        loader(b, "CLIPVisionLoader", "clip_name", VISION),
    )
    mask = pointed_out(b, vision, "It is removed from the reference.", "training")
    b.group("3  Train")
    b.column(400)
    b.note(
        "Train on SDXL",
        190,
        """
As in **train_and_generate**, with what SDXL asks for: **kind** *lora* (a full copy would be a file of 3.7 GB),
**precision** *bf16*, **checkpointing** on and **resolution** 1024. About 8.5 GiB of GPU memory (estimated).

These settings have not been tried on real weights yet: if the subject is too weak, raise **learning_rate** or
**steps**.
""",
    )
    trained = train(
        b,
        "",
        base,
        mask,
        "a photo of a sks dog",
        "my_sdxl_subject",
        "sks",
        kind="lora",
        precision="bf16",
        checkpointing=True,
        resolution=SIDE,
        learning_rate=1e-4,
    )
    b.below("Empty prompt")
    b.add("LossGraphNode", 260, loss=trained["loss_map"], filename_prefix="loss_graph")
    b.group("4  Generate")
    b.column(420)
    b.note(
        "Generate",
        90,
        """
Use the rare word and the class in every prompt. The subject is saved to **models/p3s**, and the template
**apply_saved_subject_sdxl** uses it.
""",
    )
    schedule = weight_schedule(b)
    applied = apply(b, base["MODEL"], trained["subject"], schedule=schedule["schedule"])
    generate(b, base, applied["model"], "a photo of a sks dog on the beach", side=SIDE)


def apply_saved_subject_sdxl(b: Workflow) -> None:
    b.group("1  Model and subject")
    b.column(440)
    b.note(
        "Apply a saved subject of SDXL",
        330,
        needed(SDXL, "SDXL subject")
        + """

As **apply_saved_subject**, for subjects that **train_and_generate_sdxl** trains. Use the checkpoint the subject was
trained on; other SDXL models work too, with less likeness. Subjects of SD 1.5 are refused here: train them again on
this checkpoint.

The description says which family of models a subject fits, and gives the rare word (**sks**) that stands for it in
prompts.
""",
    )
    apply_file(b, loader(b, "CheckpointLoaderSimple", "ckpt_name", SDXL), SDXL_SUBJECT, side=SIDE)
