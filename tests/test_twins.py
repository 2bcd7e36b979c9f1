"""The protocol of twins on small random models: its numbers, its folder of pairs, and that a killed run resumes.
DREAMBENCH_PATH names a folder of DreamBench, whose pairs are then looked at as well."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from real_models import SIDE, UNET, write_real_models
from ssr_models import random_aligner, random_layers

from benchmarks.dreambench import protocol
from benchmarks.dreambench.data import LIST, Case, read_cases
from benchmarks.dreambench.metrics import ImageEncoder
from benchmarks.dreambench.twins import pairs as pairs_of
from benchmarks.dreambench.twins.__main__ import main
from benchmarks.dreambench.twins.pairs import MISSED, PROMPTS, read_pairs, side_by_side, twosomes, write_twosomes
from benchmarks.dreambench.twins.report import table
from benchmarks.dreambench.twins.run import PHOTOS, Likeness, box_of, to_others
from benchmarks.toyworld_metrics import interval
from p3s.errors import MaskError, P3SError, PointError
from p3s.image_files import read_picture, write_png
from p3s.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from p3s.reference.points import PointSet
from p3s.sampling.ddim import generate
from p3s.ssr.attend import AppliedSSR, SubjectRun, over_sampling
from p3s.ssr.embeds import encode
from p3s.ssr.file import SSRModel, load_ssr, save_ssr
from p3s.ssr.layers import SubjectLayers
from p3s.ssr.vision import clip_vision
from p3s.subject.file import load_subject

pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

LIVE = ["a {0} {1} in the snow", "a wet {0} {1}", "a {0} {1} in a hat"]
QUICK = ["--prompts=2", "--images=2", "--sample-steps=2", "--steps=1", f"--resolution={SIDE}"]
METHODS = ["p3s", "p3s-no-rngr", "plain", "reference-only", "ssr"]
PAIRS = ("dog-dog2.png", "dog6-dog.png", "dog6-dog2.png")


def drawn(colour: int, number: int) -> torch.Tensor:
    """A picture [60, 45, 3] of one colour; its level tells one photo of a subject from another."""
    picture = torch.full((60, 45, 3), 0.1 * number)
    picture[:, :, colour] = 1
    return picture


def write_data(folder: Path) -> Path:
    """DreamBench's layout: three dogs of three photos each, and a teapot, which is of no other's class."""
    for colour, name in enumerate(("dog", "dog2", "dog6")):
        for number in range(3):
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_png(drawn(colour, number), folder / name / f"{number + 10}.png")
    (folder / "teapot").mkdir()
    write_png(drawn(0, 7), folder / "teapot" / "10.png")
    lists = "".join(
        f"\n{heading}\n\nprompt_list = [\n" + ",\n".join(f"'{prompt}'.format(u, c)" for prompt in LIVE) + "\n]\n"
        for heading in ("Object Prompts", "Live Subject Prompts")
    )
    classes = "subject_name,class\ndog,dog\ndog2,dog\nteapot,teapot\ndog6,dog\n"
    (folder / LIST).write_text(f"Classes\n\n{classes}\nPrompts\n{lists}")
    return folder


def write_nearid(folder: Path) -> Any:
    """NearID's layout: SigLIP's vision tower under other names, and code that nobody needs. Returns the tower."""
    from safetensors.torch import load_file, save_file

    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"image_size": 28, "patch_size": 14}
    tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes)).eval()
    tower.save_pretrained(folder)
    weights = {f"backbone.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code = {"AutoConfig": "configuration_nearid.NearIDConfig", "AutoModel": "modeling_nearid.NearIDModel"}
    config = {"model_type": "nearid", "architectures": ["NearIDModel"], "vision_config": sizes, "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 28, "width": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return tower


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("twins")
    paths = write_real_models(folder)
    write_nearid(folder / "nearid")
    aligner = random_aligner(query=64, vision=64, scales=2)
    ssr = save_ssr(SSRModel(aligner, random_layers(UNET).state_dict(), ""), folder / "ssr.safetensors")
    return paths | {"data": write_data(folder / "data"), "nearid": folder / "nearid", "ssr": ssr}


@pytest.fixture(scope="module")
def given(files: dict[str, Path]) -> list[str]:
    """Options that name models, and make the run short."""
    models = [f"--model={files['sd']}", f"--clip={files['clip']}", f"--ssr={files['ssr']}"]
    return [*models, f"--encoder=clip={files['clip']}", f"--encoder=dino={files['dino']}", *QUICK]


@pytest.fixture(scope="module")
def finished(given: list[str], files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "run"
    assert main([f"--data={files['data']}", *given, f"--out={out}"]) == 0
    return out


def read_scores(folder: Path, photo: str, row: str) -> list[dict[str, Likeness]]:
    """For clicks on a and b, the likeness by the encoder's fingerprint, in the order of the run's encoders."""
    texts = [(folder / photo / row / f"scores-{side}.json").read_text() for side in "ab"]
    return [{key: Likeness(**value) for key, value in json.loads(text).items()} for text in texts]


# the numbers


class Independent:
    """transformers' own models and processors, and cosines in numpy."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.clip = transformers.CLIPModel.from_pretrained(files["clip"])
        self.dino = transformers.Dinov2Model.from_pretrained(files["dino"])
        self.pixels = [transformers.AutoImageProcessor.from_pretrained(files[name]) for name in ("clip", "dino")]

    def seen(self, path: Path) -> list[np.ndarray]:
        picture = np.asarray(Image.open(path).convert("RGB"))
        inputs = [processor(images=picture, return_tensors="pt") for processor in self.pixels]
        vectors = self.clip.get_image_features(**inputs[0]), self.dino(**inputs[1])
        unit = []
        for vector in vectors:
            vector = getattr(vector, "pooler_output", vector)[0].detach().double().numpy()
            unit.append(vector / np.linalg.norm(vector))
        return unit


