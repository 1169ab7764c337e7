"""How each character was last run: the options of that ``snakemake`` call and the settings that came with them.

A GPU profile sets the base, the number formats and the memory for its own call alone. Commands beside it (``charloom
draw``, ``try``, ``ship``) would otherwise take the settings of ``config/config.yaml``, and a command that they suggest
without the profile would train again. Kept in ``work/runs.json``. Independent of Snakemake and torch.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charloom.core import files

RECORD = Path("work/runs.json")
CORES = ("--cores", "-c", "--jobs", "-j")
OF_THE_CALL = ("shard", "notify")
"""Settings that are not about a character."""


@dataclass(frozen=True)
class LastRun:
    """``options`` are the profile, the cores and ``--config`` of the call, ``config`` all settings that it overrode."""

    options: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def remember(names: Iterable[str], config: Mapping[str, Any], arguments: Sequence[str], root: Path = Path()) -> None:
    """Take note of a call that runs jobs of the characters ``names``; a disk that is full stops no run here."""
    about = {key: value for key, value in config.items() if key not in OF_THE_CALL}
    one = {"options": kept(arguments), "config": about}
    with contextlib.suppress(OSError, TypeError, ValueError):
        found = files.read_mapping(root / RECORD) | dict.fromkeys(names, one)
        (root / RECORD).parent.mkdir(parents=True, exist_ok=True)
        files.write_json(root / RECORD, found)


def of(root: Path, name: str) -> LastRun:
    """How the character was last run; without options and settings if that is not known."""
    one = files.read_mapping(root / RECORD).get(name)
    if not isinstance(one, dict) or not isinstance(one.get("config"), dict):
        return LastRun()
    options = one.get("options")
    return LastRun(tuple(map(str, options if isinstance(options, list) else ())), one["config"])


def again(root: Path, name: str, target: str) -> str:
    """The command that makes ``target`` of the character as it was last run."""
    return command(of(root, name).options or ("--cores", "2"), target)


def command(options: Sequence[str], target: str) -> str:
    """A call of snakemake for ``target``; a list of settings comes after it, or it would be taken for one of them."""
    place = options.index("--config") if "--config" in options else len(options)
    return shlex.join(["snakemake", *options[:place], target, *options[place:]])


def kept(arguments: Sequence[str]) -> list[str]:
    """The options among ``arguments`` that say how jobs run: profile, cores, settings (these last)."""
    plain: list[str] = []
    settings: list[str] = []
    for index, word in enumerate(arguments):
        if re.match(r"(--profile|--cores|--jobs)=|-[cj]\d", word):
            plain.append(word)
        elif word in ("--profile", *CORES) and index + 1 < len(arguments):
            plain += arguments[index : index + 2]
        elif word in ("--config", "-C"):
            # Snakemake takes the last one.
            settings = ["--config"]
            for entry in arguments[index + 1 :]:
                if entry.startswith("-") or "=" not in entry:
                    break
                settings.append(entry)
    return plain + (settings if len(settings) > 1 else [])
