"""What Apply P3S and Apply SSR are tested with, and the page docs/chaining.md that says how it went.

    python tests/host/chaining.py      write the page from the results of the last runs of test_chaining.py

Each case is another node or way of sampling; host/inside_chaining.py runs it in the host's process. The results are
kept in the tests' cache, one file for each host version; cases that it lacks keep what the page says of them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.tiny_models import cache_folder

PAGE = Path(__file__).parents[2] / "docs" / "chaining.md"
BOTH = ("before", "after")
ALONE = ("",)
INTRODUCTION = """\
# What Apply P3S and Apply SSR work with

Written by `python tests/host/chaining.py` from the results of `tests/host/test_chaining.py`, which runs every case in
ComfyUI's own process on small random models of the SD 1.5 type (under *SDXL*, of that type): do not edit by hand.
*Works* means: both the subject and the other node change the picture, and the result is, within 0.2 % of its size, what
the paper's equations give beside that node when they are written out for every row of every call, with nothing shared,
kept or left out (`tests/host/inside_literal.py`), or what the last column names as another way to the same picture.
*Refused* means: a message that says what to do, before the first step or during it.
The order is that of the MODEL wire, *before* or *after* Apply P3S. Under *Apply SSR* the same is said of that node,
whose equations are written out in `tests/host/inside_ssr_subjects.py`. Left out on SDXL: AnimateDiff-Evolved, IC-Light,
InstructPix2Pix, SpotDiffusion, and the samplers one by one.
"""


@dataclass(frozen=True)
class Case:
    """``expected`` is "works", NOTHING, or the beginning of the message of a refusal. ``peer`` is the folder of another
    pack that the case needs. ``minimum``: versions of ComfyUI before it lack the node, or are too old for that pack."""

    title: str
    orders: tuple[str, ...] = ALONE
    note: str = ""
    expected: str = "works"
    peer: str = ""
    section: str = "Other nodes on the MODEL wire"
    minimum: str = ""

    def fits(self, version: str) -> bool:
        """Whether a version of ComfyUI has the node."""
        return not self.minimum or numbers(version) >= numbers(self.minimum)


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


MODEL = "Other nodes on the MODEL wire"
PROMPT = "Conditioning"
SAMPLING = "Sampling"
TOKENS = "the mask of Apply P3S does not work together with nodes that merge or cut the tokens"
SSR = "Apply SSR"
PARTS = "the mask of Apply P3S does not work together with nodes that sample the image in parts"
SSR_PARTS = PARTS.replace("Apply P3S", SSR)
NOTHING = "the other node does not act"
TILED = "ComfyUI-TiledDiffusion"
FRAMES = {"peer": "ComfyUI-AnimateDiff-Evolved", "minimum": "0.33.0", "section": "AnimateDiff"}
STILL = "a motion module of zeros gives the images without it"

CASES: dict[str, Case] = {
    "lora": Case("LoRA", BOTH, "acts on the model, and on a subject network of kind lora"),
    "lora-bypass": Case("LoRA in bypass mode", BOTH, minimum="0.33.0"),
    "freeu": Case("FreeU", BOTH),
    "freeu-v2": Case("FreeU V2", BOTH),
    "hypertile": Case("HyperTile", BOTH, "each tile sees its own part of the subject"),
    "hypertile-with-mask": Case("HyperTile, with a mask on Apply P3S", BOTH, "remove either", TOKENS),
    "tome": Case("Token merging (ToMe)", BOTH),
    "tome-with-mask": Case("Token merging (ToMe), with a mask on Apply P3S", BOTH, "remove either", TOKENS),
    "pag": Case("Perturbed-Attention Guidance", BOTH, "the middle block is left to it"),
    "sag": Case("Self-Attention Guidance", BOTH, "the middle block is left to it"),
    "nag": Case("NAGuidance", BOTH, minimum="0.33.0"),
    "nag-with-mask": Case("NAGuidance, with a mask on Apply P3S", BOTH, minimum="0.33.0"),
    "nag-conditional": Case("NAGuidance, with guidance conditional", BOTH, minimum="0.33.0"),
    "deepshrink": Case("PatchModelAddDownscale (DeepShrink)", BOTH, "features are resized to the smaller grid"),
    "easycache": Case("EasyCache", BOTH),
    "rescale-cfg": Case("RescaleCFG", BOTH),
    "v-prediction": Case("ModelSamplingDiscrete", BOTH),
    "attention-multiply": Case("UNet Self Attention Multiply", BOTH),
    "compile": Case("TorchCompileModel", BOTH, "the picture without it; compiled in parts, as torch says in the log"),
    "compile-with-mask": Case(
        "TorchCompileModel, with a mask on Apply P3S", ("after",), "the picture without it; compiled in parts"
    ),
    "ipadapter": Case("IPAdapter Plus", BOTH, peer="ComfyUI_IPAdapter_plus"),
    "attention-couple": Case("Attention Couple (cgem156)", BOTH, peer="cgem156-ComfyUI"),
    "attention-couple-ppm": Case("Attention Couple (PPM)", BOTH, peer="ComfyUI-ppm"),
    "attention-couple-old": Case("Attention couple (laksjdjf)", BOTH, peer="attention-couple-ComfyUI"),
    "ic-light": Case("IC-Light", BOTH, peer="ComfyUI-IC-Light-Native"),
    "tiled": Case("Tiled Diffusion", BOTH, "each tile sees the whole subject", peer=TILED),
    "tiled-conditional": Case(
        "Tiled Diffusion, with guidance conditional", BOTH, "the picture of one tile at a time", peer=TILED
    ),
    "tiled-fast": Case(
        "Tiled Diffusion, in the mode fast", BOTH, "nothing is used again, because tiles may move", peer=TILED
    ),
    "tiled-moving": Case(
        "Tiled Diffusion, in the mode fast, SpotDiffusion",
        BOTH,
        "nothing is used again, because tiles may move",
        peer=TILED,
    ),
    "tiled-with-mask": Case("Tiled Diffusion, with a mask on Apply P3S", BOTH, "remove either", PARTS, TILED),
    "second-subject": Case("a second Apply P3S", BOTH),
    "context-windows": Case("Context Windows (Manual)", BOTH, "over the images of a batch: the picture without it"),
    "context-windows-fast": Case(
        "Context Windows (Manual), in the mode fast", BOTH, "over the images of a batch: the picture without it"
    ),
    "context-windows-masks": Case(
        "Context Windows (Manual), with a mask for each image",
        BOTH,
        "over the images of a batch: the picture without it",
    ),
    "animatediff": Case("AnimateDiff-Evolved", BOTH, "the subject network sees each frame by itself", **FRAMES),
    "animatediff-conditional": Case("AnimateDiff-Evolved, with guidance conditional", ("before",), **FRAMES),
    "animatediff-low-rank": Case("AnimateDiff-Evolved, with a subject of the kind lora", ("before",), **FRAMES),
    "animatediff-windows": Case("AnimateDiff-Evolved, sliding windows", BOTH, **FRAMES),
    "animatediff-fast": Case("AnimateDiff-Evolved, in the mode fast", ("before",), STILL, **FRAMES),
    "animatediff-windows-fast": Case(
        "AnimateDiff-Evolved, sliding windows, in the mode fast", ("before",), STILL, **FRAMES
    ),
    "animatediff-masks": Case(
        "AnimateDiff-Evolved, sliding windows, a mask for each frame", ("before",), STILL, **FRAMES
    ),
    "animatediff-again": Case(
        "AnimateDiff-Evolved, after a changed setting and without it again", ("before",), "weights as before", **FRAMES
    ),
    "animatediff-memory": Case(
        "AnimateDiff-Evolved, memory that is asked for", ("before",), "for the frames of a window", **FRAMES
    ),
    "controlnet": Case("ControlNet", section=PROMPT),
    "controlnet-window": Case("ControlNet for a part of the steps", section=PROMPT),
    "advanced-controlnet": Case("Advanced-ControlNet: ControlNet", section=PROMPT, peer="ComfyUI-Advanced-ControlNet"),
    "reference-controlnet": Case(
        "Advanced-ControlNet: Reference ControlNet", section=PROMPT, peer="ComfyUI-Advanced-ControlNet"
    ),
    "area": Case("Conditioning (Set Area)", note="each crop sees the whole subject", section=PROMPT),
    "area-with-mask": Case(
        "Conditioning (Set Area), with a mask on Apply P3S",
        note="use Conditioning (Set Mask)",
        expected="the mask of Apply P3S does not work together with Conditioning (Set Area)",
        section=PROMPT,
    ),
    "mask": Case("Conditioning (Set Mask)", section=PROMPT),
    "mask-bounds": Case(
        "Conditioning (Set Mask) with mask bounds", note="each crop sees the whole subject", section=PROMPT
    ),
    "mask-bounds-with-mask": Case(
        "Conditioning (Set Mask) with mask bounds, with a mask on Apply P3S",
        note="use default instead of mask bounds",
        expected=PARTS,
        section=PROMPT,
    ),
    "combine": Case("Conditioning (Combine)", section=PROMPT),
    "timesteps": Case("ConditioningSetTimestepRange", section=PROMPT),
    "hook-lora": Case("Create Hook LoRA", section=PROMPT),
    "long-prompt": Case("prompts of more than 77 tokens", section=PROMPT),
    "unequal-prompts": Case("prompts of unequal length", section=PROMPT),
    "no-guidance": Case("cfg 1", section=SAMPLING),
    "samplers": Case(
        "every sampler of KSampler", note="ancestral, second-order and adaptive ones too", section=SAMPLING
    ),
    "guiders": Case("SamplerCustomAdvanced: Basic, CFG, Dual CFG and Perp-Neg Guider", section=SAMPLING),
    "guiders-conditional": Case("the same, with guidance conditional", section=SAMPLING),
    "advanced": Case("KSampler (Advanced), a run in two parts", note="equal to one run", section=SAMPLING),
    "split-batch": Case("batches that the host splits to save memory", note="equal to one batch", section=SAMPLING),
    "batch": Case("several images in a batch", note="each equal to its own run", section=SAMPLING),
    "image-to-image": Case("image-to-image, denoise below 1", section=SAMPLING),
    "noise-mask": Case("inpainting by a noise mask", section=SAMPLING),
    "inpainting": Case("an inpainting model, its picture on one of the prompts", section=SAMPLING),
    "instruct": Case("an InstructPix2Pix model, its picture on one of the prompts", section=SAMPLING),
    "scaled-fp8": Case("a checkpoint in scaled fp8", note="of the kinds full and lora", section=SAMPLING),
    "sizes": Case("other sizes and aspect ratios than those of the training", section=SAMPLING),
    "several-gpus": Case(
        "several GPUs at once",
        note="remove the multi-GPU node",
        expected="Apply P3S does not work with several GPUs",
        section=SAMPLING,
    ),
    "ssr-lora": Case("LoRA", BOTH, section=SSR),
    "ssr-freeu": Case("FreeU", BOTH, section=SSR),
    "ssr-hypertile": Case("HyperTile", BOTH, section=SSR),
    "ssr-hypertile-with-mask": Case("HyperTile, with a mask on Apply SSR", BOTH, section=SSR),
    "ssr-tome": Case("Token merging (ToMe)", BOTH, section=SSR),
    "ssr-tome-with-mask": Case("Token merging (ToMe), with a mask on Apply SSR", BOTH, section=SSR),
    "ssr-deepshrink": Case("PatchModelAddDownscale (DeepShrink)", BOTH, section=SSR),
    "ssr-pag": Case("Perturbed-Attention Guidance", BOTH, section=SSR),
    "ssr-nag": Case("NAGuidance", BOTH, minimum="0.33.0", section=SSR),
    "ssr-ipadapter": Case("IPAdapter Plus", BOTH, peer="ComfyUI_IPAdapter_plus", section=SSR),
    "ssr-attention-couple": Case("Attention Couple (cgem156)", BOTH, peer="cgem156-ComfyUI", section=SSR),
    "ssr-attention-couple-ppm": Case("Attention Couple (PPM)", BOTH, peer="ComfyUI-ppm", section=SSR),
    "ssr-tiled": Case("Tiled Diffusion", BOTH, "each tile sees the whole subject", peer=TILED, section=SSR),
    "ssr-tiled-with-mask": Case(
        "Tiled Diffusion, with a mask on Apply SSR", BOTH, "remove either", SSR_PARTS, TILED, section=SSR
    ),
    "ssr-p3s": Case("Apply P3S", BOTH, section=SSR),
    "ssr-p3s-conditional": Case("Apply P3S, with guidance conditional", BOTH, section=SSR),
    "ssr-second": Case("a second Apply SSR", BOTH, section=SSR),
    "ssr-context-windows": Case(
        "Context Windows (Manual)", BOTH, "over the images of a batch: the picture without it", section=SSR
    ),
    "ssr-context-windows-masks": Case(
        "Context Windows (Manual), with a mask for each image",
        BOTH,
        "over the images of a batch: the picture without it",
        section=SSR,
    ),
    "ssr-animatediff": Case("AnimateDiff-Evolved", BOTH, **{**FRAMES, "section": SSR}),
    "ssr-animatediff-windows": Case("AnimateDiff-Evolved, sliding windows", BOTH, **{**FRAMES, "section": SSR}),
    "ssr-controlnet": Case("ControlNet", section=SSR),
    "ssr-reference-controlnet": Case(
        "Advanced-ControlNet: Reference ControlNet", section=SSR, peer="ComfyUI-Advanced-ControlNet"
    ),
    "ssr-area": Case("Conditioning (Set Area)", note="each crop sees the whole subject", section=SSR),
    "ssr-area-with-mask": Case(
        "Conditioning (Set Area), with a mask on Apply SSR",
        note="use Conditioning (Set Mask)",
        expected="the mask of Apply SSR does not work together with Conditioning (Set Area)",
        section=SSR,
    ),
    "ssr-mask": Case("Conditioning (Set Mask)", section=SSR),
    "ssr-hook-lora": Case("Create Hook LoRA", section=SSR),
    "ssr-long-prompt": Case("prompts of more than 77 tokens", section=SSR),
    "ssr-unequal-prompts": Case("prompts of unequal length", section=SSR),
    "ssr-no-guidance": Case("cfg 1", section=SSR),
    "ssr-guiders": Case("SamplerCustomAdvanced: Basic, Dual CFG and Perp-Neg Guider", section=SSR),
    "ssr-split-batch": Case("batches that the host splits to save memory", note="equal to one batch", section=SSR),
    "ssr-noise-mask": Case("inpainting by a noise mask", section=SSR),
}


#: Cases that are tried with the subject on the prompt alone, too: then the rows of a call read different tokens.
CONDITIONAL = ("lora", "freeu-v2", "hypertile", "pag", "deepshrink", "compile", "ipadapter", "attention-couple")
CONDITIONAL += ("controlnet", "mask", "long-prompt", "batch")


def conditional_cases() -> Iterator[tuple[str, Case]]:
    parts = "Apply P3S does not work together with a node that computes a self-attention in several parts"
    reference = replace(CASES["reference-controlnet"], expected=parts, note="set guidance to both")
    title = f"{reference.title}, with guidance conditional or mode standard"
    yield "reference-controlnet-conditional", replace(reference, title=title)
    for name in CONDITIONAL:
        yield f"{name}-conditional", replace(CASES[name], title=f"{CASES[name].title}, with guidance conditional")


ON_PROMPTS = dict(conditional_cases())
CASES |= ON_PROMPTS

NOT_SDXL = ("ic-light", "instruct", "samplers", "tiled-moving", "compile-with-mask")
FULL_SIZE = "it merges tokens at the full size alone, where SDXL has no attention"
#: Cases of SDXL whose outcome or note is another one, and long ones that are tried in one order.
SDXL_CHANGES: dict[str, dict[str, Any]] = {
    "tome": {"expected": NOTHING, "note": FULL_SIZE},
    "tome-with-mask": {"expected": NOTHING, "note": FULL_SIZE},
    "sag": {"note": "the first of the middle block's ten layers is left to it"},
    "inpainting": {"note": "of 9 channels"},
    **{name: {"orders": ("after",)} for name in ("compile", "context-windows-fast", "context-windows-masks")},
}
#: Cases that are tried on SDXL with a further ending, too; in "fast" one step's features are used in the next.
SDXL_ENDINGS = {
    "with-mask": (", with a mask on Apply P3S", ("deepshrink", "ipadapter", "attention-couple", "controlnet", "mask")),
    "conditional": (", with guidance conditional", ("pag", "freeu-v2", "controlnet")),
    "fast": (", in the mode fast", ("lora", "deepshrink", "controlnet", "mask")),
}


def sdxl_cases() -> Iterator[tuple[str, Case]]:
    sections = {MODEL: f"SDXL: {MODEL[0].lower()}{MODEL[1:]}", PROMPT: "SDXL: conditioning", SAMPLING: "SDXL: sampling"}
    for name, case in CASES.items():
        if case.section in sections and name not in NOT_SDXL and name not in ON_PROMPTS:
            section = sections[case.section]
            found = replace(case, section=section, **SDXL_CHANGES.get(name, {}))
            yield name, found
            for ending, (title, names) in SDXL_ENDINGS.items():
                if name in names:
                    yield f"{name}-{ending}", replace(found, title=case.title + title)
    edm = "Apply P3S works with models whose timesteps go up to 1000"
    yield "edm", Case("ModelSamplingContinuousEDM", BOTH, "remove it", edm, section=sections[MODEL])
    few, note = "distilled models in few steps: Turbo, Lightning, LCM", "without guidance"
    yield "few-steps", Case(few, note=note, section=sections[SAMPLING])
    yield "refiner", Case("SDXL's refiner for the last steps", note="without a subject", section=sections[SAMPLING])
    refusal = "P3S works with SD 1.x, SD 2.x and SDXL models and their fine-tunes; got SDXLRefiner"
    yield "refiner-subject", Case("Apply P3S on the refiner", expected=refusal, section=sections[SAMPLING])


CASES |= {f"sdxl-{name}": case for name, case in sdxl_cases()}

#: Cases that are tried with a subject network that runs once, where a node changes the tokens, the sizes, the rows or
#: the weights that it reads; and what differs in them.
ONCE = "A subject network that runs once"
OWN_GRID = "the subject's tokens stay on the photo's grid"
CACHED: dict[str, dict[str, Any]] = {
    "lora": {},
    "freeu-v2": {},
    "hypertile": {"note": "each tile sees the whole subject"},
    "hypertile-with-mask": {},
    "tome": {},
    "pag": {},
    "nag": {},
    "deepshrink": {"note": OWN_GRID},
    "compile": {"orders": ("after",)},
    "ipadapter": {},
    "attention-couple": {},
    "attention-couple-old": {},
    "tiled": {},
    "tiled-conditional": {},
    "second-subject": {"note": "one that sees the noisy image"},
    "context-windows": {},
    "context-windows-masks": {"orders": ("after",)},
    "controlnet": {},
    "area": {},
    "mask": {},
    "mask-bounds": {},
    "hook-lora": {},
    "unequal-prompts": {},
    "no-guidance": {},
    "guiders-conditional": {},
    "advanced": {},
    "split-batch": {},
    "batch": {},
    "inpainting": {},
    "scaled-fp8": {},
    "sizes": {"note": OWN_GRID},
    "sdxl-lora": {},
    "sdxl-deepshrink": {"note": OWN_GRID},
    "sdxl-controlnet": {},
    "sdxl-batch": {},
    "sdxl-sizes": {"note": OWN_GRID},
}


def cached_cases() -> Iterator[tuple[str, Case]]:
    for name, changes in CACHED.items():
        case = CASES[name]
        sdxl = "SDXL: " if name.startswith("sdxl-") else ""
        yield name, replace(case, title=sdxl + case.title, section=ONCE, **changes)


CASES |= {f"cached-{name}": case for name, case in list(cached_cases())}

#: Cases that share a process: few enough for minutes.
AT_ONCE = 14


def sections() -> dict[str, dict[str, Case]]:
    """The cases by their sections, in the order of the page: Apply SSR's last."""
    order = sorted(dict.fromkeys(case.section for case in CASES.values()), key=lambda section: section == SSR)
    return {section: {name: case for name, case in CASES.items() if case.section == section} for section in order}


