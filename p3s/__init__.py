"""P3S-Diffusion: selective subject-driven generation by point supervision, in plain torch.

The way of the data: points on a photo -> ``reference`` (a clean reference) -> ``training`` -> ``subject`` (a file) ->
``network`` (a step's features, and how they enter the frozen U-Net's attention) -> ``sampling``. Nothing in here knows
ComfyUI.
"""

__version__ = "0.1.0"