def truth_of(files: dict[str, Path], folder: Path, photo: str) -> list[list[Path]]:
    """The photos of each subject of a pair that are not in the picture, by comparing pixels."""
    whole = np.asarray(Image.open(folder / "pairs" / photo))
    found = []
    for half, name in zip(np.split(whole, 2, axis=1), photo.removesuffix(".png").split("-"), strict=True):
        photos = sorted((files["data"] / name).iterdir())
        found.append([path for path in photos if not np.array_equal(np.asarray(Image.open(path)), half)])
        assert len(found[-1]) == 2
    return found


def test_the_scores_are_cosines_to_the_other_photos_of_both(finished: Path, files: dict[str, Path]) -> None:
    measure, photo = Independent(files), PAIRS[0]
    truth = [[measure.seen(path) for path in paths] for paths in truth_of(files, finished, photo)]
    sketch = next((finished / "plain").iterdir())
    for row, folders in {
        "p3s": [finished / photo / "p3s" / side for side in "ab"],
        "p3s-no-rngr": [finished / photo / "p3s-no-rngr"] * 2,
        "plain": [sketch] * 2,
        "ssr": [finished / photo / "ssr" / side for side in "ab"],
    }.items():
        for wanted, scores in enumerate(read_scores(finished, photo, row)):
            pictures = [measure.seen(folders[wanted] / f"{number:02}-{k}.png") for number in (0, 1) for k in (0, 1)]
            for encoder, likeness in enumerate(scores.values()):
                for values, of in ((likeness.clicked, truth[wanted]), (likeness.other, truth[1 - wanted])):
                    expected = [np.mean([p[encoder] @ t[encoder] for t in of]) for p in pictures]
                    assert values == pytest.approx(expected, abs=1e-4)
    for wanted, scores in enumerate(read_scores(finished, photo, PHOTOS)):
        for encoder, likeness in enumerate(scores.values()):
            own, other = ([t[encoder] for t in truth[k]] for k in (wanted, 1 - wanted))
            assert likeness.clicked == pytest.approx([own[0] @ own[1]] * 2, abs=1e-4)
            assert likeness.other == pytest.approx([np.mean([p @ q for q in other]) for p in own], abs=1e-4)


