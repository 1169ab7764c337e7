"""Adapters: attaching, merging, exporting and checking them."""

Z_IMAGE_WIDTH = 3840
"""Width of the transformer that ComfyUI knows as Z-Image."""
