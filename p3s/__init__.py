"""P3S-Diffusion: selective subject-driven generation by point supervision, in plain torch.

The way of the data: ``points`` and a photo -> ``rngr`` (a clean reference) -> ``training`` -> ``subject`` (a file)
-> ``subject_copy`` (features of a step) -> ``injection`` (the frozen U-Net's attention). Nothing in here knows ComfyUI.
"""

__version__ = "0.1.0"
