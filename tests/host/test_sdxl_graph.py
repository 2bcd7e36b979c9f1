"""The main job on an SDXL-shaped checkpoint with both of its text encoders, by POST /prompt."""

from __future__ import annotations

import numpy as np
from host.job import Job
from host.server import Server

from p3s.subject.file import load_subject

SUBJECT = "xl_dog"


def test_two_clicks_to_a_subject_to_an_image_and_again_after_a_restart(server: Server) -> None:
    folder = server.base / "models" / "p3s"
    for file in folder.glob(f"{SUBJECT}*"):
        file.unlink()
    job = Job(server, "sdxl-slim-text")
    trained = job.train(
        job.reference(), name=SUBJECT, kind="lora", rank=4, precision="bf16", checkpointing=True, depth_stride=2
    )
    images = {
        "plain": job.image(job.model),
        "subject": job.image(job.apply(trained)),
        "off": job.image(job.apply(trained, strength=0.0)),
        "never": job.image(job.apply(trained, start_percent=0.4, end_percent=0.4)),
        "one layer less": job.image(job.apply(trained, layer_strengths="middle 0.2: 0")),
    }
    result = server.client.run_ok(job.g.graph)
    before = {name: result.images(node)[0] for name, node in images.items()}
    np.testing.assert_array_equal(before["off"], before["plain"])
    np.testing.assert_array_equal(before["never"], before["plain"])
    assert np.abs(before["subject"].astype(int) - before["plain"]).mean() > 0.5
    assert not np.array_equal(before["one layer less"], before["subject"])
    (text,) = result.outputs[trained.id]["text"]
    assert "SDXL was trained at 1024 x 1024 pixels: set resolution to 1024 (now 128)" in text
    (path,) = folder.glob(f"{SUBJECT}*.safetensors")
    subject = load_subject(path)
    assert (subject.info.family, subject.info.steps) == ("SDXL of 26 blocks", 3)
    assert subject.info.copy_settings["depth_stride"] == 2

    client = server.restart()
    job = Job(server, "sdxl-slim-text")
    loaded = job.g.add("P3S_LoadSubject", subject_file=path.name)
    image = job.image(job.apply(loaded))
    np.testing.assert_array_equal(client.run_ok(job.g.graph).images(image)[0], before["subject"])
