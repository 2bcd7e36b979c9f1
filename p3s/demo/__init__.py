"""The demo: the whole chain from two clicks to generated pictures in the toy world, without ComfyUI or downloads.

``chain`` walks the way, ``sheet`` draws the result, ``stand_ins`` serves the command ``mask`` without CLIP. Each
is an ordinary user of the core.
"""