def test_the_table_is_of_these_scores(finished: Path) -> None:
    text = (finished / "table.md").read_text()
    _, by_clip, by_dino, by_photo = re.split(r"\n## .*\n", text)
    for encoder, part in enumerate((by_clip, by_dino)):
        shares: dict[str, list[list[float]]] = {}
        for row in (PHOTOS, *METHODS):
            title = "real photos (3 pairs)" if row == PHOTOS else row
            cells = re.search(rf"^\| {re.escape(title)} \| (.*) \|$", part, re.MULTILINE)
            assert cells is not None
            nearer, less, own, other = cells[1].split(" | ")
            both = [[list(s.values())[encoder] for s in read_scores(finished, photo, row)] for photo in PAIRS]
            shares[row] = [[float(a > b) for s in clicks for a, b in zip(*s, strict=True)] for clicks in both]
            low, high = interval(np.ravel(shares[row]), [i for i, v in enumerate(shares[row]) for _ in v])
            assert nearer == f"{np.mean(shares[row]):.2f} [{low:.2f}, {high:.2f}]"
            assert float(own.split()[0]) == pytest.approx(np.mean([s.clicked for c in both for s in c]), abs=6e-4)
            assert float(other.split()[0]) == pytest.approx(np.mean([s.other for c in both for s in c]), abs=6e-4)
            if row in (PHOTOS, "p3s"):
                assert not less.strip()
            else:
                assert less.startswith(f"{np.mean(shares['p3s']) - np.mean(shares[row]):.2f} [")
    assert "| dog-dog2.png | dog | dog | dog2 | 2, 2 | " in by_photo
    assert text.count("3 of 3 photos so far") == 1 and "2 prompts, 2 pictures each; DDIM, 2 steps" in text
    assert "clicks change nothing in p3s-no-rngr and plain" in text and "other than the defaults: steps = 1\n" in text
    sheet = read_picture(finished / "sheet.png")
    assert sheet.shape[0] > 6 * 200 and sheet.shape[1] > 5 * 200


def test_what_clicks_do_not_change_is_right_for_one_of_the_two(finished: Path) -> None:
    for photo in PAIRS:
        for row in ("plain", "p3s-no-rngr"):
            a, b = read_scores(finished, photo, row)
            for key in a:
                assert a[key] == Likeness(b[key].other, b[key].clicked)
                assert np.add(a[key].nearer, b[key].nearer).tolist() == [1.0] * 4
    for row in ("p3s", "reference-only", "ssr"):
        a, b = (finished / PAIRS[0] / row / side / "00-0.png" for side in "ab")
        assert a.read_bytes() != b.read_bytes()


def test_nearer_and_leave_one_out_by_hand() -> None:
    assert Likeness((0.5, 0.5, 0.5), (0.4, 0.5, 0.6)).nearer == [1.0, 0.5, 0.0]
    unit = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8]])
    torch.testing.assert_close(to_others(unit), torch.tensor([0.3, 0.4, 0.7]))


def test_photos_are_redrawn_whole() -> None:
    """Twenty pictures of two photos, all right in one and wrong in the other: the interval is that of two."""
    case = Case("p.png", "dog", (), ())
    twins = (pairs_of.Twin("a", ()), pairs_of.Twin("b", ()))
    right, wrong = Likeness((1.0,) * 10, (0.0,) * 10), Likeness((0.0,) * 10, (1.0,) * 10)
    pairs = [pairs_of.Pair(case, twins), pairs_of.Pair(Case("q.png", "dog", (), ()), twins)]
    scores = {"p.png": {("p3s", "clip"): (right, right)}, "q.png": {("p3s", "clip"): (wrong, wrong)}}
    assert "| p3s | 0.50 [0.00, 1.00] |  | 0.500 [0.000, 1.000] |" in table("x", scores, pairs, ["p3s"], ["clip"], [])


# the methods


def test_a_click_trains_on_its_subject_and_without_rngr_on_the_photo(finished: Path) -> None:
    pair = read_pairs(finished / "pairs")[0]
    photo = read_picture(pair.photo)
    for wanted, side in enumerate("ab"):
        subject = load_subject(finished / pair.name / "p3s" / side / "subject.safetensors")
        assert PointSet.parse(subject.info.points[0]) == pair.clicks(wanted)
        assert subject.info.prompt == "a photo of a sks dog" and subject.info.train_settings["views"] == "whole+subject"
    blind = load_subject(finished / pair.name / "p3s-no-rngr" / "subject.safetensors")
    assert not torch.equal(blind.references[0].tokens, subject.references[0].tokens)
    assert sorted(p.name for p in (finished / pair.name / "p3s-no-rngr").glob("*.safetensors")) == [
        "subject.safetensors"
    ]
    assert photo.shape == (60, 90, 3)


