"""The registry of the check's rules: name, severity, what each is about, and the remedy.

A rule is a function of the whole data set that yields a :class:`Hit` for everything it finds::

    @rule("blur", "warning", "A picture is out of focus.", remedy="replace it")
    def blur(data): ...

Rules are independent of each other. The user may change the level of a rule, or allow what it finds in some places
(``lint:`` in the character file), unless it is about something that cannot work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from charloom.core import tokens
from charloom.dataset.lint.findings import Finding, Item


@dataclass(frozen=True)
class Data:
    """The input of all rules. ``settings`` are those of the check, ``count`` counts the tokens of a text."""

    items: Sequence[Item]
    settings: Mapping[str, Any]
    count: tokens.Counter = field(default_factory=tokens.Counter)
    memory: dict[str, Any] = field(default_factory=dict)
    """Expensive results that rules share."""

    @property
    def trigger(self) -> str:
        """The word that stands for the character."""
        return str(self.settings["trigger"])

    @property
    def kind(self) -> str:
        """What the character is: woman, man, person, creature, object, or style."""
        return "style" if self.settings.get("kind") == "style" else str(self.settings.get("class", "woman"))

    @property
    def style(self) -> bool:
        """Whether this is a style: it has neither person nor plan, and its captions say what is shown."""
        return self.kind == "style"

    @property
    def human(self) -> bool:
        """Whether the character has a human face."""
        return self.kind in ("woman", "man", "person")

    @cached_property
    def sets(self) -> dict[str, Mapping[str, Any]]:
        """The extra data sets by name."""
        return {part["name"]: part for part in self.settings.get("sets", ())}

    @cached_property
    def shots(self) -> dict[str, Mapping[str, Any]]:
        """The shots of the plan by name."""
        return {shot["name"]: shot for shot in self.settings.get("shots", ())}

    @cached_property
    def seen(self) -> list[Item]:
        """The images that could be read."""
        return [item for item in self.items if item.facts is not None]

    @cached_property
    def written(self) -> list[Item]:
        """The items whose caption could be read and has words."""
        return [item for item in self.items if item.caption is not None]

    def role(self, item: Item) -> str:
        """What an image is for: ``shot``, ``set``, ``regularisation`` or ``holdout``."""
        part = self.sets.get(item.part, {})
        return (
            "shot" if not item.part
            else "regularisation" if part.get("regularization")
            else "holdout" if item.part in self.settings.get("holdouts", ())
            else "set"
        )  # fmt: skip

    def of_character(self) -> list[Item]:
        """Images that show the character, and whose captions say so."""
        return [item for item in self.items if self.role(item) != "regularisation"]


@dataclass(frozen=True)
class Hit:
    """One thing that a rule found; ``level`` and ``remedy`` override the rule's."""

    where: str
    what: str
    pictures: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    level: str | None = None
    remedy: str | None = None


Check = Callable[[Data], Iterable[Hit]]


@dataclass(frozen=True)
class Rule:
    """A rule; if it is ``fixed``, no level or allowance can silence it."""

    name: str
    level: str
    about: str
    remedy: str
    check: Check
    fixed: bool = False

    def findings(self, data: Data) -> list[Finding]:
        """What the rule finds."""
        return [self.finding(hit) for hit in self.check(data)]

    def finding(self, hit: Hit) -> Finding:
        """Turn a hit of this rule into a finding."""
        level, remedy = hit.level or self.level, self.remedy if hit.remedy is None else hit.remedy
        return Finding(level, hit.where, hit.what, self.name, remedy, hit.pictures, hit.evidence)


RULES: dict[str, Rule] = {}
"""All rules by name, in the order in which they are applied."""


def rule(name: str, level: str, about: str, *, remedy: str = "", fixed: bool = False) -> Callable[[Check], Check]:
    """Register a function as the rule ``name``."""

    def register(check: Check) -> Check:
        RULES[name] = Rule(name, level, about, remedy, check, fixed)
        return check

    return register
