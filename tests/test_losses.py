"""Eq. 11-15 against NumPy."""

import numpy as np
import pytest
import torch

from p3s.errors import P3SError
from p3s.network.unet import Attention
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.losses import attention_consistency, denoising_loss, min_snr_weights, total_loss


def maps(seed, batch=1):
    logits = torch.randn(batch, 2, 6, 5, generator=torch.Generator().manual_seed(seed))
    return logits.softmax(-1)


def test_eq_13_attention_map():
    torch.manual_seed(0)
    layer = Attention(8, 6, 2, torch.nn)
    z, text = torch.randn(1, 5, 8), torch.randn(1, 3, 6)
    with torch.no_grad():
        found = layer.attention_map(z, text)[0].numpy()
    q = z[0].numpy() @ layer.to_q.weight.detach().numpy().T
    k = text[0].numpy() @ layer.to_k.weight.detach().numpy().T
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        e = np.exp(q[:, part] @ k[:, part].T / np.sqrt(4))
        np.testing.assert_allclose(found[head], e / e.sum(-1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("norm", ["mean", "sum"])
def test_eq_11_and_12(norm):
    a, b = maps(0), maps(1)
    x, y = a.numpy(), b.numpy()
    average = (x.sum() + y.sum()) / 2 if norm == "sum" else (x.mean() + y.mean()) / 2
    expected = ((x - y) ** 2).mean() / average
    assert attention_consistency(a, b, norm).item() == pytest.approx(expected, rel=1e-5)


def test_the_printed_normaliser_is_the_number_of_rows():
    """(e) Every row sums to 1, so the sums are heads x image tokens whatever the maps are."""
    a, b = maps(0), maps(1)
    ratio = attention_consistency(a, b, "mean") / attention_consistency(a, b, "sum")
    assert ratio.item() == pytest.approx(a.numel(), rel=1e-5)


def test_a_batch_is_the_mean_of_its_images():
    a, b = maps(0, 3), maps(1, 3)
    single = [attention_consistency(a[i : i + 1], b[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(attention_consistency(a, b), torch.stack(single).mean())


def test_equal_maps_cost_nothing():
    assert attention_consistency(maps(0), maps(0)).item() == 0


def test_eq_14_and_15():
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    assert denoising_loss(x, y).item() == pytest.approx(((x - y).numpy() ** 2).mean(), rel=1e-5)
    assert total_loss(torch.tensor(2.0), torch.tensor(3.0), 0.1).item() == pytest.approx(2.3)


@pytest.mark.parametrize("masked", [False, True])
def test_row_weights_are_factors_of_the_rows_errors(masked):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 4, 5, 6, generator=generator) for _ in range(2))
    mask = (torch.rand(3, 1, 5, 6, generator=generator) < 0.5).float() if masked else torch.ones(3, 1, 5, 6)
    weights = torch.tensor([0.5, 0.0, 2.0])
    errors = (((x - y).numpy() ** 2).mean(1) * mask[:, 0].numpy()).sum((1, 2))
    expected = (errors * weights.numpy()).sum() / mask.sum().item()
    given = mask if masked else None
    assert denoising_loss(x, y, given, weights).item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(denoising_loss(x, y, given, torch.ones(3)), denoising_loss(x, y, mask))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_min_snr_is_the_published_weight(prediction):
    """Hang et al. 2023, gamma 5, at every timestep, and where nothing or all is noise."""
    alphas = torch.cat([torch.ones(1), NoiseSchedule.stable_diffusion().alphas_cumprod, torch.zeros(1)])
    found = min_snr_weights(NoiseSchedule(alphas, prediction), torch.arange(1002)).numpy()
    abar = alphas[1:-1].double().numpy()
    snr = abar / (1 - abar)
    expected = np.minimum(snr, 5) / (snr if prediction == "eps" else snr + 1)
    np.testing.assert_allclose(found[1:-1], expected, rtol=1e-4)
    assert (found[0], found[-1]) == ((0, 1) if prediction == "eps" else (0, 0))
    # The error of x_0 weighs snr times the factor for eps, (snr + 1) times that for v: min(snr, 5) for both.
    assert (found[1:-1] * (snr if prediction == "eps" else snr + 1)).max() == pytest.approx(5, rel=1e-4)


def test_an_unknown_normaliser_is_refused():
    with pytest.raises(P3SError, match="median"):
        attention_consistency(maps(0), maps(1), "median")
