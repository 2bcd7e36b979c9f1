"""SSR-Encoder in the paper's protocol, on small random models: its pictures by hand, its rows, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted_runs import Watch, counted
from dreambench_files import options_of
from real_models import SIDE, UNET, diffusers_twin, write_ssr
from ssr_models import rand, random_aligner, random_layers, random_model

from benchmarks.dreambench.__main__ import main
from benchmarks.dreambench.metrics import Scores
from benchmarks.dreambench.report import table
from benchmarks.dreambench.ssr import unipc
from benchmarks.toyworld_metrics import interval
from p3s.image_files import read_picture, write_png
from p3s.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from p3s.reference.points import PointSet
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule
from p3s.ssr.attend import AppliedSSR, SubjectRun, over_sampling
from p3s.ssr.embeds import encode
from p3s.ssr.file import SSRModel, load_ssr, save_ssr
from p3s.ssr.layers import SubjectLayers
from p3s.ssr.vision import clip_vision

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

POINTS = {"positive": [[0.1, 0.5]], "negative": [[0.9, 0.5]]}


class Given:
    """Files of one run: ``options`` name data and models, ``points`` the points of all first photos."""

    def __init__(self, folder: Path) -> None:
        self.plain_options = options_of(folder)
        self.ssr = write_ssr(folder / "ssr.safetensors")
        self.options = [*self.plain_options, f"--ssr={self.ssr}"]
        self.points = folder / "points.json"
        photos = {name: sorted((folder / "data" / name).iterdir())[0] for name in ("dog", "teapot")}
        self.points.write_text(json.dumps({name: {photo.name: POINTS} for name, photo in photos.items()}))
        self.photo = photos["dog"]

    def models(self) -> StableDiffusion:
        sd, clip = (option.split("=")[1] for option in self.options[1:3])
        return load_stable_diffusion(sd, clip, resolution=SIDE)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    with pytest.MonkeyPatch.context() as monkeypatch:  # a random CLIP can tell drawn parts apart, but not real ones
        monkeypatch.delenv("DREAMBENCH_PATH", raising=False)
        return Given(tmp_path_factory.mktemp("dreambench-ssr"))


@pytest.fixture(scope="module")
def finished(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """P3S and SSR-Encoder, by default."""
    out = tmp_path_factory.mktemp("results") / "run"
    assert main([*given.options, f"--out={out}"]) == 0
    return out


def run(given: list[str], out: Path, stop_after: int = 10**9) -> Watch:
    return counted(main, given, out, stop_after)


# the pictures


def start(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def decoded(models: StableDiffusion, latents: torch.Tensor) -> torch.Tensor:
    picture = models.vae.decode(latents / models.vae.config.scaling_factor).sample[0].movedim(0, -1)
    return (picture / 2 + 0.5).clamp(0, 1)


def subject(models: StableDiffusion, file: Path, photo: torch.Tensor, mask: Any = None) -> Any:
    """What the class "dog" selects in a photo, with the library's own parts."""
    ssr = load_ssr(file)
    query, empty = (models.encode_text(text)[None] for text in ("dog", ""))
    embeds = encode(ssr, query, empty, photo, clip_vision(models.clip, 2), mask).embeds
    return over_sampling([SubjectRun(AppliedSSR(embeds, 0.65), SubjectLayers.from_state_dict(ssr.layers, UNET))])


@torch.no_grad()
def test_a_picture_is_of_the_class_in_the_first_photo(given: Given, finished: Path) -> None:
    models = given.models()
    over = subject(models, given.ssr, read_picture(given.photo))
    texts = [models.encode_text(text) for text in ("a dog wearing a red hat", "")]
    pictures = []
    for more in ({"over": over}, {}):
        *_, last = generate(models.unet, *texts, models.noise, start(1001), (), 1, 7.5, **more)
        pictures.append(decoded(models, last))
    kept = read_picture(finished / "dog" / "ssr" / "01-1.png")
    torch.testing.assert_close(kept, pictures[0], atol=0.003, rtol=0)
    assert (pictures[0] - pictures[1]).abs().max() > 0.02


