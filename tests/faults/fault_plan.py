"""Which faults are tried, and of which project and rule each is."""

from __future__ import annotations

import itertools
import math

from fault_project import ASKED, Template

ABOUT: dict[str, str] = {}
"""Kinds that are about a job, by the rules in question: ``rules``, ``computing`` or ``asking`` of a template."""

EVERY = "kill_every_rule"
"""The kind that leaves no rule to chance; it comes first."""

TWICE = ("kill_job", "disk_full")
"""Kinds that come twice in a round, so that 320 faults have each rule's job meet them."""

OTHERS = 1000
"""The first seed of faults of the project that asks others; those of the two before it stay what they were."""


def plan(kinds: list[str], count: int, seed: int) -> list[tuple[str, int]]:
    """Kinds and their seeds, in turn."""
    turn = [name for name in kinds if name != EVERY for _ in range(1 + (name in TWICE))]
    nexts = {name: itertools.count(seed) for name in kinds}
    return [(name, next(nexts[name])) for name in itertools.islice(itertools.cycle(turn), count)]


def coverage(templates: list[Template], times: int, seed: int) -> list[tuple[str, int]]:
    """A job of each rule killed so many times."""
    found = []
    for first in (0, OTHERS):
        count = times * len(_rules(templates, EVERY, first))
        found += [(EVERY, first + seed + number) for number in range(count)]
    return found


def place_of(templates: list[Template], name: str, seed: int) -> tuple[Template, str]:
    """The project and the rule that a fault is about: all rules of all projects in turn, or the projects in turn."""
    if name not in ABOUT:
        templates = _projects(templates, seed)
        return templates[seed % 3 % len(templates)], ""  # the first project is the faster one
    known = _rules(templates, name, seed)
    rules = sorted(known)
    # A stride, so that a few seeds are spread over all rules.
    stride = next(n for n in (7, 11, 13, 1) if math.gcd(n, len(rules)) == 1)
    rule = rules[seed * stride % len(rules)]
    return known[rule], rule


def _projects(templates: list[Template], seed: int) -> list[Template]:
    return [one for one in templates if (one.name == ASKED) == (seed >= OTHERS)]


def _rules(templates: list[Template], name: str, seed: int) -> dict[str, Template]:
    """The rules that a kind of fault is about, each with the first project that has it."""
    known: dict[str, Template] = {}
    for template in _projects(templates, seed):
        for rule in getattr(template, ABOUT[name]):
            known.setdefault(rule, template)
    return known
