"""Rewrites an adapter for another program: other names, q, k and v split or fused, its scale folded into a factor.

The change of every weight stays the same, up to rounding in fp32. Factors are copied unless a scale has to be folded
into them; the product is then kept in the file's own dtype if that holds it exactly, and in fp32 otherwise. Where
loaders disagree about a file, for example about an alpha that is only in the header, the result has the effect that the
file had in the loader it was made for, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from charloom.core.canonical import canonical_json, file_digest
from charloom.core.errors import UserError
from charloom.core.tensors import read_safetensors
from charloom.core.words import several
from charloom.lora import layouts
from charloom.lora.files import AdapterFile
from charloom.lora.fused import fuse, split, trimmed
from charloom.lora.modules import KINDS, fits, is_complete, kind, rank_of

TARGETS = {
    "charloom": "diffusion_model.<module>, split q, k and v, alpha equal to the rank: what most programs read",
    "diffusers": "transformer.<module>, split q, k and v, no alpha",
    "comfyui": "diffusion_model.<module> with the model's original names, q, k and v fused, no alpha",
    "kohya": "lora_unet_<module>, kohya's flat names, lora_down and lora_up, alpha",
}

# Header fields about bytes or names that the new file no longer has.
_STALE = (
    "lora_adapter_metadata", "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash", "ss_network_dim",
    "ss_network_alpha",
)  # fmt: skip
_KINDS = ("lora", "dora", "peft dora", "lokr")


def convertible(contents: layouts.Contents) -> bool:
    """Whether :func:`convert` takes a file with these contents, broken tensors aside."""
    return bool(contents.modules) and not contents.unknown and not contents.twice and set(contents.kinds) <= set(_KINDS)


@dataclass
class Converted:
    """Tensors and header of the new file, and notes about it."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    modules: int
    notes: list[str] = field(default_factory=list)


def read(path: Path) -> tuple[AdapterFile, list[str]]:
    """An adapter with diffusers' names, q, k and v apart and scales still to be applied; and notes about it.

    Raises:
        UserError: no safetensors file, not an adapter for Z-Image, incomplete, or of a kind that has no other layout.
    """
    tensors, metadata = read_safetensors(path)
    contents = layouts.read(tensors)
    if not contents.modules:
        what = layouts.other_model(tensors)
        seems = f" but seems to be {what}" if what else ""
        raise UserError(f"{path}: is not an adapter for Z-Image{seems}; give one that is")
    if contents.unknown:
        raise UserError(
            f"{path}: {len(contents.unknown)} of {len(tensors)} keys are not those of an adapter for Z-Image, e.g. "
            f"{contents.unknown[0]}; remove them first"
        )
    if contents.twice:
        raise UserError(f"{path}: holds {contents.twice[0]} twice, under two names; get it again")
    for module, parts in contents.modules.items():
        of = kind(parts)
        magnitudes = parts.get("dora_scale", parts.get("magnitude"))
        if magnitudes is not None and magnitudes.dim() == 2 and len(magnitudes) == 1 < magnitudes.numel():
            raise UserError(f"{path}: {module} has a magnitude for each column; give a DoRA with those of rows")
        if of not in _KINDS:
            raise UserError(f"{path}: {module} is of the kind {KINDS[of]}, which cannot be converted; give a LoRA")
        if not is_complete(parts) or not fits(parts):
            raise UserError(f"{path}: {module} is incomplete or its tensors do not fit each other; get the file again")
        if not all(torch.isfinite(tensor.float()).all() for tensor in parts.values()):
            raise UserError(f"{path}: {module} holds NaN or infinity; take an earlier checkpoint")
    notes = []
    if contents.text_encoder:
        keys = several(len(contents.text_encoder), "key")
        notes.append(f"what is for a text encoder ({keys}) is left out: no loader of Z-Image uses it")
    adapter = AdapterFile(Path(path), contents.modules, metadata)
    stated = {scale for module, parts in adapter.modules.items()
              if "alpha" not in parts and (scale := adapter.scale(module)) != 1.0}  # fmt: skip
    if stated:
        times = f"{min(stated):g}" if len(stated) == 1 else f"{min(stated):g} to {max(stated):g}"
        notes.append(
            f"alpha is in the header only, {times} times the rank: converted with the effect that diffusers "
            "gives it, for which it was made; ComfyUI ignores that header and loaded it at another strength"
        )
    return AdapterFile(Path(path), split(adapter), metadata), notes


