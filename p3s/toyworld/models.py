"""The models of the toy world beside its codec: a text encoder, a small CLIP and a judge of generated pictures.

The U-Net is the project's own (:class:`p3s.network.unet.UNet`). All pictures are [batch, 48, 48, 3], values 0..1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network.unet_config import UNetConfig
from ..reference.layer_states import surgery_layers, value_attention
from ..sampling.diffusion import NoiseSchedule
from .codec import CHANNELS
from .scenes import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, vocabulary

PATCH = 4  # pixels of a picture a latent pixel, along each side
WORDS = 14  # length of an encoded text
TEXT_DIM = 64
CLIP_PATCH = 4
CLIP_DIM = 96
CLIP_JOINT = 48


def unet_config(channels: int = CHANNELS) -> UNetConfig:
    """Two resolutions (12 x 12 and 6 x 6 latent pixels), transformers at both and in the middle; of the SD 2.x type,
    whose few wide heads suit so small a network better than SD 1.x's eight."""
    return UNetConfig.build(
        model_channels=32,
        channel_mult=(2, 3),
        transformer_depth=(1, 1),
        context_dim=TEXT_DIM,
        in_channels=channels,
        out_channels=channels,
        linear_projection=True,
    )


def noise_schedule() -> NoiseSchedule:
    """Stable Diffusion's schedule, rescaled so that nothing of the picture is left at its end, with v prediction.

    Flat backgrounds can be seen through much noise: with a rest of the picture in the last step, training would teach
    the model to read a background's colour there, and samples, which start from pure noise, would be tinted.
    """
    root = NoiseSchedule.stable_diffusion().alphas_cumprod.double().sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return NoiseSchedule(root.square().float(), "v")


WORD_NUMBERS = {word: number for number, word in enumerate(vocabulary(), 1)}  # 0 fills up


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.lower().replace(",", " ").split()


def tokenize(texts: Sequence[str]) -> Tensor:
    """Word numbers [batch, 14]; 0 after the end. Raises ValueError for an unknown word or too long a text."""
    rows = []
    for text in texts:
        found = words(text)
        unknown = [word for word in found if word not in WORD_NUMBERS]
        if unknown:
            raise ValueError(f"the toy world does not know {unknown[0]!r}; it knows: {', '.join(WORD_NUMBERS)}")
        if len(found) > WORDS:
            raise ValueError(f"at most {WORDS} words fit, {text!r} has {len(found)}")
        rows.append([WORD_NUMBERS[word] for word in found] + [0] * (WORDS - len(found)))
    return torch.tensor(rows)


def _layers(dim: int, count: int, heads: int) -> nn.ModuleList:
    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )

    return nn.ModuleList(layer() for _ in range(count))


class TextEncoder(nn.Module):
    """Texts to [batch, 14, dim]."""

    def __init__(self, dim: int = TEXT_DIM, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORD_NUMBERS) + 1, dim)
        self.position = nn.Parameter(0.02 * torch.randn(WORDS, dim))
        self.layers = _layers(dim, layers, 4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Clip(nn.Module):
    """A vision transformer whose last hidden state feeds RNGR (class token first), and a text tower."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CLIP_DIM, CLIP_PATCH, stride=CLIP_PATCH)
        self.class_token = nn.Parameter(0.02 * torch.randn(CLIP_DIM))
        self.position = nn.Parameter(0.02 * torch.randn(1 + (48 // CLIP_PATCH) ** 2, CLIP_DIM))
        self.layers = _layers(CLIP_DIM, 3, 4)
        self.norm = nn.LayerNorm(CLIP_DIM)
        self.image_projection = nn.Linear(CLIP_DIM, CLIP_JOINT, bias=False)
        self.text = TextEncoder(TEXT_DIM, 2)
        self.text_projection = nn.Linear(TEXT_DIM, CLIP_JOINT, bias=False)
        self.temperature = nn.Parameter(torch.tensor(2.5))

    def _entered(self, pictures: Tensor) -> Tensor:
        """What the first layer reads."""
        x = self.patches(pictures.permute(0, 3, 1, 2) * 2 - 1).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(x), 1, -1), x], 1) + self.position

    def hidden_states(self, pictures: Tensor) -> list[Tensor]:
        """The outputs of all layers, each [batch, 1 + 144, 96], without the final norm. A picture of 0.5 is zero."""
        x = self._entered(pictures)
        states = []
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        return states

    def hidden(self, pictures: Tensor) -> Tensor:
        """The last hidden state [batch, 1 + 144, 96], without the final norm."""
        return self.hidden_states(pictures)[-1]

    def states(self, pictures: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """The named states that Eq. 1 may compare (``layer_states``), each [batch, 1 + 144, 96]."""
        outputs = self.hidden_states(pictures)
        inputs = [self._entered(pictures), *outputs[:-1]]
        first = len(inputs) - surgery_layers(len(inputs))
        path = inputs[first]
        for x, layer in zip(inputs[first:], self.layers[first:], strict=True):
            attention = cast(nn.TransformerEncoderLayer, layer).self_attn
            weight, bias = attention.in_proj_weight[2 * CLIP_DIM :], attention.in_proj_bias[2 * CLIP_DIM :]
            values = F.linear(cast(nn.TransformerEncoderLayer, layer).norm1(x), weight, bias)
            path = path + attention.out_proj(value_attention(values, attention.num_heads))
        found = {"last": outputs[-1], "penultimate": outputs[-2], "value-value": path}
        return {name: found[name] for name in names}

    def image_embedding(self, hidden: Tensor) -> Tensor:
        """Unit vectors [batch, 48] from the last hidden state."""
        return F.normalize(self.image_projection(self.norm(hidden[:, 0])), dim=-1)

    def text_embedding(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [batch, 48]."""
        tokens = tokenize(texts)
        x, present = self.text(tokens), (tokens > 0).float()[..., None]
        return F.normalize(self.text_projection((x * present).sum(1) / present.sum(1)), dim=-1)


#: What the judge says about a picture, and the choices for each.
QUESTIONS = {
    "animal": CLASSES,
    "background": tuple(BACKGROUNDS),
    "count": (1, 2),
    "body": COLOURS,
    "pattern": PATTERNS,
    "mark": COLOURS,
}


class Judge(nn.Module):
    """Log-probabilities of the answers to QUESTIONS for each picture; about the appearance only where all subjects of
    a picture share it. Trained on tinted pictures too, so that a tint of the whole picture does not fool it."""

    def __init__(self) -> None:
        super().__init__()

        def stage(inp: int, out: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(inp, out, 3, stride, 1), nn.GroupNorm(8, out), nn.SiLU()]

        self.net = nn.Sequential(*stage(3, 24, 2), *stage(24, 48, 2), *stage(48, 96, 1), *stage(96, 96, 2))
        self.head = nn.Sequential(nn.Linear(96 * 36, 128), nn.SiLU())
        self.answers = nn.ModuleDict({name: nn.Linear(128, len(choices)) for name, choices in QUESTIONS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        h = self.head(self.net(pictures.permute(0, 3, 1, 2) * 2 - 1).flatten(1))
        return {name: layer(h).log_softmax(-1) for name, layer in self.answers.items()}
