"""A ComfyUI server: runs a workflow in API format that has placeholders for prompt, reference and seed."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from charloom.core import files
from charloom.core.canonical import digest
from charloom.core.errors import UserError
from charloom.dataset.sources import generated
from charloom.dataset.sources.generated import inputs, make, settings
from charloom.dataset.sources.orders import Again, Order

if TYPE_CHECKING:
    from charloom.config.character import Character

__all__ = ["inputs", "make", "open", "picture", "problems", "settings"]

PLACES = ("{prompt}", "{reference}", "{seed}")
SHIPPED = ("flux2-klein-4b",)
"""Workflows that ship with charloom, in ``workflows/``."""


def problems(character: Character) -> list[str]:
    """A workflow that is missing, in the wrong format, or without placeholders."""
    assert character.generation is not None
    try:
        _workflow(character.generation.settings["workflow"])
    except UserError as error:
        return [f"images.comfyui.workflow: {error}"]
    return generated.problems(character)


def picture(character: Character) -> dict[str, Any]:
    """The content of the workflow, independent of its file name, and the seed."""
    assert character.generation is not None
    chosen = character.generation.settings
    try:
        content = digest(_workflow(chosen["workflow"]))
    except UserError:
        content = ""  # reported by problems
    return {"workflow": content, "seed": chosen["seed"]}


def open(how: dict[str, Any]) -> ComfyUI:
    """Open the server; ``how`` has ``server``, ``workflow`` and ``timeout``.

    Raises:
        UserError: the workflow or the address is not valid.
    """
    return ComfyUI(how)


class ComfyUI:
    """Fills the placeholders of the workflow, and waits for its first picture."""

    def __init__(self, how: dict[str, Any]) -> None:
        from charloom.deliver.server import Server

        self.how = how
        self.workflow = _workflow(how["workflow"])
        self.server = Server(how["server"], "images.comfyui.server", "images.comfyui.timeout")
        self._uploaded: dict[str, str] = {}

    def fresh(self) -> None:
        pass  # runs are independent

    def draw(self, order: Order) -> bytes:
        from charloom.deliver.server import Unavailable

        assert order.reference is not None and order.reference_sha256 is not None
        try:
            if order.reference_sha256 not in self._uploaded:
                name = f"charloom-{order.reference_sha256[:32]}.png"
                stored = self.server.upload(name, order.reference.read_bytes())
                self._uploaded[order.reference_sha256] = stored
            filled = fill(self.workflow, order.prompt, self._uploaded[order.reference_sha256], order.seed)
            outputs = self.server.wait(self.server.queue(filled), self.how["timeout"])
            return next(self.server.pictures(outputs))
        except Unavailable as error:
            # A server that has been restarted has lost the uploads.
            self._uploaded.clear()
            raise Again(str(error)) from None


def fill(workflow: dict[str, Any], prompt: str, reference: str, seed: int) -> dict[str, Any]:
    """Fill the placeholders in a copy of ``workflow``: those inside texts as text, the seed as a number."""

    def filled(value: Any) -> Any:
        if value == "{seed}":
            return seed
        if isinstance(value, str):
            return value.replace("{reference}", reference).replace("{seed}", str(seed)).replace("{prompt}", prompt)
        if isinstance(value, list):
            return [filled(item) for item in value]
        return {key: filled(item) for key, item in value.items()} if isinstance(value, dict) else value

    return {number: {**node, "inputs": filled(node["inputs"])} for number, node in workflow.items()}


def _workflow(name: str) -> dict[str, Any]:
    """A shipped workflow by name, or the user's own by file.

    Raises:
        UserError: there is none, or it lacks placeholders.
    """
    from charloom.deliver import drawing

    if name in SHIPPED:
        text = resources.files("charloom.dataset.sources").joinpath("workflows", f"{name}.json").read_text("utf-8")
        loaded: dict[str, Any] = json.loads(text)
        return loaded
    path = files.expanded(name)
    if not path.is_file() and path.suffix != ".json":
        raise UserError(f"there is no {name}; write {' or '.join(SHIPPED)}, or a file in API format (.json)")
    loaded = drawing.load(path, "save it in ComfyUI's window with Export (API)")
    texts = json.dumps([node["inputs"] for node in loaded.values()], ensure_ascii=False)
    if missing := [place for place in PLACES if place not in texts]:
        raise UserError(f"{name} has no {' and no '.join(missing)} in the inputs of its nodes; put it where it belongs")
    return loaded
