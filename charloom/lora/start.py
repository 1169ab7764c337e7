"""Starting an adapter from a LoRA file instead of from nothing (``network.init``). Independent of steps and optimizers.

The file may be of any layout that :mod:`charloom.lora.convert` reads. Its change of every weight becomes that of the
adapter: exactly, to fp32 rounding, where the adapter's rank is at least the file's, and by the best approximation of
the adapter's rank otherwise, whose error is stated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from charloom.core.errors import UserError
from charloom.core.words import several
from charloom.lora import combine, convert
from charloom.lora.attach import Adapter
from charloom.lora.fused import trimmed
from charloom.lora.modules import KINDS, kind

_A, _B = ".lora_A.weight", ".lora_B.weight"
NOTHING = 1e-6
"""A component this many times smaller than the largest of its module, in both factors, counts as zero."""


@dataclass
class Started:
    """What an adapter was started from, and the error of that.

    ``values`` are the parameters by name, fp32 on the CPU; ``error`` is ``||change - file's change|| / ||file's
    change||`` (Frobenius norms), 0 unless a rank had to be reduced.
    """

    values: dict[str, Tensor]
    error: float = 0.0
    notes: list[str] = field(default_factory=list)


def start(adapter: Adapter, path: Path) -> Started:
    """Give a fresh ``adapter`` the change of the LoRA in ``path``.

    A file of a smaller rank is padded: the further rows of A keep their random start and the columns of B are zero, so
    that they can be trained and change nothing yet. Modules that the file does not have start from nothing.

    Raises:
        UserError: the file cannot be read, is not a plain LoRA, or was made for weights of another shape; it changes
            modules that ``network.modules`` leaves out; the adapter is not a plain LoRA.
    """
    network = adapter.network
    if network.type != "lora":
        raise UserError(f"recipe key network.init: needs network.type lora, not {network.type}; set it so")
    file, notes = convert.read(path)
    if others := {kind(parts) for parts in file.modules.values()} - {"lora"}:
        raise UserError(
            f"{path}: is a {KINDS[sorted(others)[0]]}; take a plain LoRA, from which alone network.init starts"
        )
    mine = [name.removesuffix(_A) for name in adapter.parameters if name.endswith(_A)]
    if outside := sorted(set(file.modules) - set(mine)):
        raise UserError(
            f"{path}: changes {several(len(outside), 'module')} that network.modules leaves out, e.g. {outside[0]}; "
            "widen network.modules, with a list of regular expressions if need be"
        )
    started = Started({}, notes=notes)
    lost = whole = 0.0
    ranks = set()
    for module in file.modules:
        a, b = _factors(file.modules[module], file.scale(module) * network.rank / network.alpha)
        wide, high = adapter.parameters[module + _A], adapter.parameters[module + _B]
        if (len(b), a.shape[1]) != (len(high), wide.shape[1]):
            raise UserError(
                f"{path}: is made for another base: {module} changes weights of {len(b)} x {a.shape[1]} there and of "
                f"{len(high)} x {wide.shape[1]} here; take one of this base"
            )
        ranks.add(len(a))
        if len(a) > network.rank:
            a, b, dropped, all_of_it = combine.reduced(a, b, network.rank)
            lost, whole = lost + dropped, whole + all_of_it
        else:
            whole += float(((b.double().t() @ b.double()) * (a.double() @ a.double().t())).sum())
        a, b = _trainable(a, b)
        rows, columns = wide.detach().cpu().clone(), torch.zeros_like(high, device="cpu")
        rows[: len(a)], columns[:, : len(a)] = a, b
        started.values |= {module + _A: rows, module + _B: columns}
    started.error = (lost / whole) ** 0.5 if whole else 0.0
    started.notes += _notes(ranks, network.rank, started.error, len(mine) - len(file.modules), len(mine))
    with torch.no_grad():
        for name, value in started.values.items():
            adapter.parameters[name].copy_(value)
    return started


def _factors(parts: dict[str, Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """A and B in fp32; ``scale`` is folded into B."""
    kept = trimmed(parts)
    b = kept["lora_B"]
    return kept["lora_A"].float(), b.float() if scale == 1.0 else (b.double() * scale).float()


def _trainable(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` without the components that are zero, or nearly zero, in both.

    Neither would ever get a gradient. Reducing a file whose true rank is below the wanted one leaves such components.
    """
    size = a.norm(dim=1).maximum(b.norm(dim=0))
    kept = size > NOTHING * size.max()
    return a[kept], b[:, kept]


def _notes(ranks: set[int], rank: int, error: float, missing: int, modules: int) -> list[str]:
    notes = []
    if (most := max(ranks)) > rank:
        notes.append(
            f"rank {most} reduced to {rank}: the change is {error:.2%} away from the file's; "
            f"set network.rank: {most} to keep all of it"
        )
    elif min(ranks) < rank:
        notes.append(f"rank {min(ranks)} padded to {rank}: the change is the file's, the rest starts from nothing")
    if missing:
        are = "is not in the file and starts" if missing == 1 else "are not in the file and start"
        notes.append(f"{missing} of {several(modules, 'module')} {are} from nothing")
    return notes
