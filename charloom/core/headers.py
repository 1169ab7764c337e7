"""The header of a safetensors file, read and replaced without loading tensors. Standard library only.

A file is the length of its header (8 bytes, little-endian), the header as JSON, and the tensors' bytes
(https://huggingface.co/docs/safetensors). Except for :func:`tensors_digest`, files were checked before they come here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from charloom.core.canonical import PEFT_CONFIG, canonical_json

LARGEST = 100_000_000
"""Bytes of a header, at most, as in the safetensors library; a file may claim any length."""


def packed(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The start of a file with ``entries`` (dtype, shape and place of each tensor); metadata sorted by name."""
    header = {**({"__metadata__": dict(sorted(metadata.items()))} if metadata else {}), **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start on an eight-byte boundary
    return len(text).to_bytes(8, "little") + text


def metadata(path: Path) -> dict[str, str]:
    """What a file says about itself."""
    with open(path, "rb") as file:
        return dict(_read(file).get("__metadata__", {}))


def tensors_sha256(path: Path) -> str:
    """SHA-256 of a file without its header, the hash by which websites identify LoRAs."""
    with open(path, "rb") as file:
        file.seek(8 + _length(file))
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(path: Path) -> str:
    """SHA-256 of the tensors with their names and shapes, whatever their order in the header; without its metadata.

    PEFT's own configuration counts too: it may hold the alpha of a LoRA.

    Raises:
        ValueError: it is not a safetensors file.
    """
    with open(path, "rb") as file:
        length = _length(file)
        if length > LARGEST:
            raise ValueError(f"{path} has no safetensors header")
        entries = json.loads(file.read(length))
        about = entries.pop("__metadata__", {}) if isinstance(entries, dict) else None
        if not isinstance(about, dict):
            raise ValueError(f"{path} has no safetensors header")
        found = hashlib.sha256(canonical_json(entries).encode("ascii"))
        found.update(str(about.get(PEFT_CONFIG, "")).encode())
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def with_metadata(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Write the tensors of ``source``, byte for byte, under a header with other metadata."""
    with open(source, "rb") as file, open(target, "wb") as out:
        entries = {name: entry for name, entry in _read(file).items() if name != "__metadata__"}
        out.write(packed(entries, metadata))
        shutil.copyfileobj(file, out, 1 << 20)


def _read(file: BinaryIO) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(file.read(_length(file)))
    return header


def _length(file: BinaryIO) -> int:
    return int.from_bytes(file.read(8), "little")
