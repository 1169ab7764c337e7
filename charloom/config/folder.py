"""Lays out a workflow folder for an installed charloom, and brings its shipped files up to date.

The folder has a Snakefile of a few lines that includes the packaged rules, and copies of what a user edits:
configuration and profiles; the miniature; and the pages, with links to what is there. A file that the user has changed
is never replaced.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from charloom.core import files
from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.home import home

SNAKEFILE = """\
# The workflow of the installed charloom; update it with  pip install --upgrade charloom  and  charloom init --update .
try:
    from charloom.core.home import home
except ModuleNotFoundError:
    raise SystemExit(
        "error: charloom is not installed in this environment; activate the one that has it, or pip install charloom"
    ) from None


include: str(home() / "Snakefile")


# Snakemake takes no default target from an included file.
workflow.default_target = "all"
"""
RECORD = Path("config/.shipped.json")
"""Digests of the files as they were written, by which the user's changes are told."""
SHIPPED = ("config", "profiles", "resources", "docs")
PAGES = {"README.md": "docs/README.md", "CHANGELOG.md": "CHANGELOG.md"}
"""Where the pages at the top of a clone are; the README of the folder itself is the user's."""
EXAMPLES = "config/characters"
FIRST = "leyla"
"""The example that a new folder gets."""
APART = ("config/experiments",)
"""What only a clone needs."""


@dataclass
class Outcome:
    """What became of the shipped files."""

    written: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Changed by the user, and changed in the new version too."""


def create(folder: Path, examples: bool = False) -> Outcome:
    """Lay out a new workflow folder.

    Raises:
        UserError: the folder has files already.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        update = f" (to bring it up to date: charloom init --update {folder})"
        mine = update if (folder / "config/config.yaml").is_file() else ""
        raise UserError(f"{folder}: already exists and is not empty{mine}; choose another folder")
    return _write(folder, {}, examples)


def update(folder: Path, examples: bool = False) -> Outcome:
    """Replace those shipped files in a workflow folder that the user has not changed.

    Raises:
        UserError: it is not a workflow folder, or it is a clone.
    """
    if not (folder / "config" / "config.yaml").is_file():
        raise UserError(f"{folder}: has no config/config.yaml; lay it out with charloom init {folder}")
    if (folder / "rules").is_dir():
        raise UserError(f"{folder}: is a clone of the project; update it with git pull")
    # Where the record is lost, whatever differs counts as the user's.
    return _write(folder, files.read_mapping(folder / RECORD), examples)


def _write(folder: Path, known: dict[str, str], examples: bool) -> Outcome:
    outcome, now = Outcome(), dict(known)
    for name, content in _shipped(examples, set(known)):
        target = folder / name
        data = content if isinstance(content, bytes) else content.read_bytes()
        new = hashlib.sha256(data).hexdigest()
        if not target.is_file():
            if name in known:
                continue  # the user deleted it
            outcome.written.append(name)
        else:
            own = file_digest(target)
            if own == new:
                now[name] = new
                continue
            if own != known.get(name):
                if known.get(name) != new:
                    outcome.kept.append(name)
                continue
            outcome.updated.append(name)
        with files.whole(target) as temporary:
            temporary.write_bytes(data)
        now[name] = new
    files.write_json(folder / RECORD, now)
    return outcome


def _shipped(examples: bool, known: set[str]) -> Iterator[tuple[str, bytes | Path]]:
    """Name and content (or the file that has it) of everything in a workflow folder."""
    yield "Snakefile", SNAKEFILE.encode()
    root, places = home(), {}
    for path in (root / page for page in PAGES):
        if path.is_file():
            places[path.name] = PAGES[path.name]
    for part in SHIPPED:
        for path in sorted((root / part).rglob("*")):
            name = path.relative_to(root).as_posix()
            if not path.is_file() or "__pycache__" in path.parts or name.startswith(APART):
                continue
            if name.startswith(f"{EXAMPLES}/") and path.stem != FIRST and not (examples or name in known):
                continue
            places[name] = name
    for name, place in places.items():
        page = (root / name).suffix == ".md"
        yield place, with_links((root / name).read_text("utf-8"), name, places).encode() if page else root / name


_CODE_OR_LINK = re.compile(r"^```.*?^```|`[^`\n]+`|!?\[([^]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)", re.MULTILINE | re.DOTALL)


def with_links(text: str, page: str, places: dict[str, str]) -> str:
    """A page of the clone for the place that it gets (``places``, by name): links to what gets none are plain words."""

    def moved(found: re.Match[str]) -> str:
        words, target, anchor = found.groups(default="")
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        if not target:
            return found[0]
        if name not in places:
            return words
        path = posixpath.relpath(places[name], posixpath.dirname(places[page]))
        return f"{'!' if found[0][0] == '!' else ''}[{words}]({path}{anchor})"

    return _CODE_OR_LINK.sub(moved, text)
