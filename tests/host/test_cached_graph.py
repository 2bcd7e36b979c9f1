"""The main job with a subject network that runs once, by POST /prompt, on SD 1.5 and SDXL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from host.job import Job
from host.server import Server

from p3s.safetensors_format import read_header
from p3s.subject.file import load_subject

SUBJECT = "once"


@pytest.mark.parametrize(
    ("checkpoint", "settings"),
    [
        pytest.param("sd15-slim", {}, id="sd15"),
        pytest.param("sdxl-slim-text", {"kind": "lora", "rank": 4, "precision": "bf16"}, id="sdxl"),
    ],
)
def test_a_subject_is_trained_applied_and_loaded_after_a_restart(
    server: Server, checkpoint: str, settings: dict[str, Any]
) -> None:
    folder = server.base / "models" / "p3s"
    for file in folder.glob(f"{SUBJECT}*"):
        file.unlink()
    job = Job(server, checkpoint)
    trained = job.train(job.reference(), name=SUBJECT, copy_input="cached", **settings)
    images = {
        "plain": job.image(job.model),
        "subject": job.image(job.apply(trained)),
        "exact": job.image(job.apply(trained, mode="exact")),
        "off": job.image(job.apply(trained, strength=0.0)),
    }
    result = server.client.run_ok(job.g.graph)
    before = {name: result.images(node)[0] for name, node in images.items()}
    np.testing.assert_array_equal(before["off"], before["plain"])
    for name in ("subject", "exact"):
        assert np.abs(before[name].astype(int) - before["plain"]).mean() > 0.5

    (path,) = folder.glob(f"{SUBJECT}*.safetensors")
    assert read_header(path)[0]["format_version"] == "3"  # which earlier readers refuse by name
    subject = load_subject(path)
    assert subject.info.copy_settings["copy_input"] == "cached"
    (reference,) = subject.references
    assert reference.mask is not None
    assert reference.mask.shape == reference.latent.shape[1:]
    # The subject of the photo is in its left half.
    columns = torch.arange(reference.mask.shape[1])
    middle = (reference.mask.sum(0) * columns).sum() / reference.mask.sum()
    assert middle < reference.mask.shape[1] / 2

    client = server.restart()
    job = Job(server, checkpoint)
    image = job.image(job.apply(job.g.add("P3S_LoadSubject", subject_file=path.name)))
    np.testing.assert_array_equal(client.run_ok(job.g.graph).images(image)[0], before["subject"])
