"""The example workflow of SSR-Encoder with its released weights."""

from __future__ import annotations

from tools.template_models import CHECKPOINT, SSR, VISION, needed
from tools.template_parts import checkpoint, generate, loader, loaders, pointed_out
from tools.workflow_builder import Workflow


def subject_without_training(b: Workflow) -> None:
    b.group("1  Models")
    b.column(420)
    b.note("Models", 280, needed(CHECKPOINT, VISION, *SSR))
    base, vision = checkpoint(b), loader(b, "CLIPVisionLoader", "clip_name", VISION)
    encoder = loaders(b, "P3S_LoadSSR", 106, {"aligner_file": SSR[0], "layers_file": SSR[1]})
    mask = pointed_out(b, vision, "SSR-Encoder will not see it.", "SSR-Encoder")
    b.group("3  Encode")
    b.column(400)
    b.note(
        "Query",
        110,
        """
**query** names the subject, in a word or a few: change **dog** to yours. The heat map shows where it looks. Nothing is
trained.
""",
    )
    encoded = b.add(
        "P3S_SSREncode",
        560,
        ssr=encoder["ssr"],
        clip=base["CLIP"],
        clip_vision=vision["CLIP_VISION"],
        query="dog",
        reference=mask["reference"],
    )
    b.group("4  Generate")
    b.column(400)
    b.note(
        "Generate",
        170,
        """
Name the subject in the prompt too.

- Subject too weak: raise **strength**, up to about 0.8.
- Prompt ignored, or the photo's layout copied: lower it.
- It has to look exactly like yours: train it, with the template **train_and_generate**.
""",
    )
    applied = b.add("P3S_ApplySSR", 220, model=base["MODEL"], embeds=encoded["embeds"])
    generate(b, base, applied["model"], "a photo of a dog on the beach")
