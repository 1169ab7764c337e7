"""What a run records is read in one place."""

from __future__ import annotations

import os
from pathlib import Path

from charloom.core import records
from charloom.core.layout import Results


def test_lines_that_are_no_records_are_left_out(tmp_path: Path) -> None:
    made = Results(tmp_path)
    assert records.of_training(made) == []
    made.training.mkdir()
    made.metrics.write_bytes(
        b'{"step": 1}\n[1]\n"step"\n\xff\n{"step": "a"}\n{"loss": 1}\n{"step": 2, "loss": 0.5}\n{"st'
    )
    assert records.of_training(made) == [{"step": 1}, {"step": 2, "loss": 0.5}]


def test_jobs_are_measured_in_the_order_in_which_they_finished(tmp_path: Path) -> None:
    made = Results(tmp_path)
    assert records.of_jobs(made) == []
    files = {
        made.benchmark("train_segment", "000050"): "s\tmax_rss\n61.5\t1500.5\n",
        made.benchmark("encode_latents", "more/a"): "s\tmax_rss\n0.4\tNA\n",
        made.benchmark("lint_dataset"): "",
        made.benchmark("draw_grid"): "s\n1\t2\n",
        made.benchmark("write_report"): "nothing\n1\n",
    }
    for when, (path, text) in enumerate(files.items()):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
        os.utime(path, (when, when))
    assert records.of_jobs(made) == [
        records.Job("train_segment", "000050", 61.5, 1500.5),
        records.Job("encode_latents", "more/a", 0.4, 0.0),
    ]


def test_a_long_curve_is_thinned_to_means() -> None:
    curve = {step: float(step) for step in range(1000)}
    points = records.thin(curve, 300)
    assert len(points) == 250 and points[0] == (1.5, 1.5) and records.thin({}) == []
    assert records.thin(curve, 1000) == list(curve.items())
