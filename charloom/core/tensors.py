"""Safetensors files with reproducible bytes. Independent of what the tensors mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from charloom.core import headers
from charloom.core.errors import UserError

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
}


def tensor_bytes(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor in row-major order."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes depend on the content only; tensors and metadata sorted by name."""
    header, offset = {}, 0
    for name in sorted(tensors):
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    with open(path, "wb") as file:
        file.write(headers.packed(header, metadata))
        for name in sorted(tensors):
            file.write(tensor_bytes(tensors[name]))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a file.

    Raises:
        UserError: there is no such file, or it isn't a whole safetensors file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            # Copies: tensors that share a mapped file may be unaligned, and may vanish with it.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct the path") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {_what_it_is(Path(path), error)}") from None


def _what_it_is(path: Path, error: Exception) -> str:
    """What a file is instead of a safetensors file, and what to do about it."""
    if path.is_dir():
        return "it is a folder; name the file in it"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as problem:
        return problem.strerror or str(problem)
    if not size:
        return "it is empty; get it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS and not the file itself; download the file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, perhaps one that asks for a login; download the file again"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return "it is a pickle (.pt, .ckpt, .bin) or an archive, which may run code when opened; get it as safetensors"
    if start.startswith(b"GGUF"):
        return "it is a GGUF file; get it as safetensors"
    length = int.from_bytes(start[:8], "little") if len(start) >= 9 and start[8:9] == b"{" else 0
    if length:
        end = _expected_size(path, length)
        if end is None or size < end:
            of = f" of {end:,} bytes" if end else ""
            return f"it is cut off, {size:,} bytes{of} are there; copy or download it again"
    return f"{error}; get it again"


def _expected_size(path: Path, header: int) -> int | None:
    """The size of a safetensors file according to its header of ``header`` bytes; None if that is incomplete."""
    if header > headers.LARGEST:
        return None
    with open(path, "rb") as file:
        try:
            entries = json.loads(file.read(8 + header)[8:])
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
            return 8 + header + max(map(int, ends), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError):
            return None
