"""The complete state of a run at a step, in one safetensors file that is checked before it is trusted.

Tensors: ``adapter|…``, ``ema|…``, ``optimizer|…``. The header holds the rest as canonical JSON, and a
SHA-256 over both. No pickle. Independent of what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from charloom.core.canonical import canonical_json
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.tensors import read_safetensors, tensor_bytes, write_safetensors
from charloom.train.keys import checkpoint_key

KIND, SUFFIX = "state", ".safetensors"
KEPT = 2
"""States kept per run: the newest, and the one before it in case the newest turns out to be damaged."""

log = logging.getLogger(__name__)


class CorruptState(UserError):
    """A state file that is damaged."""


@dataclass(frozen=True)
class State:
    """Everything that update ``step + 1`` depends on. ``values`` are JSON values."""

    run_key: str
    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def write(path: Path, state: State) -> None:
    """Write a state file; equal states give equal bytes."""
    header = canonical_json({"run_key": state.run_key, "step": state.step, "values": state.values})
    write_safetensors(path, state.tensors, {"state": header, "sha256": _content_hash(header, state.tensors)})


def read(path: Path, run_key: str) -> State:
    """Read and check a state file.

    Raises:
        CorruptState: the file is unreadable or its content hash is wrong.
        UserError: it belongs to another run (other data, rank, base…).
    """
    try:
        tensors, metadata = read_safetensors(path)
        text = metadata["state"]
        header = json.loads(text)
        intact = metadata["sha256"] == _content_hash(text, tensors)
    except (UserError, KeyError, ValueError):
        intact = False
    if not intact:
        raise CorruptState(f"{path}: this training state is damaged")
    if header["run_key"] != run_key:
        raise UserError(
            f"{path}: this training state belongs to another run (other data, settings, rank or base: "
            f"its run key is {header['run_key'][:12]}, expected {run_key[:12]}); delete it, it will be rebuilt"
        )
    return State(run_key, header["step"], tensors, header["values"])


def save(store: Store, state: State) -> None:
    """Store a state and delete all but the newest :data:`KEPT` of its run."""
    with store.put(KIND, checkpoint_key(state.run_key, state.step), SUFFIX) as path:
        write(path, state)
    for old in stored(store, state.run_key, state.step)[KEPT:]:
        store.remove(old)


def stored(store: Store, run_key: str, until: int) -> list[Path]:
    """State files of a run up to step ``until``, newest first."""
    folder = store.path(KIND, checkpoint_key(run_key, 0), SUFFIX).parent
    found = {path: path.name.removesuffix(SUFFIX).rsplit("-", 1)[-1] for path in folder.glob(f"{run_key}-*{SUFFIX}")}
    steps = {path: int(step) for path, step in found.items() if step.isdigit() and int(step) <= until}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def newest(store: Store, run_key: str, until: int) -> State | None:
    """The newest intact state up to step ``until``; damaged ones are logged and renamed to ``*.damaged``."""
    for path in stored(store, run_key, until):
        try:
            return read(path, run_key)
        except CorruptState as error:
            aside = path.with_name(path.name + ".damaged")
            path.replace(aside)
            log.warning("%s; renamed to %s, continuing from the previous one", error, aside.name)
    return None


def check_shapes(state: State, expected: Mapping[str, Tensor]) -> None:
    """Refuse a state of another adapter (other rank, modules or base).

    Raises:
        UserError: names or shapes differ.
    """
    have = {k.removeprefix("adapter|"): tuple(v.shape) for k, v in state.tensors.items() if k.startswith("adapter|")}
    want = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if have != want:
        name = next(iter(sorted(set(have.items()) ^ set(want.items()))))[0]
        raise UserError(
            f"the training state of step {state.step} is for another adapter or base: {name} is "
            f"{have.get(name, 'missing')} there and {want.get(name, 'missing')} here; delete it, it will be rebuilt"
        )


def _content_hash(header: str, tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        content.update(f"\0{name}\0{tensors[name].dtype}\0{tuple(tensors[name].shape)}\0".encode())
        content.update(tensor_bytes(tensors[name]))
    return content.hexdigest()