def convert(
    path: Path, target: str, *, strength: float = 1.0, fused: bool = False, dtype: torch.dtype | None = None
) -> Converted:
    """The adapter in ``path``, in the layout of the program ``target``.

    Args:
        path: the file to convert; it is not changed.
        target: a key of :data:`TARGETS`.
        strength: folded into the file, so that it has the effect at 1 that it had at ``strength``.
        fused: fuse q, k and v in kohya's layout too, as ComfyUI needs it there.
        dtype: round all factors to this type; by default nothing is rounded.

    Raises:
        UserError: as :func:`read`; a strength of zero, or any but 1 for a DoRA; a DoRA or LoKr that cannot be fused.
    """
    adapter, notes = read(path)
    kinds = {kind(parts) for parts in adapter.modules.values()}
    if not strength or not torch.isfinite(torch.tensor(strength)):
        raise UserError(f"--strength: {strength:g} leaves nothing; give a number other than 0")
    if strength != 1.0 and kinds & {"dora", "peft dora"}:
        raise UserError(
            f"{path}: is a DoRA, whose strength cannot be folded in without the base's weights; leave it at 1"
        )
    modules = {name: _folded(adapter, name, strength, dtype) for name in adapter.modules}
    if target == "comfyui" or (fused and target == "kohya"):
        if "lokr" in kinds:
            notes.append("a LoKr has no fused form; q, k and v stay apart, which ComfyUI reads from 0.3.76 on")
        else:
            modules = fuse(modules, path)
    elif target == "kohya" and any(".attention." in name for name in modules):
        notes.append(
            "q, k and v are apart, as musubi-tuner has them; ComfyUI then leaves attention out: use --to comfyui"
        )
    if dtype is None and any(tensor.dtype != before for tensor, before in _changed(adapter, modules)):
        notes.append("folding the scale in needs fp32 to stay exact; --dtype bf16 makes the file smaller and rounds it")
    tensors: dict[str, Tensor] = {}
    for module, parts in modules.items():
        tensors |= _NAMES[target](module, parts)
    metadata = {key: value for key, value in adapter.metadata.items() if key not in _STALE}
    ranks = {rank for parts in modules.values() if (rank := rank_of(parts))}
    if len(ranks) == 1:
        metadata |= {"ss_network_dim": str(*ranks), "ss_network_alpha": str(*ranks)}
    made = {"from": file_digest(path), "strength": strength, "to": target}
    metadata |= {"format": "pt", "ss_base_model_version": "zimage", "charloom.converted": canonical_json(made)}
    return Converted(tensors, metadata, len(adapter.modules), notes)


def _changed(adapter: AdapterFile, modules: Mapping[str, Mapping[str, Tensor]]) -> list[tuple[Tensor, torch.dtype]]:
    """(factor, its former dtype) of the modules that still have their names."""
    return [
        (parts[role], adapter.modules[name][role].dtype)
        for name, parts in modules.items()
        for role in ("lora_B", "lokr_w2")
        if role in parts and name in adapter.modules and role in adapter.modules[name]
    ]


def _folded(adapter: AdapterFile, module: str, strength: float, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A module's tensors without alpha: scale and strength are in one of its factors."""
    parts = {role: tensor for role, tensor in trimmed(adapter.modules[module]).items() if role != "alpha"}
    # From the untrimmed factors, to whose rank alpha refers.
    scale = adapter.scale(module) * strength
    role = next(role for role in ("lora_B", "lokr_w2", "lokr_w2_b") if role in parts)
    parts[role] = scaled(parts[role], scale)
    if dtype is not None:
        parts = {
            name: t if name in ("dora_scale", "magnitude") else rounded(adapter.path, t, dtype)
            for name, t in parts.items()
        }
    if "magnitude" in parts:
        parts["dora_scale"] = parts.pop("magnitude")
    if "dora_scale" in parts:
        parts["dora_scale"] = parts["dora_scale"].float().flatten()
    return parts


def rounded(path: Path, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor`` in ``dtype``.

    Raises:
        UserError: it is too large for that type; ``path`` is named.
    """
    out = tensor.to(dtype)
    if not torch.isfinite(out).all():
        raise UserError(f"{path}: holds {tensor.abs().max():.3g}, too large for fp16; use --dtype bf16 or fp32")
    return out


def scaled(tensor: Tensor, scale: float) -> Tensor:
    """``tensor`` times ``scale``, in its own dtype if that holds every product exactly, else in fp32."""
    if scale == 1.0:
        return tensor
    product = tensor.double() * scale
    own = product.to(tensor.dtype)
    return own if torch.equal(own.double(), product) else product.float()


def _dotted(prefix: str, names: Mapping[str, str]) -> Callable[[str, Mapping[str, Tensor]], dict[str, Tensor]]:
    """Names tensors ``<prefix><module><ending>``; ``names`` are the endings by role."""
    return lambda module, parts: {f"{prefix}{module}{names.get(role, f'.{role}')}": t for role, t in parts.items()}


_A_B = {"lora_A": ".lora_A.weight", "lora_B": ".lora_B.weight"}


def _alpha(parts: Mapping[str, Tensor]) -> Tensor:
    """An alpha equal to the rank, fp32; LoKr with full factors has no rank, and loaders ignore its alpha."""
    return torch.tensor(float(rank_of(parts) or 1))


def _rows(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DoRA's magnitudes as a column, (out, 1)."""
    return {role: t.view(-1, 1) if role == "dora_scale" else t for role, t in parts.items()}


def _for_charloom(module: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _dotted("diffusion_model.", _A_B)(module, {**_rows(parts), "alpha": _alpha(parts)})


def _for_diffusers(module: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _dotted("transformer.", {**_A_B, "dora_scale": ".lora_magnitude_vector"})(module, parts)


def _for_comfyui(module: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _dotted("diffusion_model.", _A_B)(module, _rows(parts))


def _for_kohya(module: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    endings = {"lora_A": ".lora_down.weight", "lora_B": ".lora_up.weight"}
    return _dotted("lora_unet_", endings)(module.replace(".", "_"), {**_rows(parts), "alpha": _alpha(parts)})


_NAMES = {"charloom": _for_charloom, "diffusers": _for_diffusers, "comfyui": _for_comfyui, "kohya": _for_kohya}
