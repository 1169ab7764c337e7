"""The graph of jobs as Snakemake draws it (``--dag``): who follows whom, and who would run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import small_project

_NODE = re.compile(r'^\s*(\d+)\[label = "([^"]*)".*style="([^"]*)"\]', re.MULTILINE)
_EDGE = re.compile(r"^\s*(\d+) -> (\d+)\s*$", re.MULTILINE)
Job = tuple[str, tuple[tuple[str, str], ...]]


@dataclass
class Graph:
    """Jobs by number: rule and wildcards of each, what follows, and what Snakemake would run."""

    jobs: dict[int, Job] = field(default_factory=dict)
    after: dict[int, set[int]] = field(default_factory=dict)
    runs: set[int] = field(default_factory=set)

    def following(self, seeds: Iterable[int]) -> set[int]:
        """The jobs given, and all that follow from them."""
        found, todo = set(), list(seeds)
        while todo:
            if (number := todo.pop()) not in found:
                found.add(number)
                todo += self.after.get(number, ())
        return found


def graph(folder: Path, target: str = small_project.TARGET) -> Graph:
    """The graph of jobs that make ``target``."""
    done = small_project.snakemake(folder, target, "--dag", "dot")
    assert done.returncode == 0, done.stderr
    made, own, before = Graph(), {}, defaultdict(set)
    for number, label, style in _NODE.findall(done.stdout):
        rule, *wildcards = label.split("\\n")
        own[int(number)] = rule, dict(one.split(": ", 1) for one in wildcards)
        if "dashed" not in style:
            made.runs.add(int(number))
    for source, target_ in _EDGE.findall(done.stdout):
        made.after.setdefault(int(source), set()).add(int(target_))
        before[int(target_)].add(int(source))
    assert own, done.stdout + done.stderr

    @cache
    def named(number: int) -> dict[str, str]:
        # Snakemake leaves out wildcards that a job before it has.
        rule, wildcards = own[number]
        found = dict(wildcards)
        for key in ("shot", "step"):
            values = {value for one in before[number] if (value := named(one).get(key))}
            if key not in found and len(values) == 1:
                found[key] = values.pop()
        return found

    def told(number: int) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((key, value) for key, value in named(number).items() if key != "character"))

    made.jobs = {number: (rule, told(number)) for number, (rule, _) in own.items()}
    return made
