"""Subject files of earlier format versions load for ever and give the features they gave when they were written.

tests/data/subject_v1.safetensors was written by the first code that wrote subject files (format version 1), from a
copy with one level of 32 channels and seeded weights. It is never written again.
"""

import math
from pathlib import Path

import pytest
import torch

from p3s.network.copy_settings import CopySettings
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet_config import Layer, UNetConfig
from p3s.subject.file import load_subject

V1 = Path(__file__).with_name("data") / "subject_v1.safetensors"
BASE = UNetConfig.build(32, (1,), res_blocks=1, transformer_depth=(1,), context_dim=8)
#: Mean, standard deviation and eighth value of each feature, as the code that wrote the file gave them.
SELF_ATTENTION = {
    Layer("input", 1): (-0.01278, 0.94551, 1.01169),
    Layer("middle", 0): (0.00771, 1.05068, -0.81794),
    Layer("output", 0): (-0.05348, 1.03260, -0.21882),
    Layer("output", 1): (-0.00306, 1.02234, 0.46942),
}
CROSS_ATTENTION = {
    Layer("input", 1): (0.00404, 0.99075, -0.96928),
    Layer("middle", 0): (-0.06104, 1.05328, -1.00637),
    Layer("output", 0): (0.00153, 0.97762, -0.35960),
    Layer("output", 1): (0.01851, 1.03656, -0.37831),
}


def wave(*shape: int) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape)) * 0.7).reshape(shape)


def numbers(tensor: torch.Tensor) -> tuple[float, ...]:
    return tensor.mean().item(), tensor.std().item(), tensor.flatten()[7].item()


def test_a_file_of_version_1_gives_the_features_it_gave():
    subject = load_subject(V1)
    assert (subject.info.family, subject.info.steps, subject.info.identifier) == ("U-Net 32x8", 300, "sks")
    (reference,) = subject.references
    copy = SubjectCopy(BASE, CopySettings.from_dict(subject.info.copy_settings), reference.tokens.shape[1])
    copy.load_state_dict({k: v.float() for k, v in subject.weights.items()})
    with torch.no_grad():
        condition = copy.condition(reference.latent[None], reference.tokens[None])
        features = copy(wave(1, 4, 6, 5), torch.tensor([500]), wave(1, 3, 8), condition)
    assert numbers(condition) == pytest.approx((0.15808, 0.80485, 0.85601), abs=1e-4)
    for found, expected in ((features.self_attention, SELF_ATTENTION), (features.cross_attention, CROSS_ATTENTION)):
        assert found.keys() == expected.keys()
        for layer, values in expected.items():
            assert numbers(found[layer]) == pytest.approx(values, abs=1e-4), layer
