"""Judging checkpoints: scores of samples (``backend``), their table (``table``), and the choice (``choice``)."""
