"""Which of the user's files exist, which are used, and why the others are not.

The same for pictures of the plan, extra data sets, captions and configuration. Files that operating systems and editors
leave behind are ignored. Lists folders; opens no file.
"""

from __future__ import annotations

import difflib
import itertools
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from charloom.core import drives, pictures, words

_LEFT_BEHIND = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "__macosx", "$recycle.bin", "lost+found")
    + ("system volume information", "__pycache__")
)
_BACKUPS = ("~", "#", ".bak", ".orig", ".swp", ".tmp")
_TEXTS = (".txt", *sorted({"".join(letters) for letters in itertools.product(*zip(".txt", ".TXT", strict=True))}))
"""``.txt`` in any case, the usual spelling first."""
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".cbz")
_OTHER_TEXTS = (".caption", ".captions", ".cap", ".text", ".tags", ".tag", ".md", ".rtf")
_SHOWN = 8
"""Names that one line lists."""
_LOOKED_AT = 20_000
"""The search of a folder stops after this many files: it may contain a whole disk."""
MOST = 200_000
"""The same for a folder whose every picture is wanted."""


@dataclass(frozen=True)
class Unused:
    """Files that nothing reads: ``where`` names them, ``what`` gives the reason and a remedy."""

    where: str
    what: str


def foreign(name: str) -> bool:
    """Whether a file or folder of this name is not the user's: hidden, or left behind by a system or an editor."""
    return name.startswith((".", "~", "#")) or name.endswith(_BACKUPS) or name.lower() in _LEFT_BEHIND


def text_of(stem: Path) -> Path | None:
    """The caption ``<stem>.txt``, whatever the case of its ending."""
    if not stem.parent.is_dir():
        return None  # one look instead of eight: a dry run asks for every shot
    spellings = [stem.parent / f"{stem.name}{ending}" for ending in _TEXTS]
    plain = next((path for path in spellings if path.is_file()), None)
    return plain or next((path for path in map(same, spellings) if path and path.is_file()), None)


def unread_text_of(stem: Path) -> Path | None:
    """The caption of another ending, such as ``<stem>.caption``, which is not read."""
    return next((path for ending in _OTHER_TEXTS if (path := Path(f"{stem}{ending}")).is_file()), None)


def same(path: Path) -> Path | None:
    """The file or folder of this path, also where one of the two writes accents as characters of their own, as macOS
    does; None if there is none."""
    if path.exists():
        return path
    if path.as_posix().isascii() or path.parent == path:
        return None
    folder = same(path.parent)
    if folder is None or not folder.is_dir():
        return None
    name = unicodedata.normalize("NFC", path.name)
    return next((other for other in folder.iterdir() if unicodedata.normalize("NFC", other.name) == name), None)


def placed(path: str) -> str:
    """A folder as the user writes it: ``~`` is the home, ``C:`` its mount in WSL, accents as they are on the disk."""
    written = os.path.expanduser(drives.mounted(path))
    found = None if written.isascii() else same(Path(written))
    return str(found) if found else written


def meant(path: str | Path, otherwise: str) -> str:
    """The remedy for a missing folder: one whose path differs by the spelling of a single part, or ``otherwise``."""
    if Path(path).is_file():
        return f"it is a file: {'unpack it and give the folder' if is_archive(path) else 'give the folder it lies in'}"
    part = Path(path)
    while not part.parent.is_dir() and part.parent != part:
        part = part.parent
    there = [other.name for other in part.parent.iterdir() if other.is_dir()] if part.parent.is_dir() else []
    close = difflib.get_close_matches(part.name, there, n=1)
    found = part.with_name(close[0]) / Path(path).relative_to(part) if close else None
    return f"did you mean {found.as_posix()}?" if found and found.is_dir() else otherwise


def is_archive(path: str | Path) -> bool:
    """Whether a file holds others, by its extension."""
    return Path(path).suffix.lower() in _ARCHIVES


def texts(folder: str | Path) -> dict[str, Path]:
    """The captions of a folder by their stems, as :func:`text_of` finds each."""
    found = [path for path in _files(Path(folder)) if path.suffix in _TEXTS and path.is_file()]
    return {path.stem: path for path in sorted(found, key=lambda path: _TEXTS.index(path.suffix), reverse=True)}


