"""Stable Diffusion from files, on small random models in the real layouts; and the command line on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from real_models import CLIP_SIDE, SIDE, UNET, diffusers_twin, write_real_models
from small import SMALL_SDXL, random_unet
from tools.pretend_gpu import GPU, PretendGPU

from p3s.__main__ import main
from p3s.errors import FamilyError, MaskError, P3SError
from p3s.image_files import write_png
from p3s.models.pipeline import apply_subject, train_subject
from p3s.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from p3s.network.copy_settings import CopySettings
from p3s.network.unet_config import UNetConfig
from p3s.reference.points import PointSet
from p3s.subject.file import load_subject
from p3s.training.settings import TrainSettings

diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    return write_real_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def sd(files: dict[str, Path]) -> StableDiffusion:
    return load_stable_diffusion(files["sd"], files["clip"], resolution=SIDE)


def stripes(turned: bool = False) -> torch.Tensor:
    """A picture whose parts any CLIP tells apart."""
    photo = torch.zeros(48, 64, 3)
    photo[:, :20, 0] = photo[:, 45:, 2] = 1
    return photo.flip(0, 1) if turned else photo


def test_folder_and_checkpoint_give_the_same_models(files: dict[str, Path], sd: StableDiffusion) -> None:
    other = load_stable_diffusion(files["checkpoint"], files["clip"], resolution=SIDE)
    assert other.unet.config == sd.unet.config == UNET
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = (getattr(models, name).state_dict() for models in (sd, other))
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), f"{name}: {key}"
    # Not bit for bit: tensors of a mapped file lie at other addresses, and kernels differ by alignment.
    torch.testing.assert_close(sd.encode_text("a dog"), other.encode_text("a dog"))
    torch.testing.assert_close(sd.sample("a dog", [1], steps=2), other.sample("a dog", [1], steps=2), atol=1e-4, rtol=0)


def test_weights_are_those_of_the_original(sd: StableDiffusion) -> None:
    for key, value in random_unet(UNET).state_dict().items():
        assert torch.equal(sd.unet.state_dict()[key], value), key


def test_samples_equal_diffusers_own_pipeline(files: dict[str, Path], sd: StableDiffusion) -> None:
    """Prompt, empty prompt, guidance, DDIM and decoding, all against the library's."""
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(files["sd"] / "vae"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(files["sd"] / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(files["sd"] / "tokenizer"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(files["sd"] / "unet"),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    start = torch.randn(1, 4, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(7))
    size = {"height": SIDE, "width": SIDE}
    expected = pipeline("a dog", **size, latents=start, num_inference_steps=5, guidance_scale=7.5, output_type="np")
    found = sd.sample("a dog", [7], steps=5)
    assert found.shape == (1, SIDE, SIDE, 3) and found.std() > 0.05
    torch.testing.assert_close(found, torch.from_numpy(expected.images), atol=2e-3, rtol=0)


def test_every_picture_of_a_batch_has_its_own_seed(sd: StableDiffusion) -> None:
    first, second = sd.sample("a dog", [1, 2], steps=2)
    torch.testing.assert_close(second, sd.sample("a dog", [2], steps=2)[0], atol=1e-3, rtol=0)
    assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_are_close_and_not_the_same(files: dict[str, Path], sd: StableDiffusion, precision: str) -> None:
    half = load_stable_diffusion(files["sd"], resolution=SIDE, precision=precision)
    one, other = sd.sample("a dog", [1], steps=1), half.sample("a dog", [1], steps=1)
    assert not torch.equal(one, other)
    assert (one - other).abs().mean() < 0.05


def test_a_latent_is_the_vaes_mean_in_the_photos_proportions(sd: StableDiffusion) -> None:
    photo = torch.rand(100, 200, 3, generator=torch.Generator().manual_seed(0))
    assert sd.encode_latent(photo).shape == (4, 48 // 4, 96 // 4)
    flat = sd.encode_latent(torch.full((64, 64, 3), 0.25))
    expected = sd.vae.encode(torch.full((1, 3, 64, 64), -0.5)).latent_dist.mean[0] * 0.18215
    torch.testing.assert_close(flat, expected, atol=1e-5, rtol=1e-5)


def test_a_reference_has_the_clip_models_own_tokens(sd: StableDiffusion) -> None:
    reference = sd.reference(stripes(), PointSet([(0.1, 0.5)]))
    assert reference.tokens.shape == ((CLIP_SIDE // 8) ** 2 + 1, 64)


def test_a_reference_takes_masks_instead_of_points(sd: StableDiffusion) -> None:
    photo = stripes()
    mask = torch.zeros(photo.shape[:2])
    mask[:, : photo.shape[1] // 4] = 1
    reference = sd.reference(photo, None, subject_mask=mask, negative_mask=mask.flip(1))
    assert torch.equal(reference.subject_mask, mask) and torch.equal(reference.negative_mask, mask.flip(1))


def test_a_half_precision_variant_is_found(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(files["sd"], folder)
    for part, kind in (("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)):
        model = kind.from_pretrained(folder / part).half()
        for old in (folder / part).glob("*.safetensors"):
            old.unlink()
        model.save_pretrained(folder / part, variant="fp16")
    unet = load_stable_diffusion(folder).unet
    state = random_unet(UNET).state_dict()
    for key, value in unet.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, state[key].half().float())


def test_the_prediction_is_read_from_the_scheduler(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(files["sd"], tmp_path / "v")
    config = tmp_path / "v" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"}))
    assert load_stable_diffusion(tmp_path / "v").noise.prediction == "v"
    config.write_text(json.dumps({"prediction_type": "sample"}))
    with pytest.raises(P3SError, match="sample"):
        load_stable_diffusion(tmp_path / "v")


def test_a_folder_of_sd2(files: dict[str, Path], tmp_path: Path) -> None:
    """Heads of 64 and linear projections; what it predicts, its scheduler says."""
    shutil.copytree(files["sd"], tmp_path / "sd2")
    shutil.rmtree(tmp_path / "sd2" / "unet")
    net = random_unet(UNetConfig.build(64, (1, 2), context_dim=UNET.context_dim, linear_projection=True))
    twin = diffusers_twin(net)
    twin.save_pretrained(tmp_path / "sd2" / "unet")
    found = load_stable_diffusion(tmp_path / "sd2").unet
    assert found.config == net.config
    x, t, context = torch.randn(2, 4, 16, 16), torch.tensor([3, 700]), torch.randn(2, 7, UNET.context_dim)
    with torch.no_grad():
        torch.testing.assert_close(found(x, t, context), twin(x, t, context).sample, atol=1e-4, rtol=1e-4)


# mistakes


def test_what_is_missing_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(FileNotFoundError, match=r"nowhere.*Stable Diffusion"):
        load_stable_diffusion(tmp_path / "nowhere")
    with pytest.raises(FamilyError, match="lacks the folder unet"):
        load_stable_diffusion(tmp_path)
    with pytest.raises(P3SError, match="tokenizer"):
        load_stable_diffusion(files["checkpoint"])
    (tmp_path / "text.ckpt").write_text("no model")
    with pytest.raises(FamilyError, match=r"text\.ckpt is not a \.safetensors file"):
        load_stable_diffusion(tmp_path / "text.ckpt", files["clip"])
    state = load_file(files["checkpoint"])
    for prefix, message in (
        ("first_stage", "no VAE"),
        ("cond_stage", r"no text encoder .* give an SD 2\.x model as"),
        ("model.", "U-Net"),
    ):
        path = tmp_path / f"without-{prefix}.safetensors"
        save_file({key: value for key, value in state.items() if not key.startswith(prefix)}, path)
        with pytest.raises(FamilyError, match=message):
            load_stable_diffusion(path, files["clip"])
    with pytest.raises(MaskError, match="no CLIP vision model"):
        load_stable_diffusion(files["sd"]).reference(torch.rand(64, 64, 3), PointSet([(0.5, 0.5)]))
    with pytest.raises(P3SError, match="multiple of 64"):
        load_stable_diffusion(files["sd"], resolution=100)
    with pytest.raises(P3SError, match="precision must be one of fp32, bf16, fp16; got 'half'"):
        load_stable_diffusion(files["sd"], precision="half")


@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
def test_sdxl_is_refused_before_its_weights_are_read(
    files: dict[str, Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are 7 GB."""
    from safetensors.torch import save_file

    path = tmp_path / "xl"
    if kind == "folder":
        shutil.copytree(files["sd"], path)
        shutil.rmtree(path / "unet")
        diffusers_twin(random_unet(SMALL_SDXL)).save_pretrained(path / "unet")
        assert json.loads((path / "unet" / "config.json").read_text())["addition_embed_type"] == "text_time"
        monkeypatch.setattr(diffusers.UNet2DConditionModel, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    else:
        state = {f"model.diffusion_model.{key}": value for key, value in random_unet(SMALL_SDXL).state_dict().items()}
        save_file({**state, "conditioner.embedders.0.logit_scale": torch.zeros(())}, path)
        monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("read"))
    with pytest.raises(FamilyError, match=r"xl is an SDXL model; expected Stable Diffusion 1\.5 .* In ComfyUI"):
        load_stable_diffusion(path, files["clip"])


@pytest.mark.parametrize("missing", ["diffusers", "transformers"])
def test_a_missing_package_says_what_to_install(missing: str, files, monkeypatch, capsys) -> None:
    from importlib import import_module

    from p3s.models import stable_diffusion

    def without(name: str):
        if name == missing:
            raise ImportError(f"No module named {name!r}")
        return import_module(name)

    monkeypatch.setattr(stable_diffusion, "import_module", without)
    arguments = ["--image", str(DATA / "dog.jpg"), "--positive", "0.5,0.5", "--prompt", "a dog"]
    assert main(["train", *arguments, "--model", str(files["sd"])]) == 1
    said = capsys.readouterr().err
    assert f"needs {missing}: pip install diffusers transformers" in said and said.count("\n") == 1


# the command line


def test_a_folder_that_is_not_there_is_no_name_to_download(files: dict[str, Path], capsys) -> None:
    arguments = ["--image", str(DATA / "dog.jpg"), "--positive", "0.5,0.5", "--prompt", "a dog"]
    assert main(["train", *arguments, "--model", str(files["sd"]), "--clip", "no/where"]) == 1
    assert "--clip no/where: there is no such folder" in capsys.readouterr().err


def test_train_and_generate_from_files(files: dict[str, Path], tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    models = ["--clip", str(files["clip"]), "--resolution", str(SIDE)]
    photos = ["--image", "a.png", "--positive", "0.1,0.5", "--image", "b.png", "--positive", "0.9,0.5"]
    write_png(stripes(), "a.png")
    write_png(stripes(turned=True), "b.png")
    training = ["--prompt", "a photo of a sks dog", "--epochs", "2"]
    assert main(["train", *photos, *training, "--model", str(files["sd"]), *models]) == 0
    subject = load_subject("subject.safetensors")
    assert (subject.info.steps, len(subject.references)) == (4, 2)
    assert subject.info.train_settings["learning_rate"] == TrainSettings().learning_rate
    assert subject.references[0].latent.shape[0] == 4 and subject.references[0].tokens.shape[1] == 64

    sampling = ["--prompt", "a sks dog in the snow", "--steps", "2", "--model", str(files["checkpoint"]), *models]
    assert main(["generate", "subject.safetensors", *sampling]) == 0
    assert main(["generate", "subject.safetensors", *sampling, "--precision", "bf16", "--out", "half"]) == 0
    off = ["--schedule", "fixed", "--value", "0", "--out", "off"]
    assert main(["generate", "subject.safetensors", *sampling, *off]) == 0
    said = capfd.readouterr()
    assert "warning" not in said.out and "LOAD REPORT" not in said.out + said.err
    usual, half, plain = (
        np.asarray(Image.open(tmp_path / folder / "a sks dog in the snow 0.png"), dtype=float)
        for folder in ("generated", "half", "off")
    )
    assert usual.shape == (SIDE, SIDE, 3)
    assert np.abs(usual - plain).max() > 2 and np.abs(usual - half).max() > 0
    world = load_stable_diffusion(files["sd"], resolution=SIDE)
    picture = world.sample("a sks dog in the snow", [0], steps=2)[0]
    assert np.abs(plain - picture.numpy() * 255).max() <= 1


class Words:
    """In place of the text encoder: transformers makes its masks where the pretended GPU is not seen."""

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(0)
        self.words = torch.randn(config.vocab_size, config.hidden_size, generator=generator).to(device)

    def __call__(self, numbers: torch.Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.words[numbers])


def test_on_a_gpu_it_is_as_on_the_cpu(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """From a photo to a picture; the GPU is pretended."""
    # Where accelerate is installed, diffusers reads files by way of "meta", which the pretence takes for the GPU.
    monkeypatch.setattr("diffusers.models.modeling_utils._LOW_CPU_MEM_USAGE_DEFAULT", False)

    def chain(device: torch.device) -> tuple[list[float], torch.Tensor]:
        sd = load_stable_diffusion(files["sd"], files["clip"], device, resolution=SIDE)
        sd = replace(sd, text_encoder=Words(sd.text_encoder.config, device))
        reference = sd.reference(stripes(), PointSet(((0.1, 0.5),), ((0.9, 0.5),)))
        subject, result = train_subject(sd, [reference], "a dog", TrainSettings(steps=2), CopySettings())
        applied, _ = apply_subject(sd, subject)
        return [r.loss for r in result.reports], sd.sample("a dog", [1], [applied], steps=2)

    losses, picture = chain(torch.device("cpu"))
    with PretendGPU():
        losses_there, picture_there = chain(GPU)
    assert losses_there == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(picture_there, picture, atol=1e-3, rtol=0)
