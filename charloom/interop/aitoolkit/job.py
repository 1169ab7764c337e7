"""Reads a job of ai-toolkit as a tree of keys, each of which is accounted for exactly once.

Keys have dotted names: ``train.lr``; ``datasets.x`` in the character's own data set, ``datasets[2].x`` in another;
``sample.samples[1].seed``. What they mean is up to the other modules.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from charloom.config import yaml
from charloom.core.errors import UserError
from charloom.interop.aitoolkit import keys


class Job:
    """The keys of a job's first process, and what happened to them.

    ``understood`` and ``ignored`` (key to reason) are filled by :meth:`account`; ``todo`` are lines for the user;
    ``trigger_word`` is the job's, or that of the character's own data set.
    """

    def __init__(self, tree: Mapping[str, Any], outside: Mapping[str, Any]) -> None:
        self.tree = dict(tree)
        sets = self.tree.get("datasets")
        self.sets = sets if isinstance(sets, list) and all(isinstance(part, dict) for part in sets) else []
        self.own = next((i for i, part in enumerate(self.sets) if not part.get("is_reg")), 0)
        self.values = {**outside, **dict(self._leaves(self.tree, ""))}
        self.groups = {key.rpartition(".")[0] for key in self.values}
        self.taken: set[str] = set()
        self.refused: dict[str, str] = {}
        self.understood: list[str] = []
        self.ignored: dict[str, str] = {}
        self.todo: list[str] = []
        self.trigger_word = ""

    def _leaves(self, node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        """Every leaf with its dotted name."""
        for key, value in node.items():
            name = f"{prefix}{key}"
            if name == "datasets" and self.sets:
                for index, part in enumerate(self.sets):
                    yield from self._leaves(part, f"{self.prefix(index)}.")
            elif name in ("sample.samples", "sample.prompts") and _samples(value):
                for number, entry in enumerate(value, 1):
                    if isinstance(entry, dict) and entry:
                        yield from self._leaves(entry, f"{name}[{number}].")
                    else:
                        yield f"{name}[{number}]", entry
            elif isinstance(value, dict) and value and not keys.listed(name):
                yield from self._leaves(value, f"{name}.")
            else:
                yield name, value

    def prefix(self, index: int) -> str:
        """The prefix of a data set's keys: ``datasets`` for the character's own, else e.g. ``datasets[2]``."""
        return "datasets" if index == self.own else f"datasets[{index + 1}]"

    def has(self, group: str) -> bool:
        """Whether the job has a group of keys."""
        return any(known == group or known.startswith(f"{group}.") for known in self.groups)

    def take(self, key: str, convert: Callable[[Any], Any] | None = None, default: Any = None) -> Any:
        """The value of a key, which then counts as understood; the default if it is absent, empty or not valid."""
        value = self.values.get(key)
        if key in self.values and key not in self.refused:
            self.taken.add(key)
        if value is None:
            return default
        try:
            made = convert(value) if convert else value
            if isinstance(made, float) and not math.isfinite(made):
                raise ValueError
            return made
        except (TypeError, ValueError, OverflowError):
            self.refuse(key, f"{_short(value)} is not valid; left out")
            return default

    def refuse(self, key: str, why: str) -> None:
        """Record that a key was not imported, and why."""
        self.taken.discard(key)
        if key in self.values:
            self.refused[key] = why
        else:
            self.todo.append(f"{key}: {why}")

    def account(self) -> None:
        """Sort every key of the job into understood and ignored."""
        for key, value in self.values.items():
            why = self.refused.get(key)
            if why is None and key not in self.taken:
                why = keys.why_not(re.sub(r"^datasets\[\d+\]", "datasets", key), value)
            if why is None:
                self.understood.append(key)
            else:
                self.ignored[key] = why


def _samples(value: Any) -> bool:
    """Whether a list holds samples with keys; a list of plain texts is one value."""
    return isinstance(value, list) and any(isinstance(entry, dict) for entry in value)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def load(path: Path) -> tuple[Job, str]:
    """Read the job in a file, and its name, which replaces ``[name]`` everywhere.

    Raises:
        UserError: the file is not a job of ai-toolkit, or the job is not a training.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the job in it, a YAML file")
    data = yaml.read_yaml(path)
    config = data.get("config")
    processes = config.get("process") if isinstance(config, dict) else None
    if not isinstance(processes, list) or not processes or not isinstance(processes[0], dict):
        raise UserError(f"{path}: is not a job of ai-toolkit: config.process is missing; give a job YAML")
    if data.get("job", "extension") not in ("extension", "train"):
        raise UserError(f"{path}: job: {data['job']} is not a training; give a job with job: extension")
    title = " ".join(str(config.get("name") or path.stem).split())
    outside = {str(key): value for key, value in data.items() if key != "config"}
    outside |= {f"config.{key}": value for key, value in config.items() if key != "process"}
    outside |= {f"process[{number}]": value for number, value in enumerate(processes[1:], 2)}
    job = Job(_filled(processes[0], title), outside)
    for key in outside:
        if key in ("job", "config.name"):
            job.take(key)
        elif key.startswith("process["):
            job.refuse(key, "only the first process is imported")
    unset = sorted(set(re.findall(r"\$\{([^}]+)\}", str(job.values))))
    job.todo += [f"the job uses ${{{name}}}, which is not set; set it and import again" for name in unset]
    return job, title


def _filled(node: Any, title: str) -> Any:
    """The tree with ``[name]`` and environment variables replaced as ai-toolkit does."""
    if isinstance(node, dict):
        return {str(key): _filled(value, title) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, title) for value in node]
    if not isinstance(node, str):
        return node
    text = node.replace("[name]", title)
    return re.sub(r"\$\{([^}]+)\}", lambda match: os.environ.get(match[1], match[0]), text)
