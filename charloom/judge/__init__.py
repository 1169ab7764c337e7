"""Judging checkpoints: what samples show (``backend``), the table of it (``table``), and the choice (``choice``)."""
