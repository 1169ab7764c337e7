"""One spelling for every value, and digests of it.

Store keys and the settings strings of the rules are made here, so equal settings must always give equal bytes.
Standard library only: light scripts import this on every call.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

PEFT_CONFIG = "lora_adapter_metadata"
"""Where the header of a LoRA has PEFT's configuration."""


def _plain(value: Any) -> Any:
    """``value`` with tuples as lists; whole floats keep their ``.0`` because ``repr`` does."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical form")
        return value
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"keys must be strings, got {wrong[0]!r}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical form")


def canonical_json(obj: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only; floats by ``repr``.

    Raises ``TypeError`` for anything but None, bool, int, float, str, list, tuple and dict with string
    keys, and ``ValueError`` for NaN and infinities.
    """
    return json.dumps(_plain(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(obj: Any) -> str:
    """SHA-256 of :func:`canonical_json`, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(obj).encode("ascii")).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
