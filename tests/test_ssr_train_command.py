"""``python -m p3s ssr train`` on small random models in the real layouts."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from subprocess import run as run_command
from typing import Any

import pytest
import torch
from real_models import SIDE
from small import random_unet
from ssr_runs import command, trainer_on, write_files, write_pictures

from p3s.__main__ import main
from p3s.commands import ssr_train
from p3s.commands.interrupt import interruptible
from p3s.errors import FamilyError, TrainingError
from p3s.image_files import read_picture
from p3s.models import ssr as glue
from p3s.models.stable_diffusion import load_stable_diffusion
from p3s.network.unet_config import UNetConfig
from p3s.safetensors_format import read_header
from p3s.settings import settings_of
from p3s.ssr.attend import AppliedSSR, SubjectRun, over_sampling
from p3s.ssr.dataset import CaptionedPictures
from p3s.ssr.embeds import encode
from p3s.ssr.file import load_ssr
from p3s.ssr.layers import SubjectLayers
from p3s.ssr.query import QuerySettings
from p3s.ssr.state_file import load_state
from p3s.ssr.trainer import RunSettings
from p3s.ssr.training import SSRTrainSettings
from p3s.ssr.vision import clip_vision

diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
GIB = 2**30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def trained(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "ssr.safetensors"
    assert main(command(files, out)) == 0
    return out


def test_what_is_written_selects_a_subject(files: dict[str, Path], trained: Path) -> None:
    """The file loads, and its embedding of a picture changes a sample."""
    sd, model = load_stable_diffusion(files["sd"], files["clip"], resolution=SIDE), load_ssr(trained)
    assert (model.aligner.scales, model.aligner.heads, model.aligner.to_q.out_features) == (6, 8, 512)
    photo = read_picture(CaptionedPictures(files["data"])[0].picture)
    query, empty = sd.encode_texts(["picture", ""]).split(1)
    crop = QuerySettings(framing="crop")
    embeds = encode(model, query, empty, photo, clip_vision(sd.clip), settings=crop).embeds
    layers = SubjectLayers.from_state_dict(model.layers, sd.unet.config)
    over = over_sampling([SubjectRun(AppliedSSR(embeds), layers)])
    shown, plain = sd.sample("a dog", [0], steps=2, over=over), sd.sample("a dog", [0], steps=2)
    assert (shown - plain).abs().max() > 1e-3
    made = json.loads(read_header(trained)[0]["made"])
    assert (made["trained_steps"], made["learning_rate"], made["seed"], made["precision"]) == (3, 0.01, "0", "fp32")


def press_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while that step is reported."""
    plain = ssr_train.Trainer.steps

    def steps(self: Any, stopped: Any) -> Any:
        for report in plain(self, stopped):
            yield report
            if report.step == step:
                signal.raise_signal(signal.SIGTERM if step % 2 else signal.SIGINT)

    monkeypatch.setattr(ssr_train.Trainer, "steps", steps)


