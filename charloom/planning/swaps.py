"""Replaces functions of Snakemake, and puts them back.

A replacement keeps the original as its attribute ``original``, and is made only once however often it is asked for.
What a release of Snakemake lacks is left alone; ``tests/workflow/test_lean.py`` fails if the installed one lacks
anything.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

_DONE: list[tuple[Any, str, Any]] = []


def put(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of a class or module until :func:`undo`."""
    _DONE.append((owner, name, owner.__dict__.get(name, _DONE)))
    setattr(owner, name, value)


def method(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    """Replace a method of a class, or a function that its module looks up by name, by what ``made`` makes of it."""
    original = getattr(owner, name, None)
    if original is not None and not hasattr(original, "original"):
        replacement = made(original)
        replacement.original = original
        put(owner, name, replacement)


def function(module: Any, name: str, made: Callable[[Any], Any]) -> None:
    """Replace a function in its module and in all of Snakemake's that have imported it by name."""
    original = getattr(module, name, None)
    if original is None or hasattr(original, "original"):
        return
    replacement = made(original)
    replacement.original = original
    for key, other in list(sys.modules.items()):
        if key.partition(".")[0] == "snakemake" and getattr(other, name, None) is original:
            put(other, name, replacement)


def getter(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    """Replace the getter of a class attribute (a property or a slot) by what ``made`` makes of it."""
    given = owner.__dict__.get(name)
    if given is None:
        return
    reads = getattr(given, "fget", None) or given.__get__
    if not hasattr(reads, "original"):
        replacement = made(reads)
        replacement.original = reads
        put(owner, name, property(replacement, getattr(given, "fset", None) or given.__set__))


def each(*changes: Callable[[], None]) -> None:
    """Make every change whose modules and names this release of Snakemake has."""
    for change in changes:
        with contextlib.suppress(ImportError, AttributeError, KeyError):
            change()


def undo() -> None:
    """Put everything back, for tests that share a process with others."""
    while _DONE:
        owner, name, value = _DONE.pop()
        if value is _DONE:
            delattr(owner, name)
        else:
            setattr(owner, name, value)
