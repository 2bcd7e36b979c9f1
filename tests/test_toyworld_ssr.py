"""The toy world's own SSR-Encoder: what it is trained on, and what the stored one does."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.toyworld_metrics import interval
from benchmarks.toyworld_ssr import encoder
from p3s.errors import P3SError
from p3s.network.hooks import PLAIN
from p3s.network.unet_config import UNetConfig
from p3s.ssr.attend import AppliedSSR, SSRHooks, SubjectRun
from p3s.ssr.embeds import encode
from p3s.ssr.file import load_ssr
from p3s.ssr.layers import SubjectLayers
from p3s.ssr.query import QuerySettings
from p3s.toyworld.scenes import BACKGROUNDS, Scene, alone, look_words, looks_of, render, scene
from p3s.toyworld.ssr import Couples, couple, pack_ssr, ssr_loss, untrained
from p3s.toyworld.world import SSR_FILE, WEIGHTS, ToyWorld, load_world, picture_of


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    return load_world()


def test_pairs_as_published_show_the_reference_itself() -> None:
    made = [couple(i, "same") for i in range(200)]
    assert all(c.target == c.reference and not c.masked and c.dropout == 0.8 for c in made)
    assert {c.reference.kind for c in made} == {"single", "twins"}
    words = {look_words(c.reference.animal, c.reference.subjects[0].look) == c.query for c in made}
    assert words == {True}


def test_other_pairs_show_the_individual_that_is_meant_elsewhere() -> None:
    made = [couple(i, "other") for i in range(1000)]
    sorts = Counter({0.8: "same", 0.5: "one of two", 0.0: "class"}[c.dropout] for c in made)
    assert sorts["same"] == pytest.approx(400, abs=50) and sorts["one of two"] == pytest.approx(400, abs=50)
    kept = set(looks_of("heldout"))
    for c in made:
        if c.dropout == 0.8:
            continue
        meant = c.reference.subjects[c.who]
        assert c.target.kind == "single" and c.target.animal == c.reference.animal
        assert [placed.look for placed in c.target.subjects] == [meant.look]
        assert c.target.background != c.reference.background
        assert meant.look.names not in kept, "individuals of the tables must be unknown"
        if c.dropout == 0.0:
            assert c.reference.kind == "single" and c.query == c.reference.animal
        else:
            assert c.reference.kind == "different"
            assert c.query == (c.reference.animal if c.masked else look_words(c.reference.animal, meant.look))
    masked = [c.masked for c in made if c.dropout == 0.5]
    assert np.mean(masked) == pytest.approx(0.5, abs=0.1)
    assert Counter(c.who for c in made if c.dropout == 0.5)[1] > 100


def test_pairs_have_known_names() -> None:
    with pytest.raises(ValueError, match="pairs must be one of same, other; got 'some'"):
        couple(0, "some")


def test_looks_in_words(world: ToyWorld) -> None:
    for look in (s.look for i in range(20) for s in scene("train", i, "different").subjects):
        text = look_words("cat", look)
        assert text.startswith(f"{look.body} cat")
        assert text.endswith(f"with {look.mark} {look.pattern}") == (look.pattern != "plain")
        world.encode_query(text)  # knows every word


def test_a_mask_leaves_the_patches_of_the_one_that_is_meant(tmp_path: Path) -> None:
    couples = Couples(60, tmp_path, "other")
    again = Couples(60, tmp_path, "other")
    assert torch.equal(couples.targets, again.targets) and len(list(tmp_path.iterdir())) == 1
    seen = 0
    for row, c in enumerate(couples.couples):
        bias, owner = couples.bias(row), render(c.reference)[1]
        assert np.array_equal(couples.references[row].numpy(), render(c.reference)[0])
        if not c.masked:
            assert bias is None
            continue
        seen += 1
        shares = (owner == c.who + 1).reshape(12, 4, 12, 4).mean((1, 3)).ravel()
        assert bias is not None and bias[0] == -torch.inf
        np.testing.assert_array_equal(bias[1:].numpy(), np.where(shares > 0.5, 0, -np.inf))
    assert seen >= 5


def test_the_loss_is_that_of_the_training_step(world: ToyWorld, tmp_path: Path) -> None:
    """Nothing of the subject's layers, and lambda L_reg is all that the reference can change."""
    trainee, couples = untrained(world.unet, 0), Couples(6, tmp_path, "other")
    loss_of = ssr_loss(trainee, couples, world, world.unet)
    with torch.no_grad():
        first = loss_of(random.Random(1), 4)
        assert loss_of(random.Random(1), 4) == first and loss_of(random.Random(2), 4) != first
        for layer in trainee.layers.index.values():
            trainee.layers.get_submodule(str(layer)).to_v_SSR.weight.zero_()
        silent = loss_of(random.Random(1), 4)
        trainee.aligner.norm.weight.mul_(-1)  # all cosines change sign: 1 - cos was below 1, or above
        turned = loss_of(random.Random(1), 4)
    assert silent != first and silent + turned != pytest.approx(2 * silent.item(), abs=1e-6)
    # Each of three scales: (1 - cos) + (1 + cos) = 2, times lambda 0.01.
    trainee.aligner.norm.weight.data.mul_(0)
    with torch.no_grad():
        zero = loss_of(random.Random(1), 4)  # cos = 0
    assert silent + turned - 2 * zero == pytest.approx(0, abs=1e-5)


