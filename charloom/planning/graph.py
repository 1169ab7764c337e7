"""Builds the graph of jobs with fewer lookups and smaller objects; the second part of :mod:`charloom.planning.lean`.

Snakemake looks up anew for every job which rule makes each file that it reads, asks a hundred times per job, through an
abstract class, whether a file name has a flag, and gives each job its own lists, sets and file names where they could
be shared. Objects that a run would go on to use are changed in dry runs only.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import PurePath
from typing import Any

from charloom.planning import memory, swaps


def _know_producers() -> None:
    """Remember which rules make a file."""
    from snakemake.output_index import OutputIndex

    def made(original: Any) -> Any:
        def match_producers(self: Any, targetfile: str) -> Any:
            known = self.__dict__.setdefault("known_producers", {})
            if targetfile not in known:
                found = frozenset(original(self, targetfile))
                # One object for all files that the same rules make.
                known[targetfile] = known.setdefault(found, found)
            return known[targetfile]

        return match_producers

    swaps.method(OutputIndex, "match_producers", made)


def _visit_producers_once() -> None:
    """Fill Snakemake's own table of known producers, which otherwise holds only files that nothing makes."""
    from snakemake.workflow import DAG

    def made(original: Any) -> Any:
        async def update(self: Any, jobs: Any, file: Any = None, **options: Any) -> Any:
            producer = await original(self, jobs, file=file, **options)
            if self.workflow.dryrun:
                for job in jobs if file is None else (producer,):
                    memory.share_files(self, job)
            known = options.get("known_producers")
            if file is not None and known is not None:
                known[file] = [producer]
            return producer

        return update

    if {"file", "known_producers"} <= set(inspect.signature(DAG.update).parameters):
        swaps.method(DAG, "update", made)
        # The recursion takes three calls per job now, instead of two.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), 1500))


def _ask_flags_directly() -> None:
    """Look at the flags of a file name without ``isinstance`` on an abstract class."""
    from snakemake import io

    file_type, text_type = io._IOFile, io.AnnotatedString

    def asking(original: Any) -> Any:
        def is_flagged(value: Any, flag: str) -> bool:
            while type(value) is file_type:
                value = value._file
            if type(value) is str:
                return False
            if type(value) is not text_type:
                return bool(original(value, flag))
            flags = value.flags
            return flag in flags and bool(flags[flag])

        return is_flagged

    def getting(original: Any) -> Any:
        def get_flag_value(value: Any, flag_type: str) -> Any:
            while type(value) is file_type:
                value = value._file
            return None if type(value) is str else original(value, flag_type)

        return get_flag_value

    swaps.function(io, "is_flagged", asking)
    swaps.function(io, "get_flag_value", getting)


def _flag_only_the_flagged() -> None:
    """Create the dictionary of a file name's flags when it is first used, not when a pattern's are copied."""
    from snakemake import io

    kind, given = io._IOFile, io._IOFile.flags

    def made(original: Any) -> Any:
        def clone_flags(self: Any, other: Any, *arguments: Any, **options: Any) -> None:
            if type(self._file) is not str or (type(other._file) is not str and other.flags):
                original(self, other, *arguments, **options)

        def flags(self: Any) -> Any:
            return _NoFlags(self, io.AnnotatedString) if type(self._file) is str else given.fget(self)

        swaps.put(kind, "flags", property(flags))
        return clone_flags

    swaps.method(kind, "clone_flags", made)


class _NoFlags(dict[str, Any]):
    """The flags of a file name that has none yet; with the first they become its own."""

    def __init__(self, file: Any, annotated: Any) -> None:
        super().__init__()
        self.file, self.annotated = file, annotated

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if type(self.file._file) is str:
            self.file._file = self.annotated(self.file._file)
            self.file._file.flags = self

    def update(self, *flags: Any, **more: Any) -> None:
        """As in any dictionary, whose own method would bypass :meth:`__setitem__`."""
        for name, value in dict(*flags, **more).items():
            self[name] = value


