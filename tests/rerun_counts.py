"""Jobs per rule that follow from a change, in the small project."""

from __future__ import annotations

AFTER_SAMPLES = {"draw_grid": 2, "score_checkpoint": 2, "choose_checkpoint": 1, "write_report": 1, "export_final": 1}
REPORTED = {"write_report": 1, "export_final": 1}
FIRST_SCORES = {"draw_grid": 1, "score_checkpoint": 1, "choose_checkpoint": 1, **REPORTED}
AFTER_DATA = {"train_segment": 2, "sample_checkpoint": 4, **AFTER_SAMPLES}
EVERY_PREVIEW_OF_A_PROMPT = {"sample_checkpoint": 3}
"""Two checkpoints, and the base alone, which the report shows beside them."""
