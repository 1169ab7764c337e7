"""Checks LoRAs of any trainer, and converts them if need be, so that they can be applied to a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.canonical import file_digest
from charloom.core.errors import UserError


def checked(path: Path, lock: dict[str, Any], folder: Path) -> tuple[Path, list[str]]:
    """A LoRA of any trainer as a file that can be applied to the base, converted into ``folder`` if need be; and notes.

    Raises:
        UserError: no whole safetensors file, not an adapter, made for another model, or broken.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; correct the path")
    from charloom.core.tensors import write_safetensors
    from charloom.lora.convert import convert
    from charloom.lora.files import read_adapter
    from charloom.lora.verify import verify
    from charloom.zimage.shapes import module_shapes

    config = Path(lock["root"]) / "transformer" / "config.json"
    report = verify(path, module_shapes(files.read_json(config)) if config.is_file() else None, own=False)
    if not report.ok:
        raise UserError(f"{path}: {report.problems[0]}; use another file (charloom verify says more)")
    try:
        read_adapter(path)
        return path, []
    except UserError:
        made = convert(path, "charloom")
    target = folder / f"{file_digest(path)}.safetensors"
    write_safetensors(target, made.tensors, made.metadata)
    return target, [f"{path.name}: {note}" for note in made.notes]