def _make_lists_directly() -> None:
    """Make the lists of a job (inputs, outputs, wildcards, ...) without the attributes that all of them share."""
    from snakemake.iocontainers import Namedlist

    shared = {name: value for name, value in Namedlist().__dict__.items() if name != "_names"}

    def made(original: Any) -> Any:
        def __init__(
            self: Any, toclone: Any = None, fromdict: Any = None, plainstr: bool = False, *more: Any, **options: Any
        ) -> None:
            flagged = plainstr and any(type(getattr(file, "_file", "")) is not str for file in toclone)
            if flagged or more or options:
                original(self, toclone, fromdict, plainstr, *more, **options)
                return
            list.__init__(self)
            self._names = {}
            if toclone is not None:
                self.extend(map(str, toclone) if plainstr else toclone)
                if isinstance(toclone, Namedlist):
                    self._take_names(toclone._get_names())
            if fromdict is not None:
                for key, item in fromdict.items():
                    self.append(item)
                    self._add_name(key)

        for name, value in shared.items():
            swaps.put(Namedlist, name, value)
        return __init__

    if shared.keys() == {"_allowed_overrides", "index", "sort"}:
        swaps.method(Namedlist, "__init__", made)


def _share_wildcards() -> None:
    """Give all functions of a job the same wildcards, instead of a copy to each."""
    from snakemake import rules

    def made(original: Any) -> Any:
        last: tuple[Any, Any] = (None, None)

        def wildcards(fromdict: Any) -> Any:
            nonlocal last
            if last[0] is not fromdict:
                last = (fromdict, original(fromdict=fromdict))
            return last[1]

        return wildcards

    swaps.method(rules, "Wildcards", made)


def _share_inputs() -> None:
    """In a dry run, let the jobs of a rule that read the same files (a chain of checkpoints) share their names."""
    from snakemake.rules import Rule

    def made(original: Any) -> Any:
        def _apply_wildcards(self: Any, *arguments: Any, concretize: Any = None, **options: Any) -> Any:
            name = getattr(concretize, "__name__", None)
            if name == "concretize_iofile" and self.workflow.dryrun and not _in_storage(self.workflow):
                concretize = partial(_once, self.__dict__.setdefault("known_inputs", {}), concretize)
            return original(self, *arguments, concretize=concretize, **options)

        return _apply_wildcards

    swaps.method(Rule, "_apply_wildcards", made)


def _in_storage(workflow: Any) -> bool:
    return bool(workflow.storage_settings and workflow.storage_settings.default_storage_provider)


def _once(known: dict[Any, Any], concretize: Any, item: Any, wildcards: Any, source: Any, incomplete: Any) -> Any:
    """The name of an input: one object per text and place in the rule (an input function, or ``item``).

    Its flags come from that place, so that jobs may share it.
    """
    if isinstance(item, PurePath):
        item = item.as_posix()
    if incomplete or (source is not None and (type(item) is not str or "{" in item)):
        return concretize(item, wildcards, source, incomplete)
    if source is None:
        made = concretize(item, wildcards, source, incomplete)
        return known.setdefault((str(made), id(item)), made)
    key = (item, id(source))
    if key not in known:
        made = concretize(item, wildcards, source, incomplete)
        # Snakemake wraps such a name in another one.
        inner = made._file
        known[key] = inner if type(inner) is type(made) and inner.rule is made.rule and inner == made else made
    return known[key]


def _share_edges() -> None:
    """Keep one set of the files between two jobs, where Snakemake keeps one for each direction."""
    from snakemake.workflow import DAG

    def made(original: Any) -> Any:
        def __init__(self: Any, *arguments: Any, **options: Any) -> None:
            original(self, *arguments, **options)
            if getattr(self, "depending", None) == {} and hasattr(self, "_dependencies"):
                self.depending = Readers(self._dependencies)

        return __init__

    swaps.method(DAG, "__init__", made)


class Readers(dict[Any, "ReadersOfOne"]):
    """Which jobs read the files of a job: Snakemake's ``DAG.depending``, with the sets of ``DAG._dependencies``."""

    def __init__(self, dependencies: Mapping[Any, Any]) -> None:
        super().__init__()
        self.dependencies = dependencies

    def __missing__(self, job: Any) -> ReadersOfOne:
        made = self[job] = ReadersOfOne(job, self.dependencies)
        return made


class ReadersOfOne(dict[Any, Any]):
    """The files that each other job reads of a job."""

    __slots__ = ("dependencies", "job")

    def __init__(self, job: Any, dependencies: Mapping[Any, Any]) -> None:
        super().__init__()
        self.job, self.dependencies = job, dependencies

    def __missing__(self, reader: Any) -> Any:
        made = self[reader] = self.dependencies[reader][self.job]
        return made


ALL = (
    _know_producers,
    _visit_producers_once,
    _ask_flags_directly,
    _flag_only_the_flagged,
    _make_lists_directly,
    _share_wildcards,
    _share_inputs,
    _share_edges,
)
"""In the order in which they are applied."""