def test_stopped_and_continued_by_the_same_command_is_unbroken(
    files: dict[str, Path], trained: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    arguments = command(files, tmp_path / "ssr.safetensors")
    for step in (1, 2):
        with monkeypatch.context() as patch:
            press_after(step, patch)
            assert main(arguments) == 1
        saved = f"saved to {tmp_path / 'ssr.safetensors'}; the same command continues"
        assert f"stopped; {step} of 3 steps: {saved}" in capsys.readouterr().err
        assert load_ssr(tmp_path / "ssr.safetensors") and load_state(tmp_path / "ssr.state").step == step
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert main(arguments) == 0
    assert "continues after step 2" in (said := capsys.readouterr().out) and "3 of 3 steps: saved to" in said
    for name in ("ssr.safetensors", "ssr.state"):
        assert (tmp_path / name).read_bytes() == trained.with_name(name).read_bytes(), name
    assert main([*arguments, "--steps", "2"]) == 1
    assert "has 3 steps already, and --steps asks for 2" in capsys.readouterr().err


def test_it_is_saved_on_the_way(files: dict[str, Path], tmp_path: Path, monkeypatch, capsys) -> None:
    """An error in a later step: what was saved before, and what is saved because of it."""
    saved: list[int] = []

    def keep(self: Any, state: Any, *_: Any) -> None:
        saved.append(state.step)

    monkeypatch.setattr(ssr_train.Keeper, "save", keep)
    lost = write_pictures(tmp_path, 5, captions=2)
    with monkeypatch.context() as patch:
        patch.setattr(ssr_train.Trainer, "steps", broken_after(3))
        assert main(command(files, tmp_path / "ssr.safetensors", "--steps", "9", "--save-every", "2", data=lost)) == 1
    said = capsys.readouterr().err
    assert "line 4: " in said and f"(3 of 9 steps: saved to {tmp_path / 'ssr.safetensors'})" in said
    assert saved == [2] and load_state(tmp_path / "ssr.state").step == 3


def broken_after(step: int) -> Any:
    plain = ssr_train.Trainer.steps

    def steps(self: Any, stopped: Any) -> Any:
        for report in plain(self, stopped):
            yield report
            if report.step == step:
                raise TrainingError("line 4: it is gone")

    return steps


def test_weights_of_a_step_that_failed_halfway_are_not_kept(files, tmp_path: Path, monkeypatch, capsys) -> None:
    plain, done = torch.optim.AdamW.step, list[int]()

    def step(self: Any) -> None:
        done.append(1)
        plain(self)
        if len(done) == 2:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert main(command(files, tmp_path / "ssr.safetensors", "--save-every", "1")) == 1
    assert "; ssr.state has step 1, ssr.safetensors has step 1" in (said := capsys.readouterr().err)
    assert "step 2 was interrupted halfway (out of memory: try a smaller --batch-size (now 2)" in said
    assert load_state(tmp_path / "ssr.state").step == 1


def test_the_second_signal_acts_as_ever_unless_a_launcher_repeats_it() -> None:
    shell = signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
    try:
        with interruptible(signal.SIGINT) as asked:
            assert not asked()
            signal.raise_signal(signal.SIGINT)
            assert asked()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, shell)
    with interruptible(signal.SIGINT, again=False) as asked:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert asked()


def test_other_settings_data_and_models_are_refused(
    files: dict[str, Path], trained: Path, tmp_path: Path, capsys
) -> None:
    before = trained.read_bytes(), trained.with_suffix(".state").read_bytes()
    other = write_pictures(tmp_path, 4)
    for options, given, message in (
        (["--image-dropout", "0.1", "--seed", "3"], {}, "image_dropout was 0.0, and is 0.1 now; seed was 0, and is 3"),
        (["--start", "copy"], {}, "start was random, and is copy now"),
        ([], {"data": other}, "the list of pictures was "),
        ([], {"clip": files["second"]}, "CLIP was "),
    ):
        assert main([*command(files, trained, **given), *options, "--steps", "5"]) == 1
        assert message in (said := capsys.readouterr().err), said
        assert "Use the same ones, or choose another name for the new model" in said
    assert (trained.read_bytes(), trained.with_suffix(".state").read_bytes()) == before


def test_mistakes_are_one_line_and_write_nothing(files: dict[str, Path], tmp_path: Path, capsys) -> None:
    out = tmp_path / "ssr.safetensors"
    (tmp_path / "taken.safetensors").write_bytes(b"a model")
    (tmp_path / "bad.jsonl").write_text('{"file_name": "0.png"}')
    for arguments, message in (
        (command(files, out, data="nowhere.jsonl"), "nowhere.jsonl cannot be read"),
        (command(files, out, data=tmp_path / "bad.jsonl"), "line 1 has no caption (text is None)"),
        (command(files, tmp_path / "ssr.bin"), "end its name in .safetensors"),
        (command(files, tmp_path / "taken.safetensors"), "already exists, without taken.state"),
        (command(files, out, clip="nowhere"), "--clip nowhere: there is no such folder"),
        (command(files, out, clip=files["shallow"]), "reads 6 evenly spaced layers (CLIP ViT-L/14 has 24)"),
        (command(files, out, "--from", "nowhere.bin"), "nowhere.bin: there is no such file"),
        (command(files, out, "--from", "a", "b", "c"), "--from takes one file or two; got 3"),
        (command(files, out, "--from", "a", "--start", "random"), "--start is how untrained weights begin"),
        (command(files, out, "--start", "zero"), "start must be one of random, copy; got 'zero'"),
        (command(files, out, "--precision", "fp8"), "precision must be one of fp32, bf16; got 'fp8'"),
        (command(files, out, "--resolution", "100"), "resolution must be a multiple of 64"),
    ):
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert message in said and said.startswith("p3s ssr: ") and said.count("\n") == 1, said
    assert {path.name for path in tmp_path.iterdir()} == {"taken.safetensors", "bad.jsonl"}