@torch.no_grad()
def test_ssr_reads_the_clean_picture_and_its_mask(finished: Path, files: dict[str, Path]) -> None:
    models = load_stable_diffusion(files["sd"], files["clip"], resolution=SIDE)
    pair = read_pairs(finished / "pairs")[0]
    reference = models.reference(read_picture(pair.photo), pair.clicks(1))
    ssr = load_ssr(files["ssr"])
    query, empty = (models.encode_text(text)[None] for text in ("dog", ""))
    vision = clip_vision(models.clip, 2)
    embeds = encode(ssr, query, empty, reference.image, vision, reference.subject_mask).embeds
    run = SubjectRun(AppliedSSR(embeds), SubjectLayers.from_state_dict(ssr.layers, UNET))
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1001))
    texts = [models.encode_text(text) for text in ("a wet dog", "")]
    *_, last = generate(models.unet, *texts, models.noise, start, (), 2, over=over_sampling([run]))
    picture = models.vae.decode(last / models.vae.config.scaling_factor).sample[0].movedim(0, -1)
    kept = read_picture(finished / pair.name / "ssr" / "b" / "01-1.png")
    torch.testing.assert_close(kept, (picture / 2 + 0.5).clamp(0, 1), atol=0.01, rtol=0)


def test_without_weights_ssr_is_left_out(given: list[str], files: dict[str, Path], tmp_path: Path, capsys) -> None:
    options = [option for option in given if not option.startswith("--ssr")]
    options += [f"--data={files['data']}", "--subjects", "dog", "dog2", f"--out={tmp_path / 'run'}"]
    assert main([*options, "--methods", "plain", "ssr"]) == 0
    text = (tmp_path / "run" / "table.md").read_text()
    assert "ssr is left out: no --ssr" in text and "| plain |" in text and "| ssr |" not in text
    assert main([*options, "--methods", "ssr"]) == 1
    assert "give --ssr FILE" in capsys.readouterr().err


# resuming


