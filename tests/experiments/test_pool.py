"""Many runs side by side: lines are kept, a failure is counted and the rest goes on."""

from __future__ import annotations

import functools
from pathlib import Path

from charloom.experiments import pool


def start() -> str:
    return "ready"


def do(output: Path, state: str, task: int) -> None:
    if task == 1:
        raise ValueError("no")
    pool.append(output, {"task": task, "state": state})


def test_lines_are_written_and_a_failure_is_counted(tmp_path: Path) -> None:
    output = tmp_path / "lines.jsonl"
    left = pool.run([0, 1, 2], start, functools.partial(do, output), workers=2, threads=1)
    assert left == 1
    assert sorted(line["task"] for line in pool.known_lines([output])) == [0, 2]


def test_a_line_that_was_cut_off_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    pool.append(path, {"look": "a"})
    with open(path, "a") as file:
        file.write('{"look": "b", "pic')
    assert pool.known_lines([path, tmp_path / "none.jsonl"]) == [{"look": "a"}]
