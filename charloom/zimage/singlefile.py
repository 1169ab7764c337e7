"""Transformer weights from a single file, as used by ComfyUI and others.

Such a file uses the names of the model's authors: query, key and value in one ``attention.qkv`` (rows in this order),
``attention.out``, ``q_norm`` and ``k_norm``, ``x_embedder`` and ``final_layer``, possibly below a prefix and beside an
autoencoder and a text encoder. diffusers' names are accepted as they are. A single file holds no config; the caller
provides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from charloom.base.files import check_whole
from charloom.core.errors import UserError

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
_UNUSED = ("norm_final.weight",)
"""Present in files, but not used by the forward pass."""

_RENAMED = (
    (".attention.out.", ".attention.to_out.0."),
    (".attention.q_norm.", ".attention.norm_q."),
    (".attention.k_norm.", ".attention.norm_k."),
)
_FUSED = ".attention.qkv."
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def convert(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """``tensors`` under the names of ``ZImageTransformer2DModel``; tensors of other models are left out.

    ``config`` is the transformer's: its patch sizes are part of two names, its heads determine how the rows of a fused
    ``qkv`` (q, then k, then v) are split.
    """
    patch = f"{config['all_patch_size'][0]}-{config['all_f_patch_size'][0]}"
    head = config["dim"] // config["n_heads"]
    rows = [config["n_heads"] * head, config["n_kv_heads"] * head, config["n_kv_heads"] * head]
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in tensors)), "")
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix) or name.removeprefix(prefix) in _UNUSED:
            continue
        name = name.removeprefix(prefix)
        for old, new in _RENAMED:
            name = name.replace(old, new)
        for part, whole in (("x_embedder.", f"all_x_embedder.{patch}."), ("final_layer.", f"all_final_layer.{patch}.")):
            if name.startswith(part):
                name = whole + name.removeprefix(part)
        if _FUSED in name and tensor.shape[0] == sum(rows):
            for role, piece in zip(("to_q", "to_k", "to_v"), tensor.split(rows), strict=True):
                converted[name.replace(_FUSED, f".attention.{role}.")] = piece
        else:
            converted[name] = tensor
    return converted


def read(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the single file at ``path`` under the names of ``model``, still mapped from the file.

    Raises:
        UserError: the file is damaged, quantized, or does not fit the model's config.
    """
    check_whole(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = convert({name: file.get_tensor(name) for name in file.keys()}, model.config)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get it again") from None
    expected = model.state_dict()
    quantised = [name for name, tensor in tensors.items() if tensor.dtype not in _FLOATS]
    if quantised:
        raise UserError(
            f"{path}: is quantized ({quantised[0]} is {tensors[quantised[0]].dtype}); get the bf16 file, "
            "quantization.transformer does the rest"
        )
    for what, names in (("lacks", expected.keys() - tensors.keys()), ("also holds", tensors.keys() - expected.keys())):
        if names:
            raise UserError(
                f"{path}: {what} {len(names)} tensors, for example {min(names)}: "
                "not the transformer that transformer/config.json of the base describes; name another transformer_file"
            )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} is {tuple(tensor.shape)}, transformer/config.json of the base asks for "
                f"{tuple(expected[name].shape)}; name the transformer_file that belongs to it"
            )
    return tensors


def load_into(model: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Load the single file at ``path`` into ``model`` (on the meta device), cast to ``dtype``.

    Raises:
        UserError: as :func:`read`.
    """
    # A copy, so that nothing depends on the mapped file and slices of a qkv do not keep the whole alive.
    copied = {name: tensor.to(dtype, copy=True) for name, tensor in read(path, model).items()}
    model.load_state_dict(copied, assign=True)