def is_picture(path: Path) -> bool:
    """Whether the file has a supported format, by its extension in any case, and is not foreign."""
    return path.suffix.lower() in pictures.endings() and not foreign(path.name)


def unread_format(folder: str | Path, stem: str) -> Path | None:
    """The picture called ``stem`` in an unsupported format."""
    found = (path for path in _files(Path(folder)) if path.stem == stem and _unread(path))
    return next(found, None)


def unread(folder: str | Path) -> list[Unused]:
    """Pictures directly in a folder whose format is not supported."""
    paths = (path for path in _files(Path(folder)) if _unread(path))
    return [Unused(str(path), _unsupported(path)) for path in paths]


def unread_below(folder: str | Path) -> list[Unused]:
    """The same of all folders below it too, those of one folder on a line."""
    return _grouped(Path(folder), lambda path: _unsupported(path) if _unread(path) else None)


def of_pictures(
    folder: str | Path, used: Iterable[Path], texts: Mapping[str, str], without: Collection[Path] = ()
) -> list[Unused]:
    """What is in a folder of pictures and is not used.

    Args:
        folder: the folder; what is in folders below it is never used.
        used: pictures and captions that are.
        texts: by the stem of a picture that is used, the name of its caption that is used (or would be).
        without: folders below that serve something else, resolved.
    """
    folder, used = Path(folder), list(used)
    taken = {_key(path): path for path in used}
    stems = {path.stem: path for path in used if is_picture(path)}

    def why(path: Path) -> str | None:
        if _taken(path, taken):
            return None
        below = path.relative_to(folder).parent
        if below != Path("."):
            if not (is_picture(path) or _unread(path) or path.suffix in _TEXTS):
                return None
            return "in a subfolder, which is not searched; move them up, or list the folder under datasets:"
        if is_picture(path):
            if twin := stems.get(path.stem):
                return f"not used, because {twin.name} of the same name is; rename one of them, or delete it"
            return "no shot has this name, so it is ignored; add a shot, or delete it"
        if _unread(path):
            return _unsupported(path)
        return _why_no_text(path, stems, texts)

    return _grouped(folder, why, without=without)


def tree(folder: str | Path, without: Collection[Path] = ()) -> list[Path]:
    """The user's files in a folder and in all below it but those ``without``, which are resolved."""
    return _files(Path(folder), below=True, most=MOST, without=without)


def of_tree(folder: str | Path, used: Iterable[Path], without: Collection[Path] = ()) -> list[Unused]:
    """What is in a folder, or below, whose every picture is used, and is not; ``used`` are pictures and captions.

    ``without`` as for :func:`tree`.
    """
    used = list(used)
    taken = {_key(path): path for path in used}
    stems: dict[Path, dict[str, Path]] = {}
    for path in filter(is_picture, used):
        stems.setdefault(path.parent, {})[path.stem] = path

    def why(path: Path) -> str | None:
        if _taken(path, taken):
            return None
        beside = stems.get(path.parent, {})
        if is_picture(path):
            return f"not used, because {beside[path.stem].name} of the same name is; rename one of them, or delete it"
        if _unread(path):
            return _unsupported(path)
        return _why_no_text(path, beside, {name: f"{name}.txt" for name in beside if name == path.stem})

    return _grouped(Path(folder), why, MOST, without)


def of_captions(folder: str | Path, used: Iterable[Path], names: Sequence[str]) -> list[Unused]:
    """What is in a folder of captions and is not used; ``names`` are those of the images."""
    taken = {_key(path): path for path in used}
    stems = {name: Path(name) for name in names}

    def why(path: Path) -> str | None:
        if _taken(path, taken):
            return None
        if path.parent != Path(folder):
            return "in a subfolder, which is not searched; move them up"
        return _why_no_text(path, stems, {name: f"{name}.txt" for name in names})

    return _grouped(Path(folder), why)


def _key(path: Path) -> Path:
    return path.with_suffix(path.suffix.lower())


