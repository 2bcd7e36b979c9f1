"""The other nodes that Apply P3S is tested with: methods that give a MODEL, or what they change in sampling."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.controlnet
import torch
from inside_peers import ipadapter, node
from inside_subjects import conditioning, draw, load

#: MASK [1, 128, 128] of the left half of the image.
LEFT = torch.zeros(1, 128, 128)
LEFT[:, :, :64] = 1


class OtherNodes:
    """``arguments`` are the paths of models by their names, ``name`` that of the checkpoint in use."""

    def __init__(self, arguments: dict[str, Any], name: str) -> None:
        self.arguments = arguments
        self.model = load(arguments[name])
        self.conditioning = partial(conditioning, model=self.model)
        self.sdxl = name.startswith("sdxl-")
        self.lora_name = "lora-sdxl-slim.safetensors" if self.sdxl else "lora-micro.safetensors"
        controlnet = arguments.get(f"controlnet-{name.removeprefix('sd15-')}")
        self.control = comfy.controlnet.load_controlnet(controlnet) if controlnet else None
        self.hint = draw(1, 128, 128, 3).clamp(0, 1)

    # On the MODEL wire

    def lora(self, model: Any) -> Any:
        return node("LoraLoaderModelOnly", model=model, lora_name=self.lora_name, strength_model=1.0)[0]

    def lora_bypass(self, model: Any) -> Any:
        name = "LoraLoaderBypassModelOnly"
        return node(name, model=model, lora_name=self.lora_name, strength_model=1.0)[0]

    def freeu(self, model: Any) -> Any:
        return node("FreeU", model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]

    def freeu_v2(self, model: Any) -> Any:
        return node("FreeU_V2", model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]

    def hypertile(self, model: Any) -> Any:
        # At the finest level that has an attention.
        return node("HyperTile", model=model, tile_size=32, swap_size=1, max_depth=int(self.sdxl), scale_depth=False)[0]

    def tome(self, model: Any) -> Any:
        return node("TomePatchModel", model=model, ratio=0.5)[0]

    def pag(self, model: Any) -> Any:
        return node("PerturbedAttentionGuidance", model=model, scale=3.0)[0]

    def sag(self, model: Any) -> Any:
        return node("SelfAttentionGuidance", model=model, scale=0.5, blur_sigma=2.0)[0]

    def nag(self, model: Any) -> Any:
        return node("NAGuidance", model=model, nag_scale=3.0, nag_alpha=0.5, nag_tau=1.5)[0]

    def deepshrink(self, model: Any) -> Any:
        settings = {"downscale_method": "bicubic", "upscale_method": "bicubic", "downscale_after_skip": True}
        settings |= {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.6}
        return node("PatchModelAddDownscale", model=model, **settings)[0]

    def easycache(self, model: Any) -> Any:
        settings = {"reuse_threshold": 5.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
        return node("EasyCache", model=model, **settings)[0]

    def rescale_cfg(self, model: Any) -> Any:
        return node("RescaleCFG", model=model, multiplier=0.7)[0]

    def v_prediction(self, model: Any) -> Any:
        return node("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=True)[0]

    def edm(self, model: Any) -> Any:
        given = {"sampling": "edm_playground_v2.5", "sigma_max": 80.0, "sigma_min": 0.002}
        return node("ModelSamplingContinuousEDM", model=model, **given)[0]

    def attention_multiply(self, model: Any) -> Any:
        return node("UNetSelfAttentionMultiply", model=model, q=1.1, k=0.9, v=1.1, out=1.0)[0]

    def compile(self, model: Any) -> Any:
        # What the node does, with the backend that needs no compiler.
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        compiled = model.clone()
        set_torch_compile_wrapper(model=compiled, backend="eager")
        return compiled

    def ipadapter(self, model: Any) -> Any:
        return ipadapter(model)

    def attention_couple(self, model: Any) -> Any:
        """Three prompts, two with a region: the conditional rows of cross-attention are multiplied by three."""
        regions = {"cond_1": self.conditioning(3), "mask_1": LEFT, "cond_2": self.conditioning(4), "mask_2": 1 - LEFT}
        base = {"base_mask": torch.full((1, 128, 128), 0.3)}
        return node("AttentionCouple|cgem156", model=model, **base, **regions)[0]

    def attention_couple_ppm(self, model: Any) -> Any:
        regions = {"cond_1": self.conditioning(3), "mask_1": LEFT, "cond_2": self.conditioning(4), "mask_2": 1 - LEFT}
        base = {"base_mask": torch.full((1, 128, 128), 0.3), "base_cond": self.conditioning(1)}
        return node("AttentionCouplePPM", model=model, **base, **regions)[0]

    def ic_light(self, model: Any) -> Any:
        """Weights that widen the first convolution from 4 to 8 channels, and a latent on the new ones."""
        light = load(self.arguments["sd15-ic-micro"])
        return node("ICLightAppply", model=model, ic_model=light, c_concat={"samples": draw(1, 4, 16, 16, seed=9)})[0]

    def tiled(self, model: Any, batch: int = 4, method: str = "MultiDiffusion") -> Any:
        """Six tiles of half the image's height and width."""
        tile = {"tile_width": 64, "tile_height": 64, "tile_overlap": 32, "tile_batch_size": batch}
        return node("TiledDiffusion", model=model, method=method, **tile)[0]

    def context_windows(self, model: Any) -> Any:
        """Over the images of a batch, which a model without time treats each for itself."""
        settings = {"context_length": 2, "context_overlap": 1, "context_schedule": "standard_static", "dim": 0}
        settings |= {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid"}
        return node("ContextWindowsManual", later={"freenoise": False}, model=model, **settings)[0]

    def animatediff(self, model: Any, moves: bool = True, window: int = 0) -> Any:
        """A motion module, over all frames or in windows of so many, which lie elsewhere at every step."""
        given: dict[str, Any] = {"model": model, "beta_schedule": "use existing"}
        given["model_name"] = f"motion-{'moves' if moves else 'still'}.safetensors"
        if window:
            settings = {"context_length": window, "context_stride": 1, "context_overlap": 1}
            (given["context_options"],) = node("ADE_StandardUniformContextOptions", **settings)
        return node("ADE_AnimateDiffLoaderGen1", **given)[0]

    # On the CONDITIONING wires

    def controlnet(self, **window: float) -> dict[str, Any]:
        settings = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, **window}
        given = {"positive": self.conditioning(1), "negative": self.conditioning(2), "control_net": self.control}
        positive, negative = node("ControlNetApplyAdvanced", **given, image=self.hint, **settings)
        return {"positive": positive, "negative": negative}

    def controlnet_window(self) -> dict[str, Any]:
        # Of two steps the second, which is within, changes too little.
        return {**self.controlnet(start_percent=0.3, end_percent=0.8), "steps": 3}

    def area(self) -> dict[str, Any]:
        parts = []
        for seed, x in ((1, 0), (3, 64)):
            given = {"conditioning": self.conditioning(seed), "width": 64, "height": 128, "x": x, "y": 0}
            parts += node("ConditioningSetArea", **given, strength=1.0)[0]
        return {"positive": parts}

    def mask(self) -> dict[str, Any]:
        return self.set_mask("default")

    def mask_bounds(self) -> dict[str, Any]:
        """The image is cropped to the masks."""
        return self.set_mask("mask bounds")

    def set_mask(self, area: str) -> dict[str, Any]:
        parts = []
        for seed, mask in ((1, LEFT), (3, 1 - LEFT)):
            given = {"conditioning": self.conditioning(seed), "mask": mask, "strength": 1.0, "set_cond_area": area}
            parts += node("ConditioningSetMask", **given)[0]
        return {"positive": parts}

    def combine(self) -> dict[str, Any]:
        given = {"conditioning_1": self.conditioning(1), "conditioning_2": self.conditioning(3)}
        return {"positive": node("ConditioningCombine", **given)[0]}

    def timesteps(self) -> dict[str, Any]:
        parts = []
        for seed, start, end in ((3, 0.0, 0.5), (1, 0.5, 1.0)):
            parts += node("ConditioningSetTimestepRange", conditioning=self.conditioning(seed), start=start, end=end)[0]
        return {"positive": parts}

    def hook_lora(self) -> dict[str, Any]:
        """A LoRA on the prompt alone, so that the host runs the two prompts apart, with other weights."""
        (hooks,) = node("CreateHookLoraModelOnly", lora_name=self.lora_name, strength_model=1.0)
        given = {"cond_NEW": self.conditioning(1), "strength": 1.0, "set_cond_area": "default", "hooks": hooks}
        return {"positive": node("ConditioningSetProperties", **given)[0]}

    def long_prompt(self) -> dict[str, Any]:
        return {"positive": self.conditioning(1, tokens=154), "negative": self.conditioning(2, tokens=154)}

    def unequal_prompts(self) -> dict[str, Any]:
        return {"positive": self.conditioning(1, tokens=154), "negative": self.conditioning(2)}

    def advanced_controlnet(self) -> dict[str, Any]:
        return self.with_advanced(self.control, self.hint)

    def reference_controlnet(self) -> dict[str, Any]:
        settings = {"reference_type": "reference_attn", "style_fidelity": 0.5, "ref_weight": 1.0}
        (control,) = node("ACN_ReferenceControlNet", **settings)
        size = {"samples": draw(1, 4, 16, 16)}
        (hint,) = node("ACN_ReferencePreprocessor", vae=Encoder(), image=self.hint, latent_size=size)
        return self.with_advanced(control, hint)

    def with_advanced(self, control: Any, hint: Any) -> dict[str, Any]:
        given = {
            "positive": self.conditioning(1),
            "negative": self.conditioning(2),
            "control_net": control,
            "image": hint,
        }
        settings = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        positive, negative, *_ = node("ACN_AdvancedControlNetApply_v2", **given, **settings)
        return {"positive": positive, "negative": negative}

    # Ways of sampling

    def no_guidance(self) -> dict[str, Any]:
        return {"cfg": 1.0}

    def image_to_image(self) -> dict[str, Any]:
        return {"latent": draw(1, 4, 16, 16, seed=9), "denoise": 0.5, "steps": 4}

    def noise_mask(self) -> dict[str, Any]:
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 8:] = 1
        return {"latent": draw(1, 4, 16, 16, seed=9), "noise_mask": mask}


class Encoder:
    """Stands for a VAE where only a latent is wanted."""

    downscale_ratio = 8

    def spacial_compression_encode(self) -> int:
        return 8

    def vae_encode_crop_pixels(self, picture: torch.Tensor) -> torch.Tensor:
        return picture

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        return draw(len(picture), 4, picture.shape[1] // 8, picture.shape[2] // 8, seed=11)