def test_packed_weights_are_the_averages(world: ToyWorld, tmp_path: Path) -> None:
    trainee = untrained(world.unet, 3)
    pack_ssr(trainee.state_dict(), {"steps": 7}, tmp_path / SSR_FILE)
    model = load_ssr(tmp_path / SSR_FILE)
    assert model.aligner.heads == 4
    for key, value in model.aligner.state_dict().items():
        assert torch.equal(value, trainee.aligner.state_dict()[key])
    for key, value in trainee.layers.state_dict().items():
        assert torch.equal(model.layers[key], value.half())


def test_a_world_of_other_weights_has_an_encoder_of_its_own(world: ToyWorld, tmp_path: Path) -> None:
    for file in WEIGHTS.glob("*.safetensors"):
        if file.name != SSR_FILE:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(P3SError, match=r"hold no SSR-Encoder \(ssr\.safetensors\): train it by python -m"):
        encoder(load_world(tmp_path))
    pack_ssr(untrained(world.unet, 3).state_dict(), {}, tmp_path / SSR_FILE)
    other = encoder(load_world(tmp_path))
    assert other.sha256 == load_ssr(tmp_path / SSR_FILE).sha256 != encoder(world).sha256


def test_the_world_tells_how_it_was_made(world: ToyWorld) -> None:
    """And that its encoder was trained on these very models."""
    made = json.loads(world.made["ssr"])
    assert made["pairs"] == "other" and made["trained_steps"] == made["steps"]
    assert made["world"] == world.fingerprint()


def test_a_look_in_words_draws_the_attention_and_a_class_cannot(world: ToyWorld) -> None:
    """Of two of a class, whose share of the heat map is the larger."""
    seen: dict[str, list[float]] = {"look": [], "class": []}
    for number in range(150):
        s, who = scene("heldout", number, "different"), number % 2
        owner = torch.from_numpy(render(s)[1])
        for name, text in (("look", look_words(s.animal, s.subjects[who].look)), ("class", s.animal)):
            query, empty = world.encode_query(text)[None], world.encode_query("")[None]
            attention = encode(encoder(world), query, empty, picture_of(s), world.vision()).attention
            meant, other = (attention[owner == k + 1].mean() for k in (who, 1 - who))
            seen[name].append(float(meant > other))
    low, _ = interval(seen["look"], range(150))
    assert low > 0.5
    low, high = interval(seen["class"], range(150))
    assert low < 0.5 < high


def losses(world: ToyWorld, targets: list[Scene], references: list[tuple[Scene, int]] | None) -> list[float]:
    """The denoising loss of each target, at three levels of noise at which looks are decided, under its reference: a
    scene and which of its individuals the mask selects; without references that of the plain base."""
    layers = SubjectLayers.from_state_dict(
        encoder(world).layers, UNetConfig.from_state_dict(world.unet.state_dict()), dtype=torch.float32
    )
    found = []
    for row, target in enumerate(targets):
        hooks = PLAIN
        if references is not None:
            s, who = references[row]
            mask = torch.from_numpy(render(s)[1] == who + 1).float()
            texts = (world.encode_query(text)[None] for text in (s.animal, ""))
            how = QuerySettings(mask_mode="strict")
            made = encode(encoder(world), *texts, picture_of(s), world.vision(), mask, how).embeds
            hooks = SSRHooks([SubjectRun(AppliedSSR(made, strength=1.0), layers)], (True,))
        t = torch.tensor([600, 750, 900])
        x0 = world.encode_latent(picture_of(target))[None].expand(3, -1, -1, -1)
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(row))
        with torch.no_grad():
            context = world.encode_text(target.caption())[None].expand(3, -1, -1)
            predicted = world.unet(world.noise.add_noise(x0, eps, t), t, context, hooks)
        found.append(F.mse_loss(predicted, world.noise.target(x0, eps, t)).item())
    return found


def test_the_right_reference_lowers_the_loss_and_anothers_does_not(world: ToyWorld) -> None:
    """Of individuals that no training has seen, on another background; paired by target."""
    kept = [(scene("heldout", number, "different", "dog"), number % 2) for number in range(30)]
    rng = random.Random(0)
    backgrounds = [next(b for b in BACKGROUNDS if b != s.background) for s, _ in kept]
    targets = [alone(s, who, b, rng) for (s, who), b in zip(kept, backgrounds, strict=True)]
    plain, right = losses(world, targets, None), losses(world, targets, kept)
    shuffled = losses(world, targets, kept[1:] + kept[:1])
    for other in (plain, shuffled):
        better = [a - b for a, b in zip(other, right, strict=True)]
        low, _ = interval(better, range(len(better)))
        assert low > 0