@torch.no_grad()
def test_the_authors_way_is_unipc_on_diffusers_own_network(given: Given, tmp_path: Path) -> None:
    """With the scheduler that their script makes from Stable Diffusion's: 30 steps, guidance 5. At strength 0, where
    diffusers' U-Net needs none of our layers."""
    models, out = given.models(), tmp_path / "run"
    options = ["--methods", "ssr-authors", "--subjects", "dog", "--prompts=1", "--images=1"]
    assert main([*given.options, *options, "--ssr-strength=0", f"--out={out}"]) == 0
    twin, scheduler = diffusers_twin(models.unet), scheduler_of_the_script("epsilon")
    scheduler.set_timesteps(30)
    prompt, empty = (models.encode_text(text)[None] for text in ("a dog in the snow", ""))
    x = start(0)
    for t in scheduler.timesteps:
        without, with_it = (twin(x, t, context).sample for context in (empty, prompt))
        x = scheduler.step(without + 5 * (with_it - without), t, x).prev_sample
    kept = read_picture(out / "dog" / "ssr-authors" / "00-0.png")
    torch.testing.assert_close(kept, decoded(models, x), atol=0.003, rtol=0)

    strong = tmp_path / "strong"
    assert main([*given.options, *options, f"--out={strong}"]) == 0
    assert (read_picture(strong / "dog" / "ssr-authors" / "00-0.png") - kept).abs().max() > 0.02
    assert "ssr-authors: UniPC, 30 steps, guidance 5\n" in (strong / "table.md").read_text()


