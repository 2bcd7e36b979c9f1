"""Whether a subject fits the model that it is applied to, and what is said where it does not."""

from __future__ import annotations

import pytest
import torch
from subjects import make_subject

from p3s.errors import FamilyError, P3SError, SubjectFileError
from p3s.subject.file import check_family, check_weights, reference_of


def test_check_weights():
    subject = make_subject()
    expected = {key: tensor.shape for key, tensor in subject.weights.items()}
    check_weights(subject, expected)
    with pytest.raises(SubjectFileError, match=r"zero\.1\.bias is 5, expected 7 x 2"):
        check_weights(subject, {**expected, "zero.1.bias": torch.Size([7, 2])})
    with pytest.raises(SubjectFileError, match="new is missing"):
        check_weights(subject, {**expected, "new": torch.Size([1])})
    expected.pop("zero.1.bias")
    with pytest.raises(SubjectFileError, match=r"zero\.1\.bias is unexpected"):
        check_weights(subject, expected)
    with pytest.raises(SubjectFileError, match=r"and 9 more"):
        check_weights(subject, {f"x{i}": torch.Size([1]) for i in range(10)})


def test_check_family():
    subject = make_subject()
    assert check_family(subject, "SD1.x", "ab" * 32) == ()
    (warning,) = check_family(subject, "SD1.x", "00" * 32)
    assert "other weights of the same family" in warning
    with pytest.raises(FamilyError, match=r"trained on an SD 1.x model, but this is an SD 2.x model. Use"):
        check_family(subject, "SD2.x", "ab" * 32)
    with pytest.raises(FamilyError, match=r"but this is a model of another kind \(U-Net 32x48\)"):
        check_family(subject, "U-Net 32x48", "ab" * 32)


def test_a_reference_that_there_is_not_is_refused():
    subject = make_subject(2)
    assert reference_of(subject, 1) is subject.references[1]
    with pytest.raises(P3SError, match=r"reference_index must lie in 0..1: the subject was trained on 2 photos; got 2"):
        reference_of(subject, 2)
    with pytest.raises(P3SError, match=r"0..0: the subject was trained on one photo; got -1"):
        reference_of(make_subject(), -1)
