"""The model files that the example workflows name: where each is to be had, its folder, and the row of a note on it."""

from __future__ import annotations

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
SDXL = "sd_xl_base_1.0.safetensors"
VISION = "clip-vit-large-patch14.safetensors"
CONTROLNET = "control_v11p_sd15_canny_fp16.safetensors"
SSR = ("ssr_aligner.safetensors", "ssr_layers.safetensors")
SUBJECT = "my_subject.safetensors"
SDXL_SUBJECT = "my_sdxl_subject.safetensors"
SUBJECTS = ("my_first_subject.safetensors", "my_second_subject.safetensors")
# Of models that draw from a picture, as the host's own templates name them.
KONTEXT = "flux1-dev-kontext_fp8_scaled.safetensors"
CLIP_L, T5 = "clip_l.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors"
FLUX_VAE = "ae.safetensors"
QWEN_EDIT = "qwen_image_edit_2509_fp8_e4m3fn.safetensors"
QWEN_VL = "qwen_2.5_vl_7b_fp8_scaled.safetensors"
QWEN_VAE = "qwen_image_vae.safetensors"
KLEIN = "flux-2-klein-4b-fp8.safetensors"
QWEN3 = "qwen_3_4b.safetensors"
FLUX2_VAE = "flux2-vae.safetensors"
SAM3 = "sam3.1_multiplex_fp16.safetensors"
IPADAPTER = "ip-adapter-plus_sd15.safetensors"
VISION_H = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"

HUB = "https://huggingface.co"


def _of(repository: str, name: str, folder: str, path: str = "") -> dict[str, tuple[str, str]]:
    return {name: (f"{HUB}/{repository}/resolve/main/{path}{name}", folder)}


def _split(repository: str, name: str, folder: str) -> dict[str, tuple[str, str]]:
    """Of a repository that Comfy-Org has sorted by folders."""
    return _of(f"Comfy-Org/{repository}", name, folder, f"split_files/{folder}/")


# Where a file is to be had, and its folder in models: with it the editor offers to download what is missing.
SOURCES = {
    **_of("stabilityai/stable-diffusion-xl-base-1.0", SDXL, "checkpoints"),
    **_of("Comfy-Org/stable-diffusion-v1-5-archive", CHECKPOINT, "checkpoints"),
    VISION: (f"{HUB}/openai/clip-vit-large-patch14/resolve/main/model.safetensors", "clip_vision"),
    **_of("comfyanonymous/ControlNet-v1-1_fp16_safetensors", CONTROLNET, "controlnet"),
    **_of("logtd/ssr_encoder", SSR[0], "ssr"),
    **_of("logtd/ssr_encoder", SSR[1], "ssr"),
    **_split("flux1-kontext-dev_ComfyUI", KONTEXT, "diffusion_models"),
    **_of("comfyanonymous/flux_text_encoders", CLIP_L, "text_encoders"),
    **_of("comfyanonymous/flux_text_encoders", T5, "text_encoders"),
    **_split("Lumina_Image_2.0_Repackaged", FLUX_VAE, "vae"),
    **_split("Qwen-Image-Edit_ComfyUI", QWEN_EDIT, "diffusion_models"),
    **_split("Qwen-Image_ComfyUI", QWEN_VL, "text_encoders"),
    **_split("Qwen-Image_ComfyUI", QWEN_VAE, "vae"),
    **_of("black-forest-labs/FLUX.2-klein-4b-fp8", KLEIN, "diffusion_models"),
    **_split("z_image_turbo", QWEN3, "text_encoders"),
    **_split("flux2-dev", FLUX2_VAE, "vae"),
    **_of("Comfy-Org/sam3.1", SAM3, "checkpoints", "checkpoints/"),
    **_of("h94/IP-Adapter", IPADAPTER, "ipadapter", "models/"),
    VISION_H: (f"{HUB}/h94/IP-Adapter/resolve/main/models/image_encoder/model.safetensors", "clip_vision"),
}
#: Words behind the file's name in a note.
MORE = {
    CHECKPOINT: ", or another **SD 1.5** checkpoint",
    SDXL: ", or another **SDXL** checkpoint (Illustrious, NoobAI, Pony ...)",
    VISION: " (CLIP ViT-L/14 with its vision tower; it arrives as model.safetensors: rename it)",
    VISION_H: " (it arrives as model.safetensors: rename it)",
    CONTROLNET: ", or another ControlNet for SD 1.5",
    SSR[0]: " (or the authors' pytorch_model.bin)",
    SSR[1]: " (or the authors' pytorch_model_1.bin)",
}
ROWS = {
    "subject": "| your subject, saved by Train P3S | **p3s** |",
    "SDXL subject": "| your subject of an SDXL model, saved by Train P3S | **p3s** |",
    "subjects": "| your two subjects, saved by Train P3S | **p3s** |",
}


def needed(*files: str) -> str:
    """The table of a note: files of SOURCES, or keys of ROWS."""
    table = "\n".join(["| file | folder in **models** |", "|---|---|", *map(_row, files)])
    return f"**Needed** (choose your own files in the nodes below)\n\n{table}"


def _row(file: str) -> str:
    if file in ROWS:
        return ROWS[file]
    url, folder = SOURCES[file]
    return f"| [{file}]({url}){MORE.get(file, '')} | **{folder}** |"
