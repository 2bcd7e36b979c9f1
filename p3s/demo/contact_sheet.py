"""One picture that tells a story: rows of titled panels, and a loss curve among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND, TEXT, QUIET, WARNING = (250, 250, 252), (28, 30, 36), (110, 114, 124), (178, 74, 0)
CURVE, SINGLE, GRID = (30, 100, 200), (190, 206, 228), (226, 228, 234)
MARGIN, GAP, TITLE, CAPTION = 24, 16, 26, 16  # pixels; the last two are letter sizes


@dataclass(frozen=True)
class Panel:
    """A picture [H, W, 3] in 0..1 and the words above it."""

    caption: str
    picture: Tensor


@dataclass(frozen=True)
class Row:
    """Panels side by side, all scaled to one height in pixels, under a heading (which may be empty)."""

    heading: str
    panels: Sequence[Panel]
    height: int = 200


def draw_sheet(title: str, notes: Sequence[str], rows: Sequence[Row], warning: str = "") -> Tensor:
    """The sheet, [H, W, 3] float32 in 0..1, as wide as its widest row. ``warning`` stands out below the title."""
    from PIL import Image, ImageDraw

    pictures = [[_scaled(panel.picture, row.height) for panel in row.panels] for row in rows]
    inner = max([sum(p.width for p in row) + GAP * (len(row) - 1) for row in pictures], default=0)
    lines = [(line, TITLE, TEXT) for line in _wrapped(title, TITLE, inner)]
    lines += [(line, CAPTION, WARNING) for line in _wrapped(warning, CAPTION, inner)]
    lines += [(line, CAPTION, QUIET) for note in notes for line in _wrapped(note, CAPTION, inner)]

    height = 2 * MARGIN + sum(_line_height(size) for _, size, _ in lines)
    for row in rows:
        height += GAP + (_line_height(CAPTION) if row.heading else 0) + _line_height(CAPTION) + row.height
    sheet = Image.new("RGB", (inner + 2 * MARGIN, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    def write(x: float, y: float, text: str, size: int, colour: tuple[int, int, int]) -> int:
        draw.text((x, y), text, fill=colour, font=_font(size))
        return _line_height(size)

    y = MARGIN
    for text, size, colour in lines:
        y += write(MARGIN, y, text, size, colour)
    for row, scaled in zip(rows, pictures, strict=True):
        y += GAP
        if row.heading:
            y += write(MARGIN, y, row.heading, CAPTION, TEXT)
        x = MARGIN
        for panel, picture in zip(row.panels, scaled, strict=True):
            write(x, y, panel.caption, CAPTION, QUIET)
            sheet.paste(picture, (x, y + _line_height(CAPTION)))
            x += picture.width + GAP
        y += _line_height(CAPTION) + row.height
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)


def loss_curve(losses: Sequence[float], size: tuple[int, int] = (420, 280)) -> Tensor:
    """Every step's loss in a light colour and its running mean in a strong one; ``size`` is (width, height)."""
    from PIL import Image, ImageDraw

    width, height = size
    values = np.asarray(losses, dtype=np.float64)
    window = max(1, len(values) // 10)
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    top = max(float(values.max()), 1e-9) * 1.05
    left, lower = 4 * CAPTION, height - 2 * CAPTION
    image = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(image)
    font = _font(CAPTION - 2)

    def place(step: float, loss: float) -> tuple[float, float]:
        share = (step - 1) / max(len(values) - 1, 1)
        return left + share * (width - left - CAPTION), lower - loss / top * (lower - CAPTION)

    for loss in np.linspace(0, top, 5):
        x, y = place(1, float(loss))
        draw.line([(x, y), (width - CAPTION, y)], fill=GRID)
        draw.text((x - 6, y), f"{loss:.2f}", fill=QUIET, font=font, anchor="rm")
    draw.text((left, lower + 6), "step 1", fill=QUIET, font=font)
    draw.text((width - CAPTION, lower + 6), str(len(values)), fill=QUIET, font=font, anchor="ra")
    draw.line([place(i + 1, v) for i, v in enumerate(values)], fill=SINGLE)
    # A mean over a window stands at the window's middle.
    draw.line([place(i + (window + 1) / 2, v) for i, v in enumerate(mean)], fill=CURVE, width=3)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)


def _scaled(picture: Tensor, height: int) -> Any:
    """A PIL image of the given height: large pixels stay visible as such, large pictures are averaged down."""
    from PIL import Image

    batch = picture.detach().float().cpu().permute(2, 0, 1)[None]
    size = (height, max(1, round(picture.shape[1] * height / picture.shape[0])))
    if height > picture.shape[0]:
        batch = F.interpolate(batch, size, mode="nearest-exact")
    elif height < picture.shape[0]:
        batch = F.interpolate(batch, size, mode="bicubic", antialias=True)
    return Image.fromarray((batch[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """The text in lines that fit into ``width`` pixels (a single longer word stays whole)."""
    lines: list[str] = []
    for word in text.split():
        if lines and _font(size).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _line_height(size: int) -> int:
    return round(size * 1.5)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
