"""``charloom try``: some steps and one row of previews, and what they say about the whole run.

The steps are the beginning of the run itself, which continues from them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.cli import planning, pricing, running, steering
from charloom.config.character import Character
from charloom.core import last_run, records
from charloom.core.errors import UserError
from charloom.core.layout import Results, results
from charloom.core.numbers import roughly
from charloom.train import progress
from charloom.workflow.training import UNTIL

GIB = 2**30


@dataclass(frozen=True)
class Trial:
    """What a trial has measured. Times in seconds, memory in bytes.

    ``first`` and ``last`` are the mean losses of the first and the last third of the steps, ``error`` is the standard
    error of their difference, ``row`` the time of one checkpoint's previews.
    """

    steps: int
    first: float
    last: float
    error: float
    per_step: float | None
    memory: int
    row: float | None
    problems: tuple[str, ...]

    @property
    def trend(self) -> str:
        """``falling``, ``rising``, or ``level`` if the noise of the losses hides it."""
        change = self.last - self.first
        if not abs(change) > 2 * self.error:
            return "level"
        return "falling" if change < 0 else "rising"


def settings(root: Path, name: str, given: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Options for snakemake, and the settings that they override: those given, or those of the last run."""
    before = last_run.of(root, name)
    if last_run.sets(given) or before == last_run.LastRun():
        return list(given), pricing.overrides(given, root)
    options = last_run.without_cores(before.options) if last_run.cores_given(given) else before.options
    return [*options, *given], before.config


def run(root: Path, character: Character, steps: int, options: Sequence[str]) -> None:
    """Train and draw up to ``steps`` with snakemake, which writes to this terminal.

    Raises:
        UserError: the run is not longer than that, there is nothing to try, or snakemake has failed.
    """
    whole = character.saved_steps[-1]
    if steps >= whole:
        raise UserError(f"{character.id}: the whole run has {whole} steps; try fewer with --steps")
    _not_in_training(root, character)
    _not_trained(root, character, options)
    target = results(character.id).grid(steps)
    if not character.prompt_names:
        target = results(character.id).checkpoint(steps)
    cores = [] if last_run.cores_given(options) else ["--cores", "all"]
    # The trainer would otherwise run ahead to the end of the whole run.
    if running.snakemake([target.as_posix(), *cores, *options], root, {UNTIL: str(steps)}):
        raise UserError(f"try: {character.id} did not get to step {steps}; look at snakemake's lines above")


def _not_in_training(root: Path, character: Character) -> None:
    """Refuse beside a running trainer: Snakemake would wait for it, and then train the first steps again."""
    folder = results(character.id, root).training
    told = progress.read(folder)
    if told and steering.running(told):
        where = f"step {told.step} of {told.steps}"
    elif progress.started(folder):
        where = "before its first step"
    else:
        return
    raise UserError(
        f"{character.id}: is training ({where}), so there is nothing to try; "
        f"wait, or end it with charloom stop {character.id}"
    )


def _not_trained(root: Path, character: Character, options: Sequence[str]) -> None:
    """Refuse after the whole run, unless the settings have changed since, which Snakemake knows."""
    whole = character.saved_steps[-1]
    last = results(character.id).checkpoint(whole)
    if not (root / last).is_file():
        return
    if planning.nothing_to_do(planning.dry_run([last.as_posix(), *options], root)):
        raise UserError(
            f"{character.id}: is trained to step {whole} already, so there is nothing to try; "
            f"look at it with charloom draw {character.id}"
        )


def measured(root: Path, character: Character, steps: int) -> Trial:
    """What the run's records say about its first steps."""
    files = results(character.id, root)
    lines = [record for record in records.of_training(files) if record["step"] <= steps]
    losses = [record["loss"] for record in lines if "loss" in record]
    if not losses:
        raise UserError(f"{files.metrics}: has no steps; run it again")
    third = max(1, len(losses) // 3)
    ends = losses[:third], losses[-third:]
    spread = [statistics.variance(part) / len(part) if len(part) > 1 else math.inf for part in ends]
    told = progress.read(files.training)
    memory = max((r.get("gpu_memory") or r.get("memory") or 0 for r in lines), default=0)
    rate = next((r["rate"] for r in reversed(lines) if r.get("rate")), None)
    per_step = told.seconds_per_step if told and told.step == steps else None
    return Trial(
        steps=steps,
        first=statistics.fmean(ends[0]),
        last=statistics.fmean(ends[1]),
        error=math.sqrt(sum(spread)),
        per_step=per_step or (1 / rate if rate else None),
        memory=memory,
        row=_row_seconds(files, character, steps, told),
        problems=tuple(line for r in lines if (line := (r.get("adapter") or {}).get("problem"))),
    )


def _row_seconds(made: Results, character: Character, steps: int, told: progress.Progress | None) -> float | None:
    """Time of all previews of a step, as measured by the trainer or else by Snakemake."""
    if told and told.previews_done and told.step == steps:
        return told.preview_seconds / told.previews_done * len(character.prompt_names)
    took: dict[str, float] = {}
    for job in records.of_jobs(made):
        if job.rule == "sample_checkpoint":
            took[job.item] = took.get(job.item, 0.0) + job.seconds
    row = [took.get(f"{steps:06d}-{prompt}") for prompt in character.prompt_names]
    return None if None in row else sum(filter(None, row)) or None


def verdict(root: Path, character: Character, trial: Trial, price: float | None = None) -> list[str]:
    """The trial in lines; ``price`` is that of an hour."""
    whole, rows = character.saved_steps[-1], len([step for step in character.sampled_steps if step])
    grid = results(character.id).grid(trial.steps).as_posix()
    trends = {
        "falling": "falling",
        "rising": "rising: lower train.lr",
        "level": "too noisy to tell yet",
    }
    lines = [
        f"previews   {grid}" if character.prompt_names else "previews   none: there are no sample prompts",
        f"loss       {trial.first:.4f} in the first third, {trial.last:.4f} in the last: {trends[trial.trend]}",
    ]
    if trial.per_step is not None:
        steps = trial.per_step * whole
        draws = (trial.row or 0.0) * rows
        lines.append(f"speed      {trial.per_step:.3g} s a step")
        lines.append(f"memory     {trial.memory / GIB:.1f} GiB at most")
        parts = f"{whole} steps {roughly(steps)}"
        parts += f", {rows} × {len(character.prompt_names)} previews {roughly(draws)}" if trial.row else ""
        cost = f", {(steps + draws) / 3600 * price:.2f} at {price:g} an hour" if price is not None else ""
        lines.append(f"whole run  about {roughly(steps + draws)} ({parts}){cost}")
    lines += [f"warning    {line}" for line in trial.problems]
    good = trial.trend != "rising" and not trial.problems
    again = last_run.again(root, character.id, character.id)
    lines.append(
        f"verdict    looks fine; continue from step {trial.steps} with: {again}"
        if good
        else "verdict    fix that before the whole run"
    )
    return lines