def groups() -> dict[str, tuple[str, ...]]:
    """The cases by the process that they run in."""
    found = {}
    for section, cases in sections().items():
        names, label = list(cases), "-".join(re.findall("[a-z0-9]+", section.lower()))
        for start in range(0, len(names), AT_ONCE):
            found[f"{label}-{start // AT_ONCE + 1}"] = tuple(names[start : start + AT_ONCE])
    return found


def results_file(version: str) -> Path:
    return cache_folder() / f"chaining-{version}.json"


def read_results(version: str) -> dict[str, dict[str, dict[str, str]]]:
    """Under "cases" case -> order -> outcome, of the last run of every case; under "packs" pack -> its commit there."""
    file = results_file(version)
    return {"cases": {}, "packs": {}} | (json.loads(file.read_text()) if file.exists() else {})


def keep_results(version: str, found: dict[str, dict[str, str]], packs: dict[str, str]) -> None:
    """Outcomes take the place of older ones of the same cases."""
    told = {name: {order: text.split(":")[0] for order, text in orders.items()} for name, orders in found.items()}
    before = read_results(version)
    kept = {"cases": before["cases"] | told, "packs": before["packs"] | packs}
    results_file(version).write_text(json.dumps(kept, indent=1))


def page(results: dict[str, dict[str, dict[str, dict[str, str]]]]) -> str:
    """The page from the results: host version -> what :func:`read_results` gives."""
    versions = sorted(results, key=numbers)
    text = INTRODUCTION
    for section, cases in sections().items():
        text += f"\n## {section}\n\n| | order | " + " | ".join(f"ComfyUI {v}" for v in versions) + " | |\n"
        text += "|---" * (3 + len(versions)) + "|\n"
        for name, case in cases.items():
            for order in case.orders:
                told = [
                    results[v]["cases"].get(name, {}).get(order, "not run") if case.fits(v) else f"needs {case.minimum}"
                    for v in versions
                ]
                text += f"| {case.title} | {order} | {' | '.join(told)} | {case.note} |\n"
    text += "\n## The other packs\n\nTheir commits in these runs.\n\n| | "
    text += " | ".join(f"ComfyUI {v}" for v in versions) + " |\n" + "|---" * (1 + len(versions)) + "|\n"
    for pack in sorted({case.peer for case in CASES.values() if case.peer}, key=str.lower):
        text += f"| {pack} | " + " | ".join(results[v]["packs"].get(pack, "") for v in versions) + " |\n"
    return text


def read_page(text: str) -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    """The results that a page of :func:`page` says."""
    names = {(case.section, case.title): name for name, case in CASES.items()}
    found: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for part in text.split("\n## ")[1:]:
        section, *lines = part.splitlines()
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|"))
        versions = {i: cell.removeprefix("ComfyUI ") for i, cell in enumerate(header) if cell.startswith("ComfyUI ")}
        for row in rows:
            for i, version in versions.items():
                of = found.setdefault(version, {"cases": {}, "packs": {}})
                if (section, row[0]) in names:
                    of["cases"].setdefault(names[section, row[0]], {})[row[1]] = row[i]
                elif section == "The other packs" and row[i]:
                    of["packs"][row[0]] = row[i]
    return found


def main() -> None:
    results = read_page(PAGE.read_text()) if PAGE.exists() else {}
    for file in cache_folder().glob("chaining-*.json"):
        version = file.stem.removeprefix("chaining-")
        new, old = read_results(version), results.get(version, {"cases": {}, "packs": {}})
        results[version] = {kind: old[kind] | new[kind] for kind in new}
    PAGE.write_text(page(results))
    print(PAGE)


if __name__ == "__main__":
    main()