def test_bf16_is_close_and_not_the_same(files: dict[str, Path], trained: Path, tmp_path: Path) -> None:
    assert main(command(files, tmp_path / "a.safetensors", "--precision", "bf16", "--checkpointing")) == 0
    one, other = load_state(trained.with_suffix(".state")), load_state(tmp_path / "a.state")
    apart = torch.cat([(one.weights[name] - other.weights[name]).flatten() for name in one.weights])
    assert 0 < apart.abs().mean() < 0.01 * 3 / 5  # of three steps at a rate of 0.01


def test_an_inpainting_model_is_refused(files: dict[str, Path]) -> None:
    models = load_stable_diffusion(files["sd"], files["clip"], resolution=SIDE)
    wide = UNetConfig.build(model_channels=32, channel_mult=(1,), transformer_depth=(1,), context_dim=64, in_channels=9)
    object.__setattr__(models, "unet", random_unet(wide))
    with pytest.raises(FamilyError, match="reads 9 channels and predicts 4, as inpainting models do"):
        glue.frozen_models(models, "fp32")


def test_every_setting_is_a_fact_or_adjustable_or_changes_no_number(files: dict[str, Path]) -> None:
    models = load_stable_diffusion(files["sd"], files["clip"], resolution=SIDE)
    found = glue.facts(models, CaptionedPictures(files["data"]), SSRTrainSettings(), RunSettings())
    adjustable = {"learning_rate", "weight_decay", "precision", "batch_size", "processes"}
    assert trainer_on(files["data"]).adjustable.keys() == adjustable and not adjustable & found.keys()
    named = adjustable | found.keys()
    assert settings_of(SSRTrainSettings).keys() <= named
    assert settings_of(RunSettings).keys() - named == {"steps", "save_every", "checkpointing", "workers"}
    assert len({found[name] for name in ("the U-Net", "the VAE", "the text encoder", "CLIP")}) == 4


def test_the_defaults_are_the_published_ones_and_help_has_examples(capsys) -> None:
    assert (RunSettings().batch_size, SSRTrainSettings().learning_rate, SSRTrainSettings().prompt_dropout) == (
        24,
        5e-5,
        0.8,
    )
    with pytest.raises(SystemExit) as stopped:
        main(["ssr", "train", "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "==SUPPRESS==" not in said and ssr_train.EXAMPLES in said and "example_data.jsonl" in said
    assert {
        f"--{name.replace('_', '-')}" for kind in (SSRTrainSettings, RunSettings) for name in settings_of(kind)
    } <= {word.strip("[],") for word in said.split()}


# several processes


@pytest.mark.slow
def test_launched_by_accelerate_as_two_processes_it_is_the_training_of_one(
    files: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    given = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    given += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *given, "-m", "p3s"]
    alone, shared = tmp_path / "alone.safetensors", tmp_path / "shared.safetensors"
    arguments = command(files, shared, "--batch-size", "1", "--learning-rate", "0.00005")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    for steps, line in (("2", "2 of 2 steps: saved to"), ("3", "continues after step 2")):
        done = run_command(
            [*launch, *arguments, "--steps", steps], env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(line) == 1 and "2 in each of" in done.stdout
    assert main(command(files, alone, "--learning-rate", "0.00005")) == 0
    one, other = load_state(alone.with_suffix(".state")), load_state(shared.with_suffix(".state"))
    assert one.facts == other.facts and one.step == other.step == 3
    assert max((one.weights[name] - w).abs().max().item() for name, w in other.weights.items()) < 1e-5