class Watch:
    """Counts trainings and sampled pictures, and stops the run after some pictures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
        self.trained, self.sampled = 0, 0
        train, sample = protocol.train_subject, StableDiffusion.sample

        def counted_train(*args: Any, **kwargs: Any) -> Any:
            self.trained += 1
            return train(*args, **kwargs)

        def counted_sample(models: StableDiffusion, prompt: str, seeds: list[int], *args: Any) -> Any:
            if self.sampled >= stop_after:
                raise KeyboardInterrupt
            self.sampled += len(seeds)
            return sample(models, prompt, seeds, *args)

        monkeypatch.setattr(protocol, "train_subject", counted_train)
        monkeypatch.setattr(StableDiffusion, "sample", counted_sample)


def run(given: list[str], out: Path, stop_after: int = 10**9) -> Watch:
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch = Watch(monkeypatch, stop_after)
        try:
            assert main([*given, f"--out={out}"]) == 0
        except KeyboardInterrupt:
            assert watch.sampled == stop_after
        return watch


def test_a_killed_run_resumes(given: list[str], files: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    """A photo has 2 + 1 trainings, and 4 pictures of each of them and of each click by the two other methods; the plain
    ones are of the class."""
    options, out = [f"--data={files['data']}", *given], tmp_path / "run"
    first = run(options, out, stop_after=10)
    assert (first.trained, first.sampled) == (3, 10)
    second = run(options, out)
    assert (second.trained, second.sampled) == (6, 3 * (3 * 4 + 4 * 4) + 4 - 10)
    third = run(options, out)
    assert (third.trained, third.sampled) == (0, 0)
    text, expected = ((folder / "table.md").read_text() for folder in (out, finished))
    assert text.replace(str(out), "") == expected.replace(str(finished), "")


def test_a_table_grows_photo_by_photo(given: list[str], files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*given, f"--data={files['data']}", "--methods", "reference-only"]
    run(options, out, stop_after=10)
    assert "1 of 3 photos so far" in (out / "table.md").read_text()
    run(options, out)
    assert "3 of 3 photos so far" in (out / "table.md").read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}'])
def test_damaged_scores_are_made_again(given, files, finished: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    file = out / PAIRS[0] / "p3s" / "scores-b.json"
    before = json.loads(file.read_text())
    file.write_text(content)
    watch = run([f"--data={files['data']}", *given], out)
    assert (watch.trained, watch.sampled) == (0, 0)
    after = json.loads(file.read_text())
    assert {key: after[key] for key in before} == before


def test_another_encoder_adds_to_what_is_there(given, files, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    watch = run([f"--data={files['data']}", *given, f"--encoder=nearid={files['nearid']}"], out)
    assert (watch.trained, watch.sampled) == (0, 0)
    text = (out / "table.md").read_text()
    assert "\n## By nearid\n" in text and text.startswith((finished / "table.md").read_text()[:60])
    assert [len(scores) for scores in read_scores(out, PAIRS[1], "ssr")] == [3, 3]


def test_more_prompts_add_to_what_is_there(given, files, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    watch = run([f"--data={files['data']}", *given, "--prompts=3", "--photos=1"], out)
    assert (watch.trained, watch.sampled) == (0, 8 * 2)  # two clicks by three methods, and two that are blind


def test_a_folder_of_other_results_is_refused(given, files, finished: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    data = f"--data={files['data']}"
    for option, named in (("--guidance=3", "guidance"), ("--blur=0.5", "masks blur"), ("--gamma=0.2", "train gamma")):
        assert main([data, *given, option, f"--out={out}"]) == 1
        assert f"holds the results of another run, which differs in {named}" in capsys.readouterr().err
    pairs = json.loads((finished / "pairs" / "pairs.json").read_text())
    pairs["photos"][PAIRS[1]]["b"]["points"] = [[0.8, 0.5]]
    shutil.copytree(finished / "pairs", tmp_path / "mine")
    (tmp_path / "mine" / "pairs.json").write_text(json.dumps(pairs))
    assert main([f"--twins={tmp_path / 'mine'}", *given, f"--out={out}"]) == 1
    said = capsys.readouterr().err
    assert PAIRS[1] in said and "which differs in points on b" in said
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == before


# pairs of DreamBench


def test_two_photos_side_by_side() -> None:
    left, right = torch.rand(30, 40, 3), torch.rand(30, 20, 3)
    whole, points = side_by_side(left, right)
    assert torch.equal(whole, torch.cat([left, right], 1))
    assert points == ((20 / 60, 0.5), (50 / 60, 0.5))
    taller = torch.tensor([0.2, 0.4, 0.6]).expand(60, 40, 3)
    whole, points = side_by_side(taller, right)
    torch.testing.assert_close(whole[:, :20], taller[:30, :20])
    assert torch.equal(whole[:, 20:], right) and points == ((10 / 40, 0.5), (30 / 40, 0.5))


def test_pairs_are_of_one_class_and_do_not_depend_on_what_else_is_there(files: dict[str, Path], tmp_path: Path) -> None:
    found = twosomes(read_cases(files["data"])[0])
    assert tuple(two.name for two in found) == PAIRS
    few = twosomes(read_cases(files["data"], ["dog", "dog6"])[0])
    assert [(two.name, two.photos) for two in few] == [(found[1].name, found[1].photos)]
    with pytest.raises(P3SError, match="no two of the subjects dog, teapot are of one class"):
        twosomes(read_cases(files["data"], ["dog", "teapot"])[0])
    write_twosomes(found, tmp_path / "pairs")
    for pair, two in zip(read_pairs(tmp_path / "pairs"), found, strict=True):
        whole = read_picture(pair.photo)
        for half, case, number, twin in zip(
            whole.split(45, 1), (two.left, two.right), two.photos, pair.twins, strict=True
        ):
            assert torch.equal(half, read_picture(case.photos[number])) and twin.name == case.name
            assert set(twin.truth) == {photo.resolve() for photo in case.photos} - {case.photos[number].resolve()}
        assert pair.clicks(0) == PointSet(((0.25, 0.5),), ((0.75, 0.5),))
        assert pair.clicks(1) == PointSet(((0.75, 0.5),), ((0.25, 0.5),))
        assert (pair.case.kind, pair.case.prompts) == ("dog", tuple(LIVE))


def test_photos_without_the_subject_in_the_middle_are_not_taken() -> None:
    cases = [Case(name, "k", tuple(Path(f"{n:02}.jpg") for n in range(6)), ()) for name in MISSED]
    for two in twosomes(cases):
        for case, number in zip((two.left, two.right), two.photos, strict=True):
            assert case.photos[number].stem not in MISSED[case.name]


@pytest.mark.skipif("DREAMBENCH_PATH" not in os.environ, reason="DREAMBENCH_PATH names no DreamBench")
def test_the_data_sets_own_pairs() -> None:
    cases, _ = read_cases(Path(os.environ["DREAMBENCH_PATH"]))
    found = {frozenset((two.left.name, two.right.name)) for two in twosomes(cases)}
    assert {frozenset(("dog", "dog2")), frozenset(("cat", "cat2")), frozenset(("backpack", "backpack_dog"))} <= found
    assert frozenset(("cat", "dog")) not in found


# the folder of pairs


def write_pairs(folder: Path, **changes: Any) -> Path:
    """A folder with a photo of two halves, and what ``changes`` makes of its list's entry."""
    folder.mkdir(exist_ok=True)
    write_png(torch.cat([drawn(0, 0), drawn(2, 0)], 1), folder / "park.png")
    write_png(drawn(0, 1), folder / "rex.png")
    entry = {"class": "dog", "a": {"points": [[0.25, 0.5]]}, "b": {"points": [[0.75, 0.5]]}} | changes
    (folder / "pairs.json").write_text(json.dumps({"photos": {"park.png": entry}}))
    return folder


