"""q, k and v of an attention as three modules with diffusers' names, or as one module of the original model.

The original model keeps the three weights stacked by rows, q first, so an adapter of the stacked weight can be cut into
three exactly, and three adapters can be stacked exactly: their A on top of each other, their B as blocks on a diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from charloom.core.errors import UserError
from charloom.lora.files import AdapterFile
from charloom.lora.modules import diffusers_name, kind

PARTS = ("to_q", "to_k", "to_v")


def split(adapter: AdapterFile) -> dict[str, dict[str, Tensor]]:
    """The modules of ``adapter`` with diffusers' names; the three parts of a fused module keep its alpha and rank.

    Raises:
        UserError: a LoKr whose first factor cannot be cut into three.
    """
    out: dict[str, dict[str, Tensor]] = {}
    for module, parts in adapter.modules.items():
        block, _, name = module.rpartition(".")
        if block.endswith("attention") and name == "qkv":
            for part, rows in zip(PARTS, _thirds(parts, adapter.path, module), strict=True):
                out[f"{block}.{part}"] = rows
        else:
            out[diffusers_name(module)] = parts
    return out


def _thirds(parts: Mapping[str, Tensor], path: Path, module: str) -> list[dict[str, Tensor]]:
    if kind(parts) == "lokr":
        # Rows of a Kronecker product follow the rows of its first factor.
        cut = next(role for role in ("lokr_w1", "lokr_w1_a") if role in parts)
        if len(parts[cut]) % 3:
            raise UserError(
                f"{path}: {module} is a LoKr on q, k and v together that cannot be cut into three exactly; "
                "leave it fused"
            )
        roles = [cut]
    else:
        height = len(parts["lora_B"])
        if height % 3:
            raise UserError(f"{path}: {module} has {height} rows, which q, k and v cannot share; get the file again")
        roles = ["lora_B", *(role for role in ("dora_scale", "magnitude") if role in parts)]
    return [{**parts, **{role: parts[role].tensor_split(3)[index].clone() for role in roles}} for index in range(3)]


def trimmed(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """``parts`` without the components of a LoRA whose column of B is zero, as a cut of a fused module leaves them.

    They change nothing. One component stays, so that the module stays complete.
    """
    if "lora_B" not in parts:
        return parts
    used = parts["lora_B"].ne(0).any(dim=0)
    if used.all():
        return parts
    if not used.any():
        used[0] = True
    return {**parts, "lora_A": parts["lora_A"][used].clone(), "lora_B": parts["lora_B"][:, used].clone()}


def fuse(modules: Mapping[str, dict[str, Tensor]], path: Path) -> dict[str, dict[str, Tensor]]:
    """The opposite of :func:`split` for LoRA and DoRA without alpha: one module of up to three times the rank.

    Parts that share one A keep its rank. A part that is not adapted gets rows of zeros.

    Raises:
        UserError: a DoRA on some of the three, because the magnitudes of the others are not in the file.
    """
    out: dict[str, dict[str, Tensor]] = {}
    for module, parts in modules.items():
        block, _, name = module.rpartition(".")
        if module.endswith(".attention.to_out.0"):
            out[f"{module.removesuffix('.to_out.0')}.out"] = parts
        elif name in PARTS and block.endswith("attention"):
            if f"{block}.qkv" not in out:
                out[f"{block}.qkv"] = _stacked([modules.get(f"{block}.{part}") for part in PARTS], path, block)
        else:
            out[module] = parts
    return out


def _stacked(three: list[dict[str, Tensor] | None], path: Path, block: str) -> dict[str, Tensor]:
    there = [parts for parts in three if parts is not None]
    scaled = [parts for parts in there if "dora_scale" in parts]
    if scaled and len(scaled) < 3:
        raise UserError(
            f"{path}: {block} has magnitudes for {len(scaled)} of q, k and v; "
            "give a DoRA on all three, or leave q, k and v apart"
        )
    first = there[0]
    rows = len(first["lora_B"])
    shared = all(parts["lora_A"].shape == first["lora_A"].shape and torch.equal(parts["lora_A"], first["lora_A"])
                 for parts in there)  # fmt: skip
    if shared:
        down = first["lora_A"]
        up = torch.cat([_common(p["lora_B"] if p else torch.zeros(rows, len(down)), there) for p in three])
    else:
        down = torch.cat([_common(p["lora_A"], there, "lora_A") for p in there])
        blocks = [_common(p["lora_B"], there) if p else torch.zeros(rows, 0) for p in three]
        up = torch.block_diag(*[one.to(_dtype(there, "lora_B")) for one in blocks])
    out = {"lora_A": down.contiguous(), "lora_B": up.contiguous()}
    if scaled:
        out["dora_scale"] = torch.cat([parts["dora_scale"].flatten() for parts in there])
    return out


def _dtype(three: list[dict[str, Tensor]], role: str) -> torch.dtype:
    """The type that holds a factor of all three exactly."""
    found = {parts[role].dtype for parts in three}
    return found.pop() if len(found) == 1 else torch.float32


def _common(tensor: Tensor, three: list[dict[str, Tensor]], role: str = "lora_B") -> Tensor:
    return tensor.to(_dtype(three, role))
