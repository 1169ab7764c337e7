"""Suggestions for a target that no rule makes. Independent of Snakemake."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Iterable, Sequence

from charloom.config.project import Workflow
from charloom.core import layout

MOST = 2000
"""Most files to compare with; in a large data set they differ only by a number."""


def complaint(target: str, workflow: Workflow, products: Callable[[str], Iterable[str]]) -> str:
    """A line about ``target``; ``products`` gives the files made for a character of the workflow."""
    names = workflow.names
    named = _parts(target)
    if (name := named[1] if named[0] == "results" and named[1:] else named[0]) in workflow.elsewhere:
        return f"nothing makes {target} here: {workflow.in_other_shard(name)}"
    found = nearest(target, names, products)
    some = ", ".join([*names[:5], *(["..."] if names[5:] else [])])
    hint = f"did you mean {found}?" if found else f"name a character ({some}) or a file made for one"
    return f"nothing makes {target}; {hint}"


def nearest(target: str, names: Sequence[str], products: Callable[[str], Iterable[str]]) -> str | None:
    """The most similar target: a character, or one of its files."""
    parts = _parts(target)
    if len(parts) == 1:
        return _close(parts[0].removesuffix(".yaml"), names)
    at = 1 if difflib.SequenceMatcher(None, parts[0], "results").ratio() > 0.7 and len(parts) > 2 else 0
    name = parts[at] if parts[at] in names else _close(parts[at], names)
    if name is None:
        return None
    there = list(products(name))
    wanted = layout.results(name).root.joinpath(*parts[at + 1 :]).as_posix()
    if wanted in there:
        return wanted
    folder, _, file = wanted.rpartition("/")
    beside = {path.rpartition("/")[2]: path for path in there if path.rpartition("/")[0] == folder}
    longer = (path for path in beside.values() if path.startswith(wanted))
    return next(longer, None) or beside.get(_close(file, list(beside)[:MOST])) or layout.results(name).final.as_posix()


def _parts(target: str) -> list[str]:
    return posixpath.normpath(target.replace("\\", "/")).strip("/").split("/")


def _close(word: str, words: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, words, n=1)), None)