def test_without_photos_of_their_own_the_truth_is_cut_out(given: list[str], tmp_path: Path) -> None:
    folder, out = write_pairs(tmp_path / "mine"), tmp_path / "run"
    (pair,) = read_pairs(folder)
    assert pair.case.prompts == PROMPTS and pair.clicks(1) == PointSet(((0.75, 0.5),), ((0.25, 0.5),))
    watch = run([*given, f"--twins={folder}", "--methods", "plain"], out)
    assert (watch.trained, watch.sampled) == (0, 4)
    text = (out / "table.md").read_text()
    assert "the truth is a crop of the very photo" in text and "real photos" not in text
    assert "| park.png | dog | a | b | 0, 0 | " in text
    clip = Path(given[1].split("=")[1])
    models = load_stable_diffusion(given[0].split("=")[1], clip, resolution=SIDE)
    photo, encoder = read_picture(folder / "park.png"), ImageEncoder(clip, "cpu")
    (sketch,) = (out / "plain").iterdir()
    picture = encoder([read_picture(sketch / "00-0.png")])
    for wanted, scores in enumerate(read_scores(out, "park.png", "plain")):
        crop = photo[box_of(models.reference(photo, pair.clicks(wanted)).subject_mask)]
        expected = torch.cosine_similarity(picture, encoder([crop])).item()
        assert scores[encoder.fingerprint].clicked[0] == pytest.approx(expected, abs=1e-5)


def test_a_crop_is_the_mask_with_a_margin() -> None:
    mask = torch.zeros(60, 90)
    mask[20:40, 5:25] = 1
    assert box_of(mask) == (slice(18, 42), slice(3, 27))
    mask[2:58, 1:88] = 1
    with pytest.raises(MaskError, match="most of the photo"):
        box_of(mask)