def scheduler_of_the_script(prediction: str) -> Any:
    """UniPC from the configuration that Stable Diffusion 1.5 comes with."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    config |= {"set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "prediction_type": prediction}
    theirs = diffusers.PNDMScheduler.from_config(config)
    return diffusers.UniPCMultistepScheduler.from_config(theirs.config)


@pytest.mark.parametrize(("ours", "theirs"), [("eps", "epsilon"), ("v", "v_prediction")])
def test_unipc_takes_the_schedule_and_what_the_model_predicts(ours: str, theirs: str) -> None:
    scheduler, x = scheduler_of_the_script(theirs), rand(1, 4, 4, 4)
    scheduler.set_timesteps(7)

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        return torch.tanh(x) * (0.5 + t / 2000)

    expected = x
    for t in scheduler.timesteps:
        expected = scheduler.step(predict(expected, int(t)), t, expected).prev_sample
    found = list(unipc(predict, NoiseSchedule.stable_diffusion(ours), x, 7))
    assert len(found) == 7
    torch.testing.assert_close(found[-1], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_clean_reference_and_its_mask(given: Given, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [f"--points={given.points}", "--subjects", "dog", "--prompts=1", "--images=1"]
    assert main([*given.options, *options, "--methods", "ssr-clean-mask", f"--out={out}"]) == 0
    models = given.models()
    reference = models.reference(read_picture(given.photo), PointSet(((0.1, 0.5),), ((0.9, 0.5),)))
    texts = [models.encode_text(text) for text in ("a dog in the snow", "")]
    pictures = []
    for photo, mask in ((reference.image, reference.subject_mask), (read_picture(given.photo), None)):
        over = subject(models, given.ssr, photo, mask)
        *_, last = generate(models.unet, *texts, models.noise, start(0), (), 1, 7.5, over)
        pictures.append(decoded(models, last))
    kept = read_picture(out / "dog" / "ssr-clean-mask" / "00-0.png")
    torch.testing.assert_close(kept, pictures[0], atol=0.003, rtol=0)
    assert (pictures[0] - pictures[1]).abs().max() > 0.006


def test_strength_0_is_the_plain_model_bit_for_bit(given: Given, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--methods", "ssr", "--subjects", "dog", "--prompts=1", "--ssr-strength=0"]
    assert main([*given.options, *options, f"--out={out}"]) == 0
    for number, picture in enumerate(given.models().sample("a dog in the snow", [0, 1], (), 1, 7.5)):
        write_png(picture, tmp_path / "plain.png")
        plain = read_picture(tmp_path / "plain.png")
        assert torch.equal(read_picture(out / "dog" / "ssr" / f"00-{number}.png"), plain)
        assert not torch.equal(read_picture(finished / "dog" / "ssr" / f"00-{number}.png"), plain)


# resuming


def test_ssr_is_added_to_a_run_of_p3s_and_only_what_is_missing_is_made(given: Given, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(given.plain_options, out)
    assert (first.trained, first.sampled) == (2, 8)
    before = {path: path.read_bytes() for path in out.glob("*/*.*")}
    second = run(given.options, out, stop_after=2)
    assert (second.trained, second.sampled) == (0, 2)
    assert second.prompts == ["a dog in the snow"]
    third = run(given.options, out)
    assert (third.trained, third.sampled) == (0, 6)
    assert "a teapot on top of pink fabric" in third.prompts and not any("sks" in text for text in third.prompts)
    assert {path: path.read_bytes() for path in before} == before
    assert run([*given.options, "--methods", "ssr"], out).sampled == 0


def test_rows_of_another_encoder_or_strength_are_refused(given: Given, finished: Path, tmp_path: Path, capsys) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.*")}
    other = save_ssr(
        SSRModel(random_aligner(7, query=64, vision=64, scales=2), random_layers(UNET).state_dict(), ""),
        tmp_path / "other.safetensors",
    )
    for option, named in ((f"--ssr={other}", "SSR-Encoder"), ("--ssr-strength=0.5", "strength of SSR-Encoder")):
        assert main([*given.options, option, f"--out={finished}"]) == 1
        assert f"results of another run, which differs in {named}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in finished.rglob("*.*")} == before


def refused(given: Given, options: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a run says that ends before anything is trained or written."""
    assert main([*given.options, *options, f"--out={out}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("dreambench: ") and said.count("\n") == 1 and not out.exists()
    return said


def test_wrong_files_and_values_are_one_line_before_any_training(given: Given, tmp_path: Path, capsys) -> None:
    out, checkpoint = tmp_path / "run", given.options[1].split("=")[1] + ".safetensors"
    assert "not an SSR-Encoder" in refused(given, [f"--ssr={checkpoint}"], out, capsys)
    assert "--ssr: expected one file or two; got 3" in refused(given, ["--ssr", *[str(given.ssr)] * 3], out, capsys)
    other = save_ssr(random_model(), tmp_path / "other.safetensors")  # of another U-Net
    assert "this SSR-Encoder was made for a U-Net with" in refused(given, [f"--ssr={other}"], out, capsys)
    aligner = SSRModel(random_aligner(query=64, vision=20, scales=2), random_layers(UNET).state_dict(), "")
    file = save_ssr(aligner, tmp_path / "narrow.safetensors")
    assert "this SSR-Encoder reads 2 states, 20 wide" in refused(given, [f"--ssr={file}"], out, capsys)
    assert "--ssr-strength must be a number in 0..2; got 3" in refused(given, ["--ssr-strength=3"], out, capsys)


def test_a_mask_needs_points_on_every_first_photo(given: Given, tmp_path: Path, capsys) -> None:
    options = ["--methods", "p3s", "ssr-clean-mask"]
    said = refused(given, options, tmp_path / "run", capsys)
    assert "ssr-clean-mask: expected a --points file" in said and f"2 of them, such as dog/{given.photo.name}" in said
    points = tmp_path / "points.json"
    photos = json.loads(given.points.read_text())
    points.write_text(json.dumps({"dog": photos["dog"]}))
    said = refused(given, [*options, f"--points={points}"], tmp_path / "run", capsys)
    assert "1 of them, such as teapot/" in said


def test_without_weights_there_is_no_row(given: Given, tmp_path: Path, capsys) -> None:
    assert main([*given.plain_options, "--methods", "ssr", f"--out={tmp_path / 'run'}"]) == 1
    assert "--methods ssr needs the weights of an SSR-Encoder: give --ssr FILE" in capsys.readouterr().err


# the table


def test_p3s_and_ssr_stand_side_by_side_with_their_difference(finished: Path) -> None:
    text = (finished / "table.md").read_text()
    kinds, found = ("clip_i", "clip_t", "dino"), {}
    for name, folder in (("P3S, this repository", ""), ("SSR-Encoder, `ssr`", "ssr")):
        files = [json.loads((finished / s / folder / "scores.json").read_text()) for s in ("dog", "teapot")]
        found[name] = {kind: np.array([scores[kind] for scores in files]) for kind in kinds}
        row = re.search(rf"^\| \*\*{re.escape(name)}\*\* \(2 subjects, 8 pictures\) \| (.*) \|$", text, re.MULTILINE)
        assert row is not None
        means = [found[name][kind].mean() for kind in kinds]
        assert [float(cell) for cell in row[1].split(" | ")[:3]] == pytest.approx(means, abs=6e-5)
    p3s, ssr = found.values()
    gaps = {kind: p3s[kind] - ssr[kind] for kind in kinds}
    _, below = text.split(
        "| P3S, this repository, less SSR-Encoder, `ssr` | CLIP-I | CLIP-T | DINOv2 |\n|---|---|---|---|\n"
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in below.splitlines()[:2]]
    assert [float(cell) for cell in cells[0]] == pytest.approx([gaps[kind].mean() for kind in kinds], abs=6e-5)
    for cell, kind in zip(cells[1], kinds, strict=True):
        low, high = interval(gaps[kind].ravel(), [0] * 4 + [1] * 4)
        assert cell == f"{low:.4f} to {high:.4f}"
    low, high = interval(gaps["dino"].ravel(), [0] * 4 + [1] * 4)
    assert (
        "Table I has P3S above SSR-Encoder on DINOv2, 0.5491 to 0.5323. Here the difference from SSR-Encoder, `ssr` is "
        f"{gaps['dino'].mean():+.4f} [{low:+.4f}, {high:+.4f}] over 2 subjects: the order "
    ) in text
    assert "strength 0.65: asked for the class in a subject's first photo" in text
    sheet = read_picture(finished / "sheet.png")
    assert sheet.shape[0] > 4 * 224


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ((0.1, 0.2, 0.1), "holds"),
        ((-0.1, -0.2, -0.1), "is reversed"),
        ((0.1, -0.1, 0.3), "is not decided, for the interval contains 0"),
        ((0.1,), "is not decided by one subject"),
    ],
)
def test_whether_the_papers_order_holds(gaps: tuple[float, ...], verdict: str) -> None:
    """Whichever method comes first; CLIP-I says the contrary and does not count."""
    ssr = {str(i): Scores((0.5,) * 2, (0.2,) * 2, (0.4,) * 2) for i in range(len(gaps))}
    p3s = {str(i): Scores((0.5 - gap,) * 2, (0.2,) * 2, (0.4 + gap,) * 2) for i, gap in enumerate(gaps)}
    for results in ({"p3s": p3s, "ssr": ssr}, {"ssr": ssr, "p3s": p3s}):
        text = table("x", {"p3s": "ours", "ssr": "theirs"}, results, [])
        assert f"over {len(gaps)} subjects: the order {verdict}.\n" in text
        assert f"is {np.mean(gaps):+.4f} [" in text
    assert "the order" not in table("x", {"ssr": "theirs"}, {"ssr": ssr}, [])
