"""Base models as files: their digests, their sources, and whether they are complete. No torch."""
