"""The header of a safetensors file, read and replaced without a look at its tensors. Standard library only.

A file is the length of its header (8 bytes, little-endian), the header as JSON, and the tensors' bytes
(https://huggingface.co/docs/safetensors). The files read here have been found whole before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO


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
    """SHA-256 of a file without its header, by which LoRAs are looked up."""
    with open(path, "rb") as file:
        file.seek(8 + _length(file))
        return hashlib.file_digest(file, "sha256").hexdigest()


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
