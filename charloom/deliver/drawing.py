"""Prepares workflows in API format for a server, and saves the pictures that it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from charloom.core import files, pictures
from charloom.core.errors import UserError


def load(path: Path, remedy: str) -> dict[str, Any]:
    """Load the workflow in ``path``; ``remedy`` is the command that makes it.

    Raises:
        UserError: there is none, or it is not in API format.
    """
    try:
        data = files.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such workflow; to make it: {remedy}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not readable as JSON ({error}); to make it anew: {remedy}") from None
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        raise UserError(f"{path}: is a workflow for the window; give the one in API format (*.api.json)")
    if (
        not isinstance(data, dict)
        or not data
        or not all(
            isinstance(n, dict) and "class_type" in n and isinstance(n.get("inputs"), dict) for n in data.values()
        )
    ):
        raise UserError(f"{path}: is not a workflow in API format; to make one: {remedy}")
    return data


def adjust(workflow: dict[str, Any], path: Path, *, prompt: str | None, seed: int | None) -> int:
    """Set prompt and seed of the one sampler in ``workflow``, in place; returns the seed that it uses.

    Raises:
        UserError: it has no KSampler, or several.
    """
    samplers = [node for node in workflow.values() if node["class_type"] == "KSampler"]
    if len(samplers) != 1:
        raise UserError(f"{path}: has {len(samplers)} KSampler nodes, and exactly one can be set; use another workflow")
    inputs = samplers[0]["inputs"]
    if seed is not None:
        inputs["seed"] = seed
    if prompt is not None:
        link = inputs.get("positive")
        source = workflow.get(str(link[0]), {}) if isinstance(link, list) and link else {}
        if "text" not in source.get("inputs", {}):
            raise UserError(
                f"{path}: the prompt does not go from a CLIPTextEncode into the KSampler; leave --prompt out"
            )
        source["inputs"]["text"] = prompt
    used = inputs.get("seed", 0)
    if not isinstance(used, int):
        raise UserError(f"{path}: another node gives its KSampler the seed; give one with --seed")
    return used


def save(found: Iterable[bytes], target: Path, origin: str) -> Iterator[Path]:
    """Write pictures to ``target``, further ones beside it as ``<stem>-2.png``; yields each path once it is written.

    The bytes are kept as received, with the workflow that ComfyUI embeds in them.

    Raises:
        UserError: what was received is not a picture, or the disk is full.
    """
    for index, data in enumerate(found, 1):
        path = target if index == 1 else target.with_name(f"{target.stem}-{index}{target.suffix}")
        if path.exists():
            raise UserError(f"{path}: exists already and is not overwritten; give another --seed or --output")
        with files.whole(path) as temporary:
            temporary.write_bytes(data)
            try:
                pictures.read(temporary)
            except UserError:
                raise UserError(
                    f"{origin}: sent {len(data)} bytes that are not a picture, and {path.name} was not written; "
                    "see ComfyUI's window"
                ) from None
        yield path
