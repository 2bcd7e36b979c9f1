"""The demo: the whole chain from two clicks to generated pictures, in one minute, without ComfyUI or downloads.

``scene`` draws the photo, ``stand_ins`` holds small untrained models, ``chain`` walks the way, ``sheet`` draws the
result. Each is an ordinary user of the core.
"""
