"""Sampling with SSR-Encoder's subjects: their window, and beside a P3S subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from small import SMALL, random_copy, random_unet
from ssr_models import rand, random_embeds, random_layers
from torch import Tensor

from p3s.network.hooks import PLAIN, AttentionHooks
from p3s.network.injection import EffectMask, Injection, InjectionHooks
from p3s.network.unet_config import Layer
from p3s.sampling.application import Application, AppliedSubject
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule
from p3s.ssr.attend import AppliedSSR, SSRHooks, SubjectRun, attention, over_sampling


def run(**options: Any) -> SubjectRun:
    return SubjectRun(AppliedSSR(random_embeds(), **{"strength": 0.8} | options), random_layers())


def sample(over: Any = None, subjects: Sequence[AppliedSubject] = (), guidance: float = 5.0, steps: int = 4) -> Tensor:
    prompt, empty = rand(7, 24, seed=1), rand(7, 24, seed=2)
    more = {} if over is None else {"over": over}
    noise = NoiseSchedule.stable_diffusion()
    *_, last = generate(random_unet(), prompt, empty, noise, rand(2, 4, 8, 8), subjects, steps, guidance, **more)
    return last


def test_a_window_acts_in_its_steps_alone() -> None:
    acting: list[tuple[float, bool]] = []

    def watched(*runs: SubjectRun) -> Any:
        over = over_sampling(runs)

        def call(hooks: AttentionHooks, t: int, prompts: Sequence[bool]) -> AttentionHooks:
            found = over(hooks, t, prompts)
            acting.append((1 - t / 999, found is not hooks))
            return found

        return call

    plain = sample()
    assert torch.equal(sample(watched(run(start=0.3, end=0.3))), plain)
    assert not any(on for _, on in acting)
    acting.clear()
    windowed = sample(watched(run(start=0.3, end=0.8)))
    assert [(round(percent, 2), on) for percent, on in acting] == [
        (0.25, False),
        (0.5, True),
        (0.75, True),
        (1.0, False),
    ]
    assert not torch.equal(windowed, plain)
    # Without guidance the batch is the prompt's alone.
    assert not torch.equal(sample(over_sampling([run()]), guidance=1.0), sample(guidance=1.0))


def test_with_a_p3s_subject_each_alone_is_as_without_the_other() -> None:
    base = random_unet()
    copy = random_copy(base)
    subject = AppliedSubject(copy, copy.condition(rand(1, 4, 8, 8, seed=3), rand(1, 17, 20, seed=4)))
    off = over_sampling([run(strength=0.0)])
    ssr, p3s = sample(over_sampling([run()])), sample(None, [subject])
    assert torch.equal(sample(off, [subject]), p3s)
    silent = AppliedSubject(copy, subject.condition, Application(strength=0.0))
    assert torch.equal(sample(over_sampling([run()]), [silent]), ssr)
    both = sample(over_sampling([run()]), [subject])
    assert not torch.equal(both, ssr) and not torch.equal(both, p3s)


def test_over_a_p3s_subject_the_added_part_reads_its_queries_and_all_else_is_left_to_it() -> None:
    base, first = random_unet(), SMALL.layers()[0]
    copy = random_copy(base)
    x, t, context = rand(2, 4, 16, 16), torch.tensor([400.0, 400.0]), rand(2, 7, 24, seed=1)
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    class Watched(SSRHooks):
        def cross_attention_result(self, layer: Layer, out: Tensor, q: Tensor, *more: Any) -> Tensor:
            result = super().cross_attention_result(layer, out, q, *more)
            if layer == first:
                seen[name] = out, q, result
            return result

    with torch.no_grad():
        features = copy(x, t, context, copy.condition(rand(1, 4, 16, 16, seed=3), rand(1, 17, 20, seed=4)))
        p3s = InjectionHooks(Injection(features, 0.2, EffectMask(torch.ones(4, 4).tril())))
        outputs = {}
        for name, runs, over in (("plain", [], PLAIN), ("p3s", [], p3s), ("both", [run()], p3s)):
            outputs[name] = base(x, t, context, Watched(runs, (True,), over))
        assert torch.equal(outputs["plain"], base(x, t, context))
        assert torch.equal(outputs["p3s"], base(x, t, context, p3s))
    out, q, result = seen["both"]
    assert torch.equal(q, seen["p3s"][1]) and not torch.equal(q, seen["plain"][1])
    k, v = random_layers().project(first, random_embeds().subjects[0].c)
    part = attention(q, k.expand(2, -1, -1), v.expand(2, -1, -1), 8)
    torch.testing.assert_close(result, out + 0.8 * part, atol=1e-6, rtol=1e-6)