A, B = {"points": [[0.25, 0.5]]}, {"points": [[0.75, 0.5]]}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"class": 3}, P3SError, "park.png: class must be a word"),
        ({"c": A}, P3SError, "park.png: expected class, a and b"),
        ({"a": [[0.2, 0.5]]}, P3SError, "park.png, a: expected points"),
        ({"a": {"points": []}}, PointError, "park.png, a: There is no positive point"),
        ({"b": {"points": [[75, 50]]}}, PointError, "park.png, b: .*outside"),
        ({"b": B | {"thruth": []}}, P3SError, "park.png, b: expected points, and perhaps truth and name"),
        ({"b": B | {"truth": ["max.png"]}}, P3SError, "park.png, b: truth: there is no file .*max.png"),
        ({"b": B | {"truth": "rex.png"}}, P3SError, "truth a list of files"),
        ({"a": A | {"truth": ["rex.png"]}}, P3SError, "only one subject has photos of its own"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, changes: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        read_pairs(write_pairs(tmp_path / "mine", **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected JSON such as"),
        ("{", "expected JSON such as"),
        ('{"photos": {}}', "expected JSON such as"),
        ('{"photos": {"park.png": {}}, "x": 1}', "expected JSON such as"),
        ('{"photos": {"town.png": {}}}', "town.png: there is no such photo"),
        ('{"photos": {"../park.png": {}}}', "expected the name of a"),
        ('{"photos": {"pairs.json": {}}}', "expected the name of a"),
        ('{"photos": {"park.png": {}}, "prompts": {"dog": ["a dog"]}}', "prompts of dog: expected a list"),
        ('{"photos": {"park.png": {}}, "prompts": {"dog": ["a {0} {1} {2}"]}}', "prompts of dog: expected a list"),
        ('{"photos": {"park.png": {}}, "prompts": {"dog": "a {0} {1}"}}', "prompts of dog: expected a list"),
    ],
)
def test_a_wrong_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    folder = write_pairs(tmp_path / "mine")
    (folder / "pairs.json").write_text(text)
    with pytest.raises(P3SError, match=message) as raised:
        read_pairs(folder)
    assert "pairs.json" in str(raised.value)


def test_all_clicks_without_a_mask_are_named_before_anything_is_done(given, files, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:

        def no_mask(models: Any, picture: Any, points: PointSet, settings: Any) -> None:
            if points.positive[0][0] > 0.5:
                raise MaskError("The whole picture looks the same.")

        monkeypatch.setattr(StableDiffusion, "reference", no_mask)
        assert main([f"--data={files['data']}", *given, f"--out={out}"]) == 1
    said = capsys.readouterr().err
    assert "no mask follows from 3 of the clicks" in said and said.count("\n") == 1
    assert all(f"{photo}, b: The whole picture looks the same." in said for photo in PAIRS)
    assert [path.name for path in out.iterdir()] == ["pairs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data=/nowhere"], LIST),
        (["--twins=/nowhere"], "pairs.json"),
        (["--encoder=clip"], "--encoder clip: expected NAME=FOLDER"),
        (["--encoder=dino=/tmp"], "with another name for every encoder"),
        (["--encoder=x=/nowhere"], "--encoder x /nowhere: there is no such folder"),
        (["--prompts=0"], "--prompts must be 1 or more"),
        (["--ssr", "a", "b", "c"], "--ssr: expected one file or two"),
        (["--ssr=/nowhere"], "nowhere"),
        (["--model=/nowhere"], "nowhere"),
        (["--zero-init=one"], "zero_init must be one of"),
    ],
)
def test_mistakes_are_one_line(given, files, change: list[str], message: str, tmp_path: Path, capsys) -> None:
    data = [] if any("--data" in option or "--twins" in option for option in change) else [f"--data={files['data']}"]
    assert main([*data, *given, *change, f"--out={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("twins: ") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# encoders


def test_nearid_is_read_without_its_code(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tower = write_nearid(tmp_path / "nearid")
    picture = torch.rand(40, 50, 3)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "nearid")
    pixels = processor(images=(picture * 255).round().byte().numpy(), return_tensors="pt")
    expected = tower(**pixels).pooler_output.detach()
    found = ImageEncoder(tmp_path / "nearid", "cpu")([picture, picture])
    torch.testing.assert_close(found, expected.expand(2, -1))


def test_an_encoder_without_all_of_its_weights_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "half"
    shutil.copytree(files["dino"], folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "layernorm.weight"}, folder / "model.safetensors")
    with pytest.raises(P3SError, match=r"half: the weights lack layernorm\.weight"):
        ImageEncoder(folder, "cpu")
    with pytest.raises(P3SError, match="no image encoder can be read there"):
        ImageEncoder(tmp_path, "cpu")
