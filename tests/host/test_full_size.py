"""Once, in full size: 860 M parameters of random SD 1.5, CLIP ViT-L/14 and a 512 x 512 photo in 24 GB on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from host.hosts import Host
from host.job import Job, two_subjects
from host.server import Server
from PIL import Image

from p3s.subject.file import load_subject

GIB = 2**30


@pytest.mark.slow
def test_the_main_job_in_full_size(host: Host, tmp_path: Path) -> None:
    server = Server(host, tmp_path)
    photo = np.asarray(Image.fromarray(two_subjects()).resize((512, 512)))
    try:
        job = Job(server, "sd15-full")
        trained = job.train(job.reference(photo), steps=2, resolution=512)
        images = [job.image(model, size=512) for model in (job.model, job.apply(trained))]
        result = server.client.run_ok(job.g.graph, timeout=3000)
        plain, subject = (result.images(node)[0] for node in images)
        assert plain.shape == (512, 512, 3)
        assert np.abs(plain.astype(int) - subject).mean() > 0.5
        (path,) = (server.base / "models" / "p3s").glob("*.safetensors")
        parameters = sum(v.numel() for v in load_subject(path).weights.values())
        assert parameters == 595_650_072, "579.4 M of the copy, twice 8.1 M of zero convolutions, the image latent"
        peak = server.peak_memory()
        print(f"{host}: {result.seconds:.0f} s, peak {peak / GIB:.1f} GiB, file {path.stat().st_size / 2**20:.0f} MiB")
        assert peak < 24 * GIB
    finally:
        server.stop()
