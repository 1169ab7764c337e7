"""Records in a picture how it was made, as PNG text chunks in the formats that other programs read.

``parameters`` is what AUTOMATIC1111's and Forge's web pages write and read (``modules/infotext_utils.py`` there), and
what Civitai and most viewers show. ``prompt`` and ``workflow`` are what ComfyUI writes: dropped into its window, the
picture becomes the workflow that draws it. They contain no path and no user name. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.core import files, headers, pictures
from charloom.deliver import comfyui

VERSION = "charloom"
_QUOTED = (",", "\n", ":")
"""Characters because of which a value in ``parameters`` must be quoted."""


@dataclass(frozen=True)
class Used:
    """A LoRA that a picture was drawn with: its name, hash (:func:`tensors_hash`) and strength."""

    name: str
    hash: str
    strength: float


def chunks(name: str, settings: Mapping[str, Any], loras: Sequence[Used], about: Mapping[str, Any]) -> dict[str, str]:
    """The text chunks of a picture called ``name``, by keyword.

    ``settings`` have ``text``, ``width``, ``height``, ``steps``, ``guidance`` and ``seed``; ``about`` has what
    :func:`charloom.deliver.comfyui.picture` needs, and ``base``.
    """
    used = [comfyui.Lora(f"{one.name}.safetensors", one.name, one.strength) for one in loras]
    drawing = comfyui.Drawing(
        settings["text"],
        settings["width"],
        settings["height"],
        settings["steps"],
        settings["guidance"],
        settings["seed"],
        used,
    )
    away = about.get("negative", "") if settings["guidance"] > 1 else ""
    out = {"parameters": parameters(settings, loras, about["base"], about["shift"], away)}
    if not about["miniature"]:  # which ComfyUI cannot load
        graph = comfyui.picture(name, drawing, about)
        out |= {"prompt": json.dumps(graph.as_api()), "workflow": json.dumps(graph.as_ui())}
    return out


def parameters(settings: Mapping[str, Any], loras: Sequence[Used], base: str, shift: float, negative: str = "") -> str:
    """The text of ``parameters``: prompt with ``<lora:name:strength>``, negative prompt, and a line of settings."""
    words = " ".join([settings["text"], *(f"<lora:{one.name}:{one.strength:g}>" for one in loras)])
    values = {
        "Steps": settings["steps"],
        "Sampler": "Euler",
        "Schedule type": "Simple",
        "CFG scale": f"{settings['guidance']:g}",
        "Shift": f"{shift:g}",
        "Seed": settings["seed"],
        "Size": f"{settings['width']}x{settings['height']}",
        "Model": base,
    }
    if loras:
        values["Lora hashes"] = ", ".join(f"{one.name}: {one.hash}" for one in loras)
    values["Version"] = VERSION
    line = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in values.items())
    return "\n".join([words, *([f"Negative prompt: {negative}"] if negative else []), line])


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in _QUOTED) else value


def tensors_hash(path: Path) -> str:
    """The first twelve digits of the SHA-256 of a safetensors file without its header, by which LoRAs are looked up."""
    return headers.tensors_sha256(path)[:12]


def write(picture: Any, output: Path, texts: Mapping[str, str]) -> None:
    """Write a picture (a Pillow image, or a file) with text chunks as a PNG, completely or not at all.

    Raises:
        UserError: the disk is full or not writable.
    """
    from PIL.PngImagePlugin import PngInfo

    image = pictures.read(picture, pictures.MADE_HERE).image if isinstance(picture, Path) else picture
    words = PngInfo()
    for keyword, text in texts.items():
        words.add_text(keyword, text)
    with files.whole(output) as temporary:
        image.save(temporary, format="PNG", compress_level=6, pnginfo=words)
