"""The tensors of one adapted module by role: its kind, whether they fit together, and the change they make.

Roles are those of :mod:`charloom.lora.layouts`: ``lora_A`` (rank, in), ``lora_B`` (out, rank), ``lokr_w1`` and
``lokr_w2`` or their halves, ``hada_w1_a`` and so on, ``diff``, ``alpha``, ``dora_scale``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

KINDS = {
    "lora": "LoRA",
    "dora": "DoRA",
    "peft dora": "DoRA (magnitudes not named dora_scale)",
    "lokr": "LoKr",
    "loha": "LoHa",
    "full": "whole differences of weights",
}
_HEADS = {"x_embedder": "all_x_embedder.2-1", "final_layer": "all_final_layer.2-1"}
_HALVES = ("lokr_w1", "lokr_w2", "hada_w1", "hada_w2")


def kind(roles: Iterable[str]) -> str:
    """A key of :data:`KINDS`; incomplete modules count as the kind that their parts belong to."""
    found = set(roles)
    if any(role.startswith("lokr_") for role in found):
        return "lokr"
    if any(role.startswith("hada_") for role in found):
        return "loha"
    if found & {"diff", "diff_b"}:
        return "full"
    return "dora" if "dora_scale" in found else "peft dora" if "magnitude" in found else "lora"


def diffusers_name(module: str) -> str:
    """A module of the original model as diffusers calls it; fused q, k and v stay, because they are three there."""
    if module.endswith(".attention.out"):
        return f"{module.removesuffix('out')}to_out.0"
    first, dot, rest = module.partition(".")
    return f"{_HEADS.get(first, first)}{dot}{rest}"


def is_complete(roles: Iterable[str]) -> bool:
    """Whether these roles are all that a change of a weight needs."""
    found = set(roles)
    of = kind(found)
    if of == "lokr":
        return all(f"lokr_{w}" in found or {f"lokr_{w}_a", f"lokr_{w}_b"} <= found for w in ("w1", "w2"))
    if of == "loha":
        return {f"hada_{half}" for half in ("w1_a", "w1_b", "w2_a", "w2_b")} <= found
    return of == "full" or {"lora_A", "lora_B"} <= found


def fits(parts: Mapping[str, Tensor]) -> bool:
    """Whether factors can be multiplied, alpha is a scalar, and there is one magnitude per row or column."""
    factors = [tensor for role, tensor in parts.items() if role.startswith(("lora_", "lokr_", "hada_"))]
    if any(tensor.dim() != 2 or not tensor.numel() for tensor in factors):
        return False
    pairs = [("lora_B", "lora_A"), *((f"{name}_a", f"{name}_b") for name in _HALVES)]
    if any(up in parts and down in parts and parts[up].shape[1] != parts[down].shape[0] for up, down in pairs):
        return False
    if "hada_w1_a" in parts and _factor(parts, "hada_w1") != _factor(parts, "hada_w2"):
        return False
    if "diff" in parts and parts["diff"].dim() not in (1, 2):
        return False
    if "alpha" in parts and parts["alpha"].numel() != 1:
        return False
    magnitudes = parts.get("dora_scale", parts.get("magnitude"))
    return magnitudes is None or magnitudes.numel() in shape_of(parts)


def shape_of(parts: Mapping[str, Tensor]) -> tuple[int, ...]:
    """(out, in) of the weight that a module changes, or (out,) of a vector; computed without any product."""
    of = kind(parts)
    if of == "lokr":
        (rows1, columns1), (rows2, columns2) = _factor(parts, "lokr_w1"), _factor(parts, "lokr_w2")
        return rows1 * rows2, columns1 * columns2
    if of == "loha":
        return _factor(parts, "hada_w1")
    if of == "full":
        return tuple(parts["diff" if "diff" in parts else "diff_b"].shape)
    return parts["lora_B"].shape[0], parts["lora_A"].shape[1]


def _factor(parts: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name in parts:
        return tuple(parts[name].shape)
    return parts[f"{name}_a"].shape[0], parts[f"{name}_b"].shape[1]


def rank_of(parts: Mapping[str, Tensor]) -> int | None:
    """Inner dimension of a module's factors; None for LoKr with two full factors and for full differences."""
    for role in ("lora_A", "lokr_w2_b", "lokr_w1_b", "hada_w1_b"):
        if role in parts:
            return int(parts[role].shape[0])
    return None


def change(parts: Mapping[str, Tensor]) -> float:
    """Frobenius norm of a module's change before alpha and any DoRA rescaling, from small products where possible."""
    of = kind(parts)
    if of == "full":
        return sum(float(parts[role].double().square().sum()) for role in ("diff", "diff_b") if role in parts) ** 0.5
    if of == "loha":
        one, two = (parts[f"hada_{w}_a"].float() @ parts[f"hada_{w}_b"].float() for w in ("w1", "w2"))
        return float((one * two).norm())
    if of == "lokr":
        return _norm(parts, "lokr_w1") * _norm(parts, "lokr_w2")
    return _product_norm(parts["lora_B"], parts["lora_A"])


def _norm(parts: Mapping[str, Tensor], name: str) -> float:
    if name in parts:
        return float(parts[name].double().norm())
    return _product_norm(parts[f"{name}_a"], parts[f"{name}_b"])


def _product_norm(up: Tensor, down: Tensor) -> float:
    """Norm of ``up @ down`` from the two Gram matrices, so that nothing of the weight's size is computed."""
    up, down = up.double(), down.double()
    return float(((up.t() @ up) * (down @ down.t())).sum().clamp(min=0).sqrt())
