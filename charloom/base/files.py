"""Checks that the files of a base are intact and the expected ones: headers, indexes, configs, known checksums.

Reads only headers and imports no torch, because it runs before anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from charloom.core.errors import UserError

WEIGHTS = ("transformer", "vae", "text_encoder")
"""Components that have weights."""

TRANSFORMER_CLASS = "ZImageTransformer2DModel"
TRANSFORMER_FIELDS = (
    "all_patch_size",
    "all_f_patch_size",
    "in_channels",
    "dim",
    "n_layers",
    "n_refiner_layers",
    "n_heads",
    "n_kv_heads",
    "norm_eps",
    "qk_norm",
    "cap_feat_dim",
    "rope_theta",
    "t_scale",
    "axes_dims",
    "axes_lens",
)
"""Fields that a config must state: the class defaults are not those of Z-Image (``axes_lens`` differs)."""


def check_whole(path: Path) -> None:
    """Check by its header that a safetensors file is not truncated.

    Raises:
        UserError: it is truncated, or not a safetensors file.
    """
    try:
        with safe_open(str(path), framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        size, again = path.stat().st_size, f"delete {path.resolve()} and download it again"
        raise UserError(f"{path}: is not a complete safetensors file ({size} bytes: {error}); {again}") from None


def check_layout(root: Path, single_file: bool = False) -> None:
    """Check that a base in the diffusers layout has its weights and a complete transformer config.

    With ``single_file``, the transformer's weights are elsewhere.

    Raises:
        UserError: names the first missing file.
    """
    for name in WEIGHTS:
        folder = root / name
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: has no config.json; get the whole folder")
        if name == "transformer" and single_file:
            continue
        for index in sorted(folder.glob("*.safetensors.index.json")):
            for shard in sorted(set(_json(index).get("weight_map", {}).values())):
                if not (folder / shard).is_file():
                    raise UserError(f"{folder / shard}: is missing, but {index.name} lists it; get the whole folder")
        if not any(folder.glob("*.safetensors")):
            raise UserError(f"{folder}: has no weights (*.safetensors); get the whole folder")
    check_transformer_config(root / "transformer")


def check_transformer_config(folder: Path) -> dict[str, Any]:
    """The transformer's ``config.json``, checked to be complete.

    Raises:
        UserError: it is of another class, or leaves a field to the class defaults.
    """
    path = folder / "config.json"
    config = _json(path)
    if config.get("_class_name") != TRANSFORMER_CLASS:
        raise UserError(
            f"{path}: _class_name is {config.get('_class_name')}, not {TRANSFORMER_CLASS}, so this "
            "is not Z-Image; name the folder of a Z-Image model"
        )
    missing = [name for name in TRANSFORMER_FIELDS if name not in config]
    if missing:
        raise UserError(
            f"{path}: {', '.join(missing)} missing, and the class defaults are not those of Z-Image; "
            "take the config.json that belongs to the weights"
        )
    return config


@dataclass(frozen=True)
class Other:
    """A file with another checksum than the base's YAML file lists under ``name``."""

    name: str
    path: Path
    expected: str
    found: str


def differing(root: Path, other: Sequence[Other], missing: Sequence[str], label: str) -> str:
    """All files of a base that are not those of its YAML file, in one line; empty if there are none.

    One line for all, because a model that was saved again differs in most of them, and has 20 GB to read.
    """
    if len(other) + len(missing) == 1:
        if missing:
            return f"{root / missing[0]}: is listed in {label} but missing; get it, or remove checksums.{missing[0]}"
        one = other[0]
        return (
            f"{one.path}: is not the file that {label} lists ({kind(one.expected)} {one.found}, not {one.expected}); "
            f"get it again, or correct checksums.{one.name}"
        )
    differ = f"other checksums: {', '.join(one.name for one in other)}" if other else ""
    absent = f"missing: {', '.join(missing)}" if missing else ""
    found = "; ".join(filter(None, (differ, absent)))
    remedy = "get them again, or remove their lines from checksums if this is the model you want"
    return f"{root}: does not have the files that {label} lists ({found}); {remedy}" if found else ""


def kind(checksum: str) -> str:
    """``md5`` or ``sha256``, by the length of the checksum."""
    return "md5" if len(checksum) == 32 else "sha256"


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); get it again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: is not a JSON object; get it again")
    return data
