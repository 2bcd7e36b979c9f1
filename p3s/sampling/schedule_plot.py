"""Pictures of a schedule for people: the weight of the condition over the course of denoising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import P3SError
from .schedule import Schedule, percent_of, timestep_of

OVERSAMPLING = 3  # drawn larger and scaled down: smooth lines from a library that draws hard ones
BACKGROUND, FRAME, GRID, TEXT = (24, 26, 31), (128, 134, 145), (52, 56, 64), (214, 218, 226)
CURVE, MARK = (96, 176, 255), (255, 176, 64)


def plot_schedule(
    schedule: Schedule, size: tuple[int, int] = (512, 288), steps: Sequence[float] | None = None
) -> Tensor:
    """Picture of a schedule: denoising percent to the right (0 = noise, 1 = image), weight upward.

    size: (width, height) in pixels, at least 160 x 120. steps: timesteps (0..1000) of a sampler, marked on the curve.
    Returns [height, width, 3] float32 in 0..1. Raises P3SError if the size is too small to be legible.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    width, height = size
    if width < 160 or height < 120:
        raise P3SError(f"A schedule plot of {width} x {height} pixels is not legible; use at least 160 x 120.")
    s = OVERSAMPLING
    percents = torch.linspace(0.0, 1.0, 4 * width, dtype=torch.float64)
    known = schedule.kind != "learned" or schedule.learned
    weights = schedule.weight(timestep_of(percents)) if known else torch.zeros_like(percents)
    highest = max(1.0, float(weights.max()))
    spacing = _nice_spacing(highest)
    top = spacing * math.ceil(1.05 * highest / spacing)

    letter = min(max(height // 22, 10), 24)
    left, right, upper, lower = 4 * letter, width - 2 * letter, letter, height - 3.5 * letter
    image = Image.new("RGB", (width * s, height * s), BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=letter * s)

    def place(percent: float, weight: float) -> tuple[float, float]:
        return s * (left + percent * (right - left)), s * (lower - weight / top * (lower - upper))

    for i in range(5):
        x, y = place(i / 4, 0)
        draw.line([(x, s * upper), (x, y)], fill=GRID, width=s)
        draw.text((x, y + 0.4 * letter * s), f"{i / 4:g}", fill=TEXT, font=font, anchor="mt")
    for i in range(round(top / spacing) + 1):
        x, y = place(0, i * spacing)
        draw.line([(x, y), (s * right, y)], fill=GRID, width=s)
        draw.text((x - 0.5 * letter * s, y), f"{i * spacing:g}", fill=TEXT, font=font, anchor="rm")
    draw.line([(s * left, s * upper), place(0, 0), place(1, 0)], fill=FRAME, width=2 * s)
    wide = width >= 28 * letter
    title = "denoising percent (0 = noise, 1 = image)" if wide else "denoising percent"
    draw.text((s * (left + right) / 2, s * (height - 0.5 * letter)), title, fill=TEXT, font=font, anchor="mb")
    _text_upward(image, "weight", (s * letter, s * (upper + lower) / 2), font)

    if not known:
        middle = s * (left + right) / 2, s * (upper + lower) / 2
        draw.text(middle, "learned with the subject", fill=TEXT, font=font, anchor="mm")
    else:
        curve = torch.stack([percents, weights], 1).tolist()
        draw.line([place(percent, weight) for percent, weight in curve], fill=CURVE, width=2 * s, joint="curve")
        timesteps = torch.as_tensor([] if steps is None else steps, dtype=torch.float64)
        for percent, weight in torch.stack([percent_of(timesteps), schedule.weight(timesteps)], 1).tolist():
            x, y = place(percent, weight)
            draw.ellipse([x - 3 * s, y - 3 * s, x + 3 * s, y + 3 * s], fill=MARK)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255.0)


def _nice_spacing(top: float) -> float:
    """Distance of about five grid lines up to ``top``: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(top / 5))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= top / 5 * (1 - 1e-9))


def _text_upward(image: Any, text: str, centre: tuple[float, float], font: Any) -> None:
    """Write ``text`` turned by 90 degrees around ``centre``."""
    from PIL import Image, ImageDraw

    box = font.getbbox(text)
    label = Image.new("RGB", (math.ceil(box[2]) + 2, math.ceil(box[3]) + 2), BACKGROUND)
    ImageDraw.Draw(label).text((0, 0), text, fill=TEXT, font=font)
    label = label.rotate(90, expand=True)
    image.paste(label, (int(centre[0] - label.width / 2), int(centre[1] - label.height / 2)))
