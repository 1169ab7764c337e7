"""Which character a command is about, and whether this is a workflow folder."""

from __future__ import annotations

from pathlib import Path

from charloom.core.errors import UserError


def workflow_folder() -> Path:
    """This folder, which has ``config/``.

    Raises:
        UserError: it has none.
    """
    root = Path(".")
    if not (root / "config" / "config.yaml").is_file():
        raise UserError(
            "there is no config/config.yaml here; change to the folder of the workflow, or charloom init FOLDER"
        )
    return root


def named(target: str) -> str:
    """The name of a character or style given by name or by file: ``config/characters/mara.yaml`` is mara."""
    from charloom.config import inventory

    path = Path(target)
    return path.stem if path.suffix in (".yaml", ".yml") and path.parent.name in ("", *inventory.PROJECTS) else target


def known(target: str) -> str:
    """The name of a character or style that has a file here.

    Raises:
        UserError: there is none; the message suggests the nearest.
    """
    from charloom.config import inventory, schema

    name = named(target)
    there = sorted(inventory.projects(workflow_folder()))
    if name not in there:
        raise UserError(f"there is no config/characters/{name}.yaml; {schema.meant(name, there)}")
    return name
