"""The prepared base: the transformer with the training adapter merged into its weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from charloom import bases
from charloom.canonical import digest
from charloom.errors import UserError
from charloom.hub import Tell
from charloom.store import Store

FULL_PRECISION = "none"


def key(lock: dict[str, Any], settings: dict[str, Any]) -> str:
    """What the prepared weights depend on; it stands for the base in the key of a training run."""
    adapter = lock["adapters"][settings["adapter"]] if settings["adapter"] != "none" else None
    return digest(
        {
            "transformer": lock["components"]["transformer"],
            # An adapter on the hub is pinned by its revision instead.
            "adapter": adapter and {name: adapter[name] for name in sorted(adapter) if name != "path"},
            "quantization": settings["quantization"],
            "recipe": settings["recipe"],
        }
    )


def make(lock: dict[str, Any], settings: dict[str, Any], output: Path, store: Store, tell: Tell) -> dict[str, Any]:
    """Write the prepared weights to ``output``; returns the record of what was done.

    Raises:
        UserError: the adapter is unknown, belongs to another model, or changes nothing; the disk is full.
    """
    import torch

    from charloom.lora import adapter as adapters
    from charloom.lora.files import write_safetensors
    from charloom.zimage import base

    dtype = torch.float32 if settings["quantization"] == FULL_PRECISION else torch.bfloat16
    root, single = bases.locate(lock, "transformer", store, tell), bases.single_file(lock, store, tell)
    model = base.load_transformer(root, dtype=dtype, single_file=single)
    merged = None
    if settings["adapter"] != "none":
        merged = adapters.merge(model, bases.adapter_file(lock, settings["adapter"], store, tell)).record()
        if not merged["modules"]:
            raise UserError(f"training adapter {settings['adapter']}: no module of it fits the base; choose another")
    record = {"base": lock["name"], "digest": key(lock, settings), "merged": merged, **settings}
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > (free := shutil.disk_usage(output.parent).free):
        raise UserError(
            f"{output}: needs {size / 1e9:.1f} GB on its disk, which has {free / 1e9:.1f} GB free; free some space"
        )
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        write_safetensors(temporary, model.state_dict(), {"format": "pt", "charloom.base": record["digest"]})
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return record


def load(lock: dict[str, Any], prepared: Path, dtype: Any, device: Any) -> Any:
    """The prepared transformer, frozen, as :func:`charloom.zimage.base.load_transformer` gives it.

    Raises:
        UserError: the file does not fit the base's config.
    """
    from safetensors.torch import load_file

    from charloom.zimage import base
    from charloom.zimage.forward import prepare

    model = base.empty_transformer(Path(lock["root"]))
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(prepared).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    if missing or unexpected:
        name = (*missing, *unexpected)[0]
        raise UserError(f"{prepared}: does not fit the base (for example {name}); delete it, so that it is made anew")
    return prepare(model.to(device).eval().requires_grad_(False))
