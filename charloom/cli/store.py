"""``charloom store``: shows what is in the stores of a workflow, and removes what is no longer needed."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charloom.cli import mistyped
from charloom.cli.naming import workflow_folder
from charloom.core.errors import UserError
from charloom.report.numbers import size

if TYPE_CHECKING:
    from charloom.core.store import Store

app = typer.Typer(
    cls=mistyped.Group,
    help="Show what lies in the store, or remove what can be made again.",
    invoke_without_command=True,
)

DAY = 86400.0
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([dhw])")
_UNITS = {"h": DAY / 24, "d": DAY, "w": 7 * DAY}


def seconds(text: str) -> float:
    """An age such as ``30d``, ``12h`` or ``4w`` in seconds.

    Raises:
        UserError: it is not an age.
    """
    if not (match := _AGE.fullmatch(text.strip())):
        raise UserError(f"--older: {text!r} is not valid; give a number and d, h or w: 30d")
    return float(match[1]) * _UNITS[match[2]]


def age(given: float) -> str:
    """A time in seconds as hours or days."""
    return f"{given / DAY:.0f} d" if given >= 2 * DAY else f"{given / 3600:.0f} h"


def show(root: Path) -> list[str]:
    """The stores of a workflow as lines: a block per character, a line per kind."""
    return [line for store in _stores(root) for line in _shown(store)]


def _stores(root: Path) -> list[Store]:
    from charloom.config import project
    from charloom.core.store import Store

    return [Store(path) for path in project.stores(root)]


def _shown(store: Store) -> list[str]:
    from charloom.workflow import keeping

    found = keeping.entries(store)
    if not found:
        return [f"{store.root}: {'is empty' if store.root.is_dir() else 'does not exist on this machine'}"]
    groups: dict[str, dict[str, list[keeping.Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in found:
        groups[entry.who][entry.kind].append(entry)
    now, total = time.time(), sum(entry.size for entry in found)
    linked = sum(entry.size for entry in found if entry.links)
    lines = [
        f"{store.root}: {size(total)} in {len(found)} entries, {size(linked)} of them shared with results",
        f"  {'':22} {'entries':>7}  {'size':>9}  last used",
    ]
    for who in sorted(groups, key=lambda name: (name == keeping.NOBODY, name)):
        kinds = groups[who]
        lines.append(f"{who}: {size(sum(entry.size for members in kinds.values() for entry in members))}")
        for kind in sorted(kinds, key=lambda kind: -sum(entry.size for entry in kinds[kind])):
            members = kinds[kind]
            ages = sorted(now - entry.used for entry in members)
            span = age(ages[0]) if age(ages[0]) == age(ages[-1]) else f"{age(ages[0])} to {age(ages[-1])}"
            lines.append(f"  {kind:22} {len(members):7}  {size(sum(e.size for e in members)):>9}  {span} ago")
    if stale := keeping.left_behind(store):
        lines.append(f"{len(stale)} damaged files and leftovers of killed processes; store prune removes them")
    return lines


def prune(root: Path, keep_final: bool, older: str, yes: bool) -> list[str]:
    """Remove entries, or say which would be removed; returns lines."""
    stores, lines = _stores(root), []
    for store in stores:
        lines += [f"{store.root}:"] if len(stores) > 1 else []
        lines += _pruned(store, root, keep_final, older, yes)
    return lines


def _pruned(store: Store, root: Path, keep_final: bool, older: str, yes: bool) -> list[str]:
    from charloom.workflow import keeping

    limit = seconds(older)
    found = keeping.entries(store)
    keep = keeping.needed(found, store, keeping.runs_here(root)) if keep_final else set()
    gone, stale = keeping.removable(found, keep, limit), keeping.left_behind(store)
    kinds: dict[str, list[keeping.Entry]] = defaultdict(list)
    for entry in gone:
        kinds[entry.kind].append(entry)
    lines = [
        f"  {kind:22} {len(members):7}  {size(sum(entry.size for entry in members)):>9}"
        for kind, members in sorted(kinds.items())
    ]
    if not gone and not stale:
        if yes:
            keeping.forget(store)
        return [f"Nothing to remove: no entry is older than {older} and not needed."]
    if not yes:
        total = size(sum(entry.size for entry in gone))
        return [*lines, f"{len(gone)} of {len(found)} entries, {total}, would be removed; to do so add --yes"]
    said: list[str] = []
    count, freed = keeping.remove(store, gone, said.append)
    for path in stale:
        store.remove(path)
    keeping.forget(store)
    return [*lines, *said, f"{count} entries removed, {size(freed)} freed"]


@app.callback()
def store(context: typer.Context) -> None:
    """Show what lies in the store, by character, kind and age."""
    if context.invoked_subcommand is None:
        from charloom.cli.main import one_line

        one_line(lambda: print("\n".join(show(workflow_folder()))))()


@app.command("prune")
def prune_(
    keep_final: Annotated[
        bool, typer.Option("--keep-final/--all", help="keep what finished characters and unfinished runs go on from")
    ] = True,
    older: Annotated[str, typer.Option(help="only what was not used for so long: 30d, 12h, 4w")] = "30d",
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it, only say what would go")] = False,
) -> None:
    """Remove what can be made again and was not used for long. Results are files of their own and stay."""
    from charloom.cli.main import one_line

    one_line(lambda: print("\n".join(prune(workflow_folder(), keep_final, older, yes))))()
