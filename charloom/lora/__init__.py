"""Adapters: attaching, merging, exporting and checking them."""
