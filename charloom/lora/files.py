"""Reading adapter files of any common layout, and computing the change of weights that they describe.

Independent of any model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from charloom.core.canonical import PEFT_CONFIG
from charloom.core.errors import UserError
from charloom.core.tensors import read_safetensors, tensor_bytes
from charloom.lora import layouts
from charloom.lora.modules import diffusers_name, rank_of

PREFIXES = ("diffusion_model.", "transformer.")
_SUFFIXES = {
    "lora_A": (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight"),
    "lora_B": (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight"),
    **{name: (f".{name}",) for name in ("alpha", "dora_scale", "lokr_w1", "lokr_w2")},
    **{name: (f".{name}",) for name in ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")},
}


def header_scale(metadata: Mapping[str, str], module: str | None = None) -> float | None:
    """alpha / rank from the header that diffusers and trainers built on it write (``lora_adapter_metadata``).

    They store no alpha tensors, so loaders that ignore this header apply another strength. None if the header has none,
    or, unless ``module`` says which one is meant, different ones per module. Patterns match as PEFT matches them: the
    whole name, or its end after a dot.
    """
    try:
        config = json.loads(metadata[PEFT_CONFIG])
        config = {key.removeprefix("transformer."): value for key, value in config.items()}
        patterns = [config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")]
        if any(patterns) and module is None:
            return None
        given = (float(config["r"]), float(config["lora_alpha"]))
        rank, alpha = (_of_module(*pair, module) for pair in zip(patterns, given, strict=True))
        return alpha / (rank**0.5 if config.get("use_rslora") else rank)
    except (KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError, re.error, RecursionError):
        return None


def _of_module(pattern: Mapping[str, float], usual: float, module: str | None) -> float:
    # The pattern comes from somebody else's file: nested repetitions could take forever.
    if any(len(key) > 500 or re.search(r"\)\s*[*+{?]", key) or len(re.findall(r"[*+{]", key)) > 3 for key in pattern):
        raise ValueError("a pattern that repeats what repeats")
    named = (value for key, value in pattern.items() if module and re.match(rf"(.*\.)?({key})$", module))
    return float(next(named, usual))


@dataclass
class AdapterFile:
    """An adapter read from a file: tensors by module (diffusers name) and role."""

    path: Path
    modules: dict[str, dict[str, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)

    def scale(self, module: str) -> float:
        """alpha / rank of a module: from its tensor, else from the header, else 1 (also for factors without rank)."""
        parts = self.modules[module]
        rank = self.rank(module)
        if "alpha" in parts:
            return float(parts["alpha"]) / rank if rank else 1.0
        stated = header_scale(self.metadata, module) if "lora_A" in parts else None
        return 1.0 if stated is None else stated

    def rank(self, module: str) -> int | None:
        """Inner dimension of a module's factors; None for LoKr with two full factors."""
        return rank_of(self.modules[module])

    def delta(self, module: str, device: torch.device | None = None) -> Tensor:
        """The change of the module's weight (out, in) in fp32, scale included; before any DoRA rescaling.

        Computed on ``device``, by default where the file's tensors are.
        """
        parts = self._wide(module, device)
        if "lora_A" in parts:
            return parts["lora_B"] @ parts["lora_A"] * self.scale(module)
        return torch.kron(*self.factors(module, device)) * self.scale(module)

    def _wide(self, module: str, device: torch.device | None) -> dict[str, Tensor]:
        return {role: tensor.to(device).float() for role, tensor in self.modules[module].items()}

    def factors(self, module: str, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """The two Kronecker factors of a LoKr module in fp32, without the scale."""
        parts = self._wide(module, device)
        w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
        w2 = parts["lokr_w2"] if "lokr_w2" in parts else parts["lokr_w2_a"] @ parts["lokr_w2_b"]
        return w1, w2

    def identity(self) -> str:
        """SHA-256 of modules, tensors and PEFT's own configuration; names of the layout do not count."""
        found = hashlib.sha256()
        for module, parts in sorted(self.modules.items()):
            for role, tensor in sorted(parts.items()):
                found.update(f"{module} {role} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                found.update(tensor_bytes(tensor))
        found.update(self.metadata.get(PEFT_CONFIG, "").encode())  # where PEFT keeps its alpha
        return found.hexdigest()

    def change(self, module: str, weight: Tensor, strength: float = 1.0) -> Tensor:
        """What the adapter at ``strength`` adds to ``weight`` (out, in), fp32, on the weight's device."""
        if "dora_scale" in self.modules[module]:
            return self.apply(module, weight, strength) - weight.float()
        return self.delta(module, weight.device) * strength

    def apply(self, module: str, weight: Tensor, strength: float = 1.0) -> Tensor:
        """``weight`` (out, in) with the adapter merged in at ``strength``, fp32, on the weight's device.

        DoRA (Liu et al. 2024, eq. 5): rows of W + delta are rescaled to the stored magnitudes.
        """
        weight = weight.float()
        changed = weight + self.delta(module, weight.device) * (
            1.0 if "dora_scale" in self.modules[module] else strength
        )
        if "dora_scale" in self.modules[module]:
            magnitude = self.modules[module]["dora_scale"].float().to(weight.device).view(-1, 1)
            changed = changed * (magnitude / changed.norm(dim=1, keepdim=True))
            changed = weight + strength * (changed - weight)
        return changed


def kronecker(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """``x`` (…, in) times the transposed Kronecker product of ``w1`` and ``w2``, without materializing it; (…, out)."""
    inner = x.unflatten(-1, (w1.shape[1], w2.shape[1])) @ w2.t()
    return (w1 @ inner).flatten(-2)


def read_adapter(path: Path) -> AdapterFile:
    """Read a LoRA, DoRA or LoKr file of any trainer; every key must be known.

    Modules get diffusers' names; a LoRA on fused q, k and v becomes three that share A.

    Raises:
        UserError: unreadable file, unknown keys, an incomplete module, or no module at all.
    """
    tensors, metadata = read_safetensors(path)
    modules: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        found = split_key(key)
        if found is None:
            unknown.append(key)
        else:
            modules.setdefault(found[0], {})[found[1]] = tensor
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(tensors)} keys are not those of an adapter for Z-Image, "
            f"e.g. {unknown[0]}: use a file with keys like diffusion_model.layers.0.attention.to_q.lora_A.weight"
        )
    if not modules:
        raise UserError(f"{path}: holds no adapter module at all; get it again")
    for module, parts in modules.items():
        lokr = ("lokr_w1" in parts or {"lokr_w1_a", "lokr_w1_b"} <= set(parts)) and (
            "lokr_w2" in parts or {"lokr_w2_a", "lokr_w2_b"} <= set(parts)
        )
        if not ({"lora_A", "lora_B"} <= set(parts) or lokr):
            raise UserError(
                f"{path}: module {module} is incomplete, it only has {', '.join(sorted(parts))}; get the file again"
            )
    return AdapterFile(Path(path), _with_names_of_diffusers(modules), metadata)


def _with_names_of_diffusers(modules: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Rename modules of the original model to diffusers' names; LoKr on fused q, k and v is left as it is."""
    out: dict[str, dict[str, Tensor]] = {}
    for module, parts in modules.items():
        block, _, name = module.rpartition(".")
        if block.endswith("attention") and name == "qkv" and "lora_B" in parts:
            height = len(parts["lora_B"])
            for index, part in enumerate(("to_q", "to_k", "to_v")):
                of_rows = [role for role in ("lora_B", "dora_scale") if role in parts and len(parts[role]) == height]
                rows = {role: parts[role].tensor_split(3)[index] for role in of_rows}
                out[f"{block}.{part}"] = parts | rows
        else:
            out[diffusers_name(module)] = parts
    return out


def split_key(key: str) -> tuple[str, str] | None:
    """(module, role) of a key, e.g. ``("layers.0.attention.to_q", "lora_A")``; None if it isn't an adapter key."""
    found = layouts.parse(key)
    if found and found.role in _SUFFIXES:
        return found.module, found.role
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    for role, suffixes in _SUFFIXES.items():
        for suffix in suffixes:
            if key.endswith(suffix):
                return key.removesuffix(suffix), role
    return None
