"""Several LoRAs as one file: their ranks side by side, exactly, or the best approximation of a given rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from charloom.core.canonical import canonical_json, file_digest
from charloom.core.errors import UserError
from charloom.core.words import several
from charloom.lora import convert
from charloom.lora.export import PREFIX
from charloom.lora.files import AdapterFile
from charloom.lora.fused import trimmed
from charloom.lora.modules import KINDS, kind


@dataclass
class Combined:
    """The new file: tensors, header, and the error of a reduction to a rank.

    ``error`` is ``||change - wanted change|| / ||wanted change||`` over all modules (Frobenius norms), 0 without a
    reduction; ``ranks`` are those of the modules.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    ranks: dict[str, int]
    error: float = 0.0
    notes: list[str] = field(default_factory=list)


def merge(
    paths: Sequence[Path], strengths: Sequence[float], rank: int | None = None, dtype: torch.dtype | None = None
) -> Combined:
    """``sum of strength x change`` of several LoRAs, in charloom's own layout.

    Without ``rank`` the factors are concatenated, so the change is exact to fp32 rounding and the ranks add up. With
    ``rank``, modules above it are reduced by a singular value decomposition, the best approximation of that rank
    (Eckart and Young 1936), from the factors, without the whole weight. ``dtype`` rounds the factors afterwards.

    Raises:
        UserError: as :func:`charloom.lora.convert.read`; not as many strengths as files; another kind than plain LoRA;
            files for weights of different shapes.
    """
    if len(strengths) != len(paths):
        raise UserError(f"--strengths: {several(len(strengths), 'strength')} for {len(paths)} files; give one for each")
    if not all(map(math.isfinite, strengths)) or not any(strengths):
        raise UserError("--strengths: must be numbers that are not all 0; give others")
    read = [convert.read(path) for path in paths]
    notes = [f"{path.name}: {note}" for path, (_, more) in zip(paths, read, strict=True) for note in more]
    adapters = [adapter for adapter, _ in read]
    for adapter in adapters:
        if others := {kind(parts) for parts in adapter.modules.values()} - {"lora"}:
            what = KINDS[sorted(others)[0]]
            raise UserError(
                f"{adapter.path}: is a {what}; give plain LoRAs, which alone can be merged without the base"
            )
    names = list(dict.fromkeys(name for adapter in adapters for name in adapter.modules))
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    lost = whole = 0.0
    for name in names:
        a, b = _side_by_side(adapters, strengths, name)
        if rank is not None and len(a) > rank:
            a, b, dropped, all_of_it = reduced(a, b, rank)
            lost, whole = lost + dropped, whole + all_of_it
        elif rank is not None:
            whole += float(((b.double().t() @ b.double()) * (a.double() @ a.double().t())).sum())
        ranks[name] = len(a)
        if dtype is not None:
            a, b = (convert.rounded(Path(name), tensor, dtype) for tensor in (a, b))
        tensors |= {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
        tensors[f"{PREFIX}{name}.alpha"] = torch.tensor(float(len(a)))
    error = (lost / whole) ** 0.5 if whole else 0.0
    return Combined(tensors, _header(adapters, strengths, ranks, rank), ranks, error, notes)


def _side_by_side(adapters: Sequence[AdapterFile], strengths: Sequence[float], name: str) -> tuple[Tensor, Tensor]:
    """A (ranks, in) and B (out, ranks) whose product is the wanted change of a module."""
    found = []
    for adapter, strength in zip(adapters, strengths, strict=True):
        if name in adapter.modules and strength:
            parts = trimmed(adapter.modules[name])
            found.append((parts["lora_A"], convert.scaled(parts["lora_B"], adapter.scale(name) * strength)))
    if not found:  # files at strength 0: the module stays, and changes nothing
        parts = next(adapter.modules[name] for adapter in adapters if name in adapter.modules)
        found = [(parts["lora_A"][:1], torch.zeros_like(parts["lora_B"][:, :1]))]
    shapes = {(len(b), a.shape[1]) for a, b in found}
    if len(shapes) > 1:
        listed = " and ".join(str(shape) for shape in sorted(shapes))
        raise UserError(
            f"{name} is made for weights of {listed}: the files belong to different models; give those of one"
        )
    types = {tensor.dtype for pair in found for tensor in pair}
    dtype = types.pop() if len(types) == 1 else torch.float32
    a, b = (torch.cat([pair[side].to(dtype) for pair in found], dim=side) for side in (0, 1))
    return a.contiguous(), b.contiguous()


def reduced(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """Factors of the best approximation of ``b @ a`` with ``rank``; squared norms of what is lost, and of the whole.

    Both factors get the root of the singular values, so that neither is much larger than the other.
    """
    qb, rb = torch.linalg.qr(b.double())
    qa, ra = torch.linalg.qr(a.double().t())
    u, s, vt = torch.linalg.svd(rb @ ra.t())
    root = s[:rank].sqrt()
    up = (qb @ u[:, :rank]) * root
    down = root[:, None] * (vt[:rank] @ qa.t())
    squares = s.square()
    return down.float().contiguous(), up.float().contiguous(), float(squares[rank:].sum()), float(squares.sum())


def _header(
    adapters: Sequence[AdapterFile], strengths: Sequence[float], ranks: dict[str, int], rank: int | None
) -> dict[str, str]:
    parts = [
        {
            "sha256": file_digest(adapter.path),
            "strength": strength,
            "title": adapter.metadata.get("modelspec.title", ""),
        }
        for adapter, strength in zip(adapters, strengths, strict=True)
    ]
    header = {
        "format": "pt",
        "ss_base_model_version": "zimage",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "z-image-turbo/lora",
        "charloom.merged": canonical_json({"parts": parts, "rank": rank}),
    }
    for key, joint in (("modelspec.title", " + "), ("modelspec.trigger_phrase", ", ")):
        words = [adapter.metadata[key] for adapter in adapters if adapter.metadata.get(key)]
        if words:
            header[key] = joint.join(dict.fromkeys(words))
    if len(set(ranks.values())) == 1:
        one = str(next(iter(ranks.values())))
        header |= {"ss_network_dim": one, "ss_network_alpha": one}
    return header
