"""Jobs per rule that follow from a change, in the small project."""

from __future__ import annotations

REPORTED = {"write_report": 1, "export_final": 1}
SWEPT = {"sample_strength": 10, "score_strengths": 1, **REPORTED}
"""The chosen checkpoint may be another one: two prompts at five strengths."""
CHOSEN = {"choose_checkpoint": 1, "verify_checkpoint": 1, **SWEPT}
AFTER_SAMPLES = {"draw_grid": 2, "score_checkpoint": 2, **CHOSEN}
FIRST_SCORES = {"draw_grid": 1, "score_checkpoint": 1, **CHOSEN}
AFTER_DATA = {"train_segment": 2, "sample_checkpoint": 4, **AFTER_SAMPLES}
EVERY_PREVIEW_OF_A_PROMPT = {"sample_checkpoint": 3}
"""Two checkpoints, and the base alone, which the report shows beside them."""