def _taken(path: Path, taken: Mapping[Path, Path]) -> bool:
    """Whether the file is one of ``taken``, also on file systems that ignore case."""
    other = taken.get(_key(path))
    if other is None or path == other:
        return path == other
    return other.is_file() and path.is_file() and os.path.samefile(path, other)


def yaml_files(folder: str | Path) -> list[Path]:
    """The files of a folder of ``config/`` that are read, by name."""
    return [path for path in _files(Path(folder)) if path.suffix == ".yaml" and path.is_file()]


PROJECTS = ("characters", "styles")
"""Folders of ``config/`` with a file for everything that is trained."""


def projects(root: Path) -> set[str]:
    """Names of all characters and styles that have a file, whatever is in it."""
    return {path.stem for folder in PROJECTS for path in (root / "config" / folder).glob("*.yaml")}


def of_config(folder: str | Path) -> list[Unused]:
    """What is in a folder of ``config/`` and is not read."""

    def why(path: Path) -> str | None:
        if path.parent != Path(folder):
            return "in a subfolder, which is not searched; move them up"
        return None if path.suffix == ".yaml" else "not read: files of the configuration end in .yaml; rename it"

    return _grouped(Path(folder), why)


def _why_no_text(path: Path, stems: Mapping[str, Path], texts: Mapping[str, str]) -> str:
    ending = path.suffix.lower()
    if ending in _TEXTS:
        inner = Path(path.stem)
        if inner.suffix.lower() in (*pictures.endings(), *pictures.OTHER_ENDINGS) and inner.stem in stems:
            return f"not read: the name of a caption has no {inner.suffix} in it; take that out"
        if path.stem in stems:
            return f"not read, because {texts.get(path.stem, 'another')} is; keep one of them"
        return "no picture has this name, so it is ignored; rename or delete it"
    if ending in _OTHER_TEXTS:
        return "not read: captions end in .txt; rename them"  # without its name: one line for all of them
    return "neither a picture nor a caption, so it is not used; delete it or keep it elsewhere"


def _unread(path: Path) -> bool:
    return path.suffix.lower() in pictures.OTHER_ENDINGS and not is_picture(path)


def _unsupported(path: Path) -> str:
    ending = path.suffix.lower()
    if ending in (".mp4", ".mov", ".webm", ".mkv", ".avi"):
        return "unsupported format; save frames of it as PNG, or delete it"
    heif = ", or pip install 'charloom[heif]'" if ending in (".heic", ".heif", ".hif") else ""
    return f"unsupported format; save it as PNG or JPEG{heif}"


def _files(folder: Path, below: bool = False, most: int = _LOOKED_AT, without: Collection[Path] = ()) -> list[Path]:
    """The user's files in a folder, by name, broken links included."""
    found: list[Path] = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(_own(where, folders, without)) if below else []
        found += [Path(where, name) for name in sorted(names) if not foreign(name)]
        if len(found) > most:
            break
    return found


def _own(where: str, folders: Iterable[str], without: Collection[Path]) -> list[str]:
    return [name for name in folders if not foreign(name) and not (without and Path(where, name).resolve() in without)]


def _grouped(
    folder: Path, why: Callable[[Path], str | None], most: int = _LOOKED_AT, without: Collection[Path] = ()
) -> list[Unused]:
    reasons: dict[tuple[str, Path], list[str]] = {}
    for path in _files(folder, below=True, most=most, without=without):
        lost = path.is_symlink() and not path.is_file()
        if reason := "a link that leads to no file; delete or repair it" if lost else why(path):
            reasons.setdefault((reason, path.parent), []).append(path.relative_to(folder).as_posix())
    for where, folders, _ in os.walk(folder):
        folders[:] = _own(where, folders, without)
        for path in (Path(where, name) for name in sorted(folders)):
            if path.is_symlink():
                reason = "links to folders are not followed; put the files themselves here"
                reasons.setdefault((reason, path.parent), []).append(path.relative_to(folder).as_posix())
    made = []
    for (reason, _), names in reasons.items():
        made.append(Unused(words.listed([(folder / names[0]).as_posix(), *names[1:]], _SHOWN), reason))
    return made
