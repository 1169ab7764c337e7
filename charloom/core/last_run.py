"""How each character was last trained: the options of that ``snakemake`` call and the settings that came with them.

A GPU profile sets the base, the number formats and the memory for its own call alone. Commands beside it (``charloom
draw``, ``try``, ``ship``) would otherwise take the settings of ``config/config.yaml``, and a command that they suggest
without the profile would train again. Kept in ``work/runs/``. Independent of Snakemake and torch.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from charloom.core import files

RECORDS = Path("work/runs")
CORES = ("--cores", "-c", "--jobs", "-j")
_IN_ONE = re.compile("--(cores|jobs)=|-[cj].")
"""These options with their number in the same word: ``--cores=4``, ``-c4``, ``-call``."""
EXECUTOR, LOCAL = ("--executor", "-e"), "local"
_EXECUTOR_IN_ONE = re.compile("--executor=|-e(?=.)")
CONFIG, FILES = ("--config", "-C"), ("--configfile", "--configfiles")
"""Options of Snakemake's that take every word after them: settings, and files of them."""
OF_THE_CALL = ("shard", "notify", "characters")
"""Settings that are not about a character."""


@dataclass(frozen=True)
class LastRun:
    """``options`` are the profile, the cores and the settings of the call, ``config`` all that it overrode."""

    options: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def remember(names: Iterable[str], config: Mapping[str, Any], arguments: Sequence[str], root: Path = Path()) -> None:
    """Record a call that trains the characters ``names``; a full disk does not stop the run here."""
    about = {key: value for key, value in config.items() if key not in OF_THE_CALL}
    one = {"options": kept(arguments), "config": about}
    for name in names:
        with contextlib.suppress(OSError, TypeError, ValueError):
            place = root / RECORDS / f"{name}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(place, one)


def of(root: Path, name: str) -> LastRun:
    """How the character was last trained; empty if that is unknown."""
    one = files.read_mapping(root / RECORDS / f"{name}.json")
    if not isinstance(one.get("config"), dict):
        return LastRun()
    options = one.get("options")
    return LastRun(tuple(map(str, options if isinstance(options, list) else ())), one["config"])


def again(root: Path, name: str, target: str) -> str:
    """The command that makes ``target`` of the character as it was last trained."""
    return command(of(root, name).options or ("--cores", "2"), target)


def command(options: Sequence[str], target: str) -> str:
    """The snakemake command for ``target``; it goes before a list of settings, or it would be taken for one."""
    place = next((index for index, word in enumerate(options) if word in (*CONFIG, *FILES)), len(options))
    return shlex.join(["snakemake", *options[:place], target, *options[place:]])


def kept(arguments: Sequence[str]) -> list[str]:
    """The options among ``arguments`` that say how jobs run: profile, cores, and settings last."""
    found: list[str] = []
    for index, word in enumerate(arguments):
        if word.startswith("--profile=") or _IN_ONE.match(word):
            found.append(word)
        elif word in ("--profile", *CORES) and index + 1 < len(arguments):
            found += arguments[index : index + 2]
    for names in (CONFIG, FILES):
        if entries := listed(arguments, names):
            found += [names[0], *entries]
    return found


def listed(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words after the last of the options ``names``, because the last one counts; settings contain a ``=``."""
    found: list[str] = []
    for index, word in enumerate(arguments):
        if word in names:
            own = itertools.takewhile(lambda one: not one.startswith("-"), arguments[index + 1 :])
            found = list(itertools.takewhile(lambda one: "=" in one, own) if names == CONFIG else own)
    return found


def sets(options: Sequence[str]) -> bool:
    """Whether ``options`` set more than the cores: a profile, or settings."""
    return any(word in ("--profile", *CONFIG, *FILES) or word.startswith("--profile=") for word in options)


def profile(options: Sequence[str], root: Path) -> dict[str, Any]:
    """What the last ``--profile`` among ``options`` sets, which is the one that counts; empty if there is none."""
    found: dict[str, Any] = {}
    for index, word in enumerate(options):
        name, _, value = word.partition("=")
        path = root / (value or "".join(options[index + 1 : index + 2])) / "config.yaml"
        if name == "--profile" and path.is_file():
            read = yaml.safe_load(path.read_text(encoding="utf-8"))
            found = read if isinstance(read, dict) else {}
    return found


def on_other_machines(options: Sequence[str], root: Path) -> bool:
    """Whether jobs run elsewhere: by the executor that ``options`` name, else by that of the profile among them."""
    if given := executor(options):
        return given != LOCAL
    try:
        return bool(profile(options, root).get("executor", LOCAL) != LOCAL)
    except (OSError, ValueError, yaml.YAMLError):
        return False


def executor(options: Sequence[str]) -> str:
    """The last ``--executor`` among ``options``; empty if there is none."""
    found = ""
    for index, word in enumerate(options):
        if word in EXECUTOR:
            found = "".join(options[index + 1 : index + 2])
        elif match := _EXECUTOR_IN_ONE.match(word):
            found = word[match.end() :]
    return found


def cores_given(options: Sequence[str]) -> bool:
    """Whether ``options`` say how many cores there are."""
    return any(word in CORES or _IN_ONE.match(word) for word in options)


def without_cores(options: Sequence[str]) -> list[str]:
    """``options`` without what they say about cores."""
    found, skip = [], False
    for word in options:
        if not skip and not (word in CORES or _IN_ONE.match(word)):
            found.append(word)
        skip = word in CORES
    return found
