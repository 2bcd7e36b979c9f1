"""The rows of SSR-Encoder in the toy world's tables: what each way sees, and that nothing else differs from plain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import toyworld, toyworld_sampling, toyworld_ssr
from benchmarks.toyworld_methods import METHODS, SSR_ROWS
from benchmarks.toyworld_ssr import SSRWay
from benchmarks.toyworld_trained import Trained, clicked
from p3s.network.hooks import PLAIN
from p3s.ssr.attend import SSRHooks
from p3s.toyworld.scenes import look_words, scene
from p3s.toyworld.world import ToyWorld, load_world, picture_of

BUDGET = toyworld.Budget(backgrounds=1, seeds=2, sample_steps=3)
NUMBER = 1  # the second of the two is clicked


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    return load_world()


@pytest.mark.parametrize(
    ("name", "look", "clean", "mask"),
    [
        ("ssr-word", False, False, None),
        ("ssr-look", True, False, None),
        ("ssr-mask", False, False, "strict"),
        ("ssr-mask-soft", False, False, "soft"),
        ("ssr-clean", False, True, None),
        ("ssr-clean-mask", False, True, "strict"),
        ("ssr-clean-mask-soft", False, True, "soft"),
    ],
)
def test_a_row_sees_what_it_names(
    world: ToyWorld, monkeypatch: pytest.MonkeyPatch, name: str, look: bool, clean: bool, mask: str | None
) -> None:
    seen: dict[str, Any] = {}
    encode = toyworld_ssr.encode

    def recorded(
        model: Any, query: Tensor, empty: Tensor, photo: Tensor, vision: Any, where: Any, how: Any, **more: Any
    ):
        seen.update(query=query, empty=empty, photo=photo, mask=where, how=how)
        return encode(model, query, empty, photo, vision, where, how, **more)

    monkeypatch.setattr(toyworld_ssr, "encode", recorded)
    row, shown = toyworld.run_one(world, name, NUMBER, BUDGET, {})
    s = scene("heldout", NUMBER, "different")
    reference = toyworld.reference_of(world, s, NUMBER % 2, True)
    assert reference is not None and not torch.equal(reference.image, picture_of(s))
    text = look_words(s.animal, s.subjects[1].look) if look else s.animal
    assert torch.equal(seen["query"][0], world.encode_query(text))
    assert torch.equal(seen["empty"][0], world.encode_query(""))
    assert torch.equal(seen["photo"], reference.image if clean else picture_of(s))
    if mask is None:
        assert seen["mask"] is None
    else:
        assert torch.equal(seen["mask"], reference.subject_mask) and seen["how"].mask_mode == mask
    assert (row["train_seconds"], len(shown)) == (0, 4)


def test_at_strength_0_a_row_is_the_plain_models(world: ToyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS["ssr-look"]
    monkeypatch.setitem(METHODS, "off", replace(method, ssr=replace(method.ssr, strength=0.0)))
    off, plain, on = (toyworld.run_one(world, name, NUMBER, BUDGET, {})[1] for name in ("off", "plain", "ssr-look"))
    assert all(torch.equal(a, b) for a, b in zip(off[2:], plain[2:], strict=True))
    assert not torch.equal(on[2], plain[2])


def test_only_rows_of_clicks_fail_where_the_clicks_give_no_mask(
    world: ToyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toyworld, "reference_of", lambda world, s, wanted, rngr: None if rngr else object())
    monkeypatch.setattr(toyworld, "train_one", lambda *_: (world, {}, {"train_seconds": 0.0}))
    kept = {name: METHODS[name].rngr for name in SSR_ROWS}
    assert kept == {name: "mask" in name or "clean" in name for name in SSR_ROWS}
    row, _ = toyworld.run_one(world, "ssr-clean-mask", NUMBER, BUDGET, {})
    assert not row["masked"] and row["selection"] == [0.0, 0.0]


def test_two_subjects_share_one_attention_or_have_one_each(world: ToyWorld) -> None:
    pair = []
    for number in (1, 4):
        s = scene("heldout", number, "different", "dog")
        pair.append(Trained(number, s, None, torch.empty(0)))  # type: ignore[arg-type]
        assert pair[-1].wanted == clicked(s, number).look
    masks = [toyworld_sampling.side_mask(right, False) for right in (False, True)]
    tokens = []
    for where in ([None, None], masks):
        hooks = toyworld_sampling.ssr_over(world, pair, where)(PLAIN, 999, (False, True))
        assert isinstance(hooks, SSRHooks)
        tokens.append([sum(s.c.shape[1] for s in run.applied.embeds.subjects) for run in hooks.runs])
    assert tokens == [[2 * 42], [42, 42]]
    assert SSRWay().clicked is False and METHODS["ssr-clean-mask"].ssr.clicked
