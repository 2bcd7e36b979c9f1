"""Stable Diffusion 1.5 from files, without ComfyUI. Needs diffusers (VAE) and transformers (text encoder, CLIP)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import FamilyError, MaskError, P3SError
from ..network.unet import UNet
from ..network.unet_config import UNetConfig, unet_state
from ..reference.clip import clip_encoder, load_clip_vision, quiet
from ..reference.masks import MaskSettings
from ..reference.points import PointSet
from ..reference.rngr import Reference, make_reference
from ..reference.vision_models import patch_vision
from ..sampling.application import AppliedSubject
from ..sampling.ddim import GUIDANCE, STEPS, Over, Solver, alone, generate
from ..sampling.diffusion import NoiseSchedule, ddim
from ..settings import settings_of
from ..training.examples import training_size
from ..training.precision import autocast
from ..training.settings import RESOLUTION, TrainSettings

#: Where a checkpoint keeps its text encoder.
TEXT_PREFIX = "cond_stage_model.transformer.text_model."


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """Frozen models in float32, all on one device; see :func:`load_stable_diffusion`. Pictures are [H, W, 3], 0..1.

    ``resolution``: photos are trained at about this many pixels squared, uncropped; pictures are sampled as squares of
    this side. ``precision``: arithmetic of sampling, "fp32", "bf16" or "fp16". ``clip`` may be None where only sampling
    is wanted.
    """

    unet: UNet
    noise: NoiseSchedule
    vae: Any
    tokenizer: Any
    text_encoder: Any
    clip: Any
    resolution: int = RESOLUTION.default
    precision: str = "fp32"

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def encode_text(self, text: str) -> Tensor:
        """The U-Net's context of a prompt, [77, 768]; what does not fit is cut off, as everywhere with this model."""
        return self.encode_texts([text])[0]

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """The same of several, [texts, 77, 768]."""
        length = self.text_encoder.config.max_position_embeddings
        numbers = self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(numbers.to(self.device)).last_hidden_state.float().cpu()

    def encode_clip(self, pictures: Tensor) -> Tensor:
        """CLIP's last hidden state [batch, 257, 1024] of pictures [batch, 224, 224, 3]."""
        return clip_encoder(self._clip())(pictures)

    def reference(
        self,
        picture: Tensor,
        points: PointSet | None,
        settings: MaskSettings | None = None,
        subject_mask: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Reference:
        """``make_reference`` with this CLIP."""
        vision = patch_vision(self._clip())
        return make_reference(picture, points, vision, settings, subject_mask=subject_mask, negative_mask=negative_mask)

    @torch.no_grad()
    def encode_latent(self, picture: Tensor) -> Tensor:
        """The latent [4, h, w] of a picture [H, W, 3]: the VAE's mean times its scale.

        The picture is resized to about ``resolution`` squared in area, in its proportions.
        """
        size = training_size(picture.shape[0], picture.shape[1], self.resolution)
        pixels = functional.interpolate(picture.movedim(-1, 0)[None], size, mode="bicubic", antialias=True)
        encoded = self.vae.encode(pixels.clamp(0, 1).to(self.device) * 2 - 1).latent_dist.mode()
        return (encoded[0] * self.vae.config.scaling_factor).float().cpu()

    @torch.no_grad()
    def sample(
        self,
        prompt: str,
        seeds: Sequence[int],
        subjects: Sequence[AppliedSubject] = (),
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        over: Over = alone,
        solver: Solver = ddim,
    ) -> Tensor:
        """Pictures [len(seeds), resolution, resolution, 3] for a prompt, sampled as one batch. ``over`` and ``solver``:
        see :func:`p3s.sampling.ddim.generate`."""
        side = self.resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (self.unet.config.out_channels, side, side)
        start = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        context, empty = (self.encode_text(text).to(self.device) for text in (prompt, ""))
        start = start.to(self.device)
        with autocast(self.precision, self.device):
            *_, latents = generate(
                self.unet, context, empty, self.noise, start, subjects, steps, guidance, over, solver
            )
        pictures = self.vae.decode(latents.float() / self.vae.config.scaling_factor).sample
        return (pictures.movedim(1, -1) / 2 + 0.5).clamp(0, 1).cpu()

    def _clip(self) -> Any:
        if self.clip is None:
            raise MaskError("no CLIP vision model was given; expected the folder of openai/clip-vit-large-patch14")
        return self.clip


def load_stable_diffusion(
    model: str | Path,
    clip: str | Path | None = None,
    device: str | torch.device = "cpu",
    resolution: int = StableDiffusion.resolution,
    precision: str = StableDiffusion.precision,
) -> StableDiffusion:
    """Load Stable Diffusion 1.5, or a fine-tune of it.

    Args:
        model: a checkpoint (.safetensors), or a folder as diffusers writes it (unet, vae, text_encoder, tokenizer).
        clip: folder of openai/clip-vit-large-patch14, for its vision tower; with a checkpoint also for its tokenizer,
            which a checkpoint lacks.

    Raises:
        ImportError: diffusers or transformers is missing; says what to install.
        FamilyError: files of another family, or without one of the parts; of SDXL before its weights are read.
        P3SError: a setting outside its range.
        OSError: files that are not there.
    """
    if resolution < 64 or resolution % 64:
        raise P3SError(f"resolution must be a multiple of 64 and at least 64; got {resolution}")
    if not (known := settings_of(TrainSettings)["precision"]).allows(precision):
        raise P3SError(f"precision must be {known.expected}; got {precision!r}")
    path = Path(model)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder; expected Stable Diffusion 1.5")
    with quiet(_package("diffusers"), _package("transformers")):
        parts = _from_folder(path) if path.is_dir() else _from_checkpoint(path, clip)
        unet, noise, vae, tokenizer, text_encoder = parts
        vision = None if clip is None else load_clip_vision(clip)
        for part in (unet, vae, text_encoder, vision):
            if part is not None:
                part.to(device, torch.float32).requires_grad_(False).train(False)
    vae.enable_slicing()  # pictures are decoded one by one: their activations are the peak of memory
    return StableDiffusion(unet, noise, vae, tokenizer, text_encoder, vision, resolution, precision)


def _from_folder(path: Path) -> tuple[UNet, NoiseSchedule, Any, Any, Any]:
    import diffusers
    import transformers

    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        if not (path / part).is_dir():
            raise FamilyError(
                f"{path} lacks the folder {part}; expected a folder of Stable Diffusion 1.5 for diffusers"
            )

    config = path / "unet" / "config.json"
    if config.exists() and json.loads(config.read_text(encoding="utf-8")).get("addition_embed_type"):
        raise _sdxl(path)

    def variant(part: str) -> str | None:
        names = [file.name for file in (path / part).iterdir()]
        only_half = any(".fp16." in name for name in names) and "model.safetensors" not in {n[-17:] for n in names}
        return "fp16" if only_half else None

    def load(kind: Any, part: str) -> Any:
        return kind.from_pretrained(path / part, variant=variant(part))

    theirs = load(diffusers.UNet2DConditionModel, "unet")
    unet = UNet.from_state_dict(original_unet_state(theirs.state_dict(), theirs.config))
    scheduler = path / "scheduler" / "scheduler_config.json"
    settings = json.loads(scheduler.read_text(encoding="utf-8")) if scheduler.exists() else {}
    prediction = {"epsilon": "eps", "v_prediction": "v"}.get(kind := settings.get("prediction_type", "epsilon"), kind)
    return (
        unet,
        NoiseSchedule.stable_diffusion(prediction),
        load(diffusers.AutoencoderKL, "vae"),
        transformers.CLIPTokenizer.from_pretrained(path / "tokenizer"),
        load(transformers.CLIPTextModel, "text_encoder"),
    )


def original_unet_state(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of diffusers' U-Net under the key names of the original checkpoint.

    ``config`` is diffusers'. The names come from diffusers' own converter, which goes the other way.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    widths = config["block_out_channels"]
    ours = UNetConfig.build(
        model_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        res_blocks=config["layers_per_block"],
        transformer_depth=tuple(int("CrossAttn" in kind) for kind in config["down_block_types"]),
        context_dim=config["cross_attention_dim"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        linear_projection=config["use_linear_projection"],
    )
    names = UNet(ours, device="meta").state_dict()
    renamed = convert_ldm_unet_checkpoint({f"model.diffusion_model.{name}": name for name in names}, config)
    try:
        return {name: state[their_name] for their_name, name in renamed.items()}
    except KeyError as missing:
        raise FamilyError(f"not the U-Net of an SD 1.x model: {missing} is missing") from None


def _from_checkpoint(path: Path, clip: str | Path | None) -> tuple[UNet, NoiseSchedule, Any, Any, Any]:
    import transformers
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if clip is None:
        raise P3SError(f"{path} is a checkpoint, which holds no tokenizer: give the folder of CLIP as well")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
        if UNetConfig.from_state_dict(unet_state(shapes)).label_dim:
            raise _sdxl(path)
        state = load_file(path)
    except SafetensorError as error:
        raise FamilyError(f"{path} is not a .safetensors file that can be read ({error})") from None
    return (
        UNet.from_state_dict(state),
        NoiseSchedule.stable_diffusion(),
        _vae(state),
        transformers.CLIPTokenizer.from_pretrained(clip),
        _text_encoder(state),
    )


def _sdxl(path: Path) -> FamilyError:
    return FamilyError(
        f"{path} is an SDXL model; expected Stable Diffusion 1.5 or a fine-tune of it. In ComfyUI, Train P3S and Apply "
        "P3S take SDXL too"
    )


def _vae(state: Mapping[str, Tensor]) -> Any:
    """diffusers' AutoencoderKL with a checkpoint's weights; its configuration is read from their shapes."""
    import diffusers
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    prefix = "first_stage_model."
    shapes = {key.removeprefix(prefix): value.shape for key, value in state.items() if key.startswith(prefix)}
    widths: list[int] = []
    blocks = 0
    while (first := f"encoder.down.{len(widths)}.block.0.conv1.weight") in shapes:
        widths.append(shapes[first][0])
    while f"encoder.down.0.block.{blocks}.conv1.weight" in shapes:
        blocks += 1
    if not widths:
        raise FamilyError("this checkpoint holds no VAE (first_stage_model.encoder.down...)")
    vae: Any = diffusers.AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=blocks,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        latent_channels=shapes["decoder.conv_in.weight"][1],
    )
    vae.load_state_dict(convert_ldm_vae_checkpoint(state, vae.config))
    return vae


def _text_encoder(state: Mapping[str, Tensor]) -> Any:
    """transformers' CLIPTextModel with a checkpoint's weights; its configuration is read from their shapes."""
    import transformers

    part = {key.removeprefix(TEXT_PREFIX): value for key, value in state.items() if key.startswith(TEXT_PREFIX)}
    part.pop("embeddings.position_ids", None)
    if not part:
        raise FamilyError(
            f"this checkpoint holds no text encoder of SD 1.x ({TEXT_PREFIX}...); give an SD 2.x model as a folder for "
            "diffusers"
        )
    vocabulary, width = part["embeddings.token_embedding.weight"].shape
    layers = 0
    while f"encoder.layers.{layers}.mlp.fc1.weight" in part:
        layers += 1
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=part["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),  # CLIP's heads are 64 wide
        max_position_embeddings=part["embeddings.position_embedding.weight"].shape[0],
    )
    model = transformers.CLIPTextModel(config)
    getattr(model, "text_model", model).load_state_dict(part, strict=True)  # newer transformers have no inner model
    return model


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(
            f"Stable Diffusion from files needs {name}: pip install diffusers transformers (in ComfyUI, P3S "
            "needs neither)"
        ) from None
