"""Captions: they describe what varies and leave the identity to the trigger.

``<shot> of <trigger>, <identity line>, <view>, <pose>, <expression>, wearing <outfit>, <accessories>, <background>``;
for a style ``<trigger> style, <shot> of <subject>, ...``.
A hand-written file takes precedence over this grammar.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from charloom.core import words
from charloom.core.errors import UserError
from charloom.core.words import tidy
from charloom.dataset import sources

if TYPE_CHECKING:
    from charloom.config.character import Character, Shot

EYELESS_VIEWS = ("side profile", "seen from behind")
"""Views that do not show the colour of the eyes."""


def eyes_visible(shot: Shot) -> bool:
    """Whether the image shows the colour of the eyes."""
    covered = any("sunglasses" in item for item in shot.accessories) or "closed eyes" in shot.expression
    return shot.view not in EYELESS_VIEWS and not covered


def scene_phrases(shot: Shot) -> list[str]:
    """Everything about the image except the person, in the order of the grammar, without empty parts."""
    outfit = f"wearing {shot.outfit}" if shot.outfit else ""
    parts = [shot.view, shot.pose, shot.expression, outfit, *shot.accessories, shot.background]
    return [part for part in parts if part]


def caption(character: Character, shot: Shot) -> str:
    """The caption of an image by the grammar; for a style, what the source says it has drawn."""
    if character.is_style and character.kind != "style":
        unsaid = shot.name in character.blank
        return character.default_caption if unsaid else sources.get(character.source).caption(character, shot)
    line = character.identity_full if eyes_visible(shot) else character.identity_hidden
    identity = line.replace("{trigger}", character.trigger)
    tier = character.words.tiers[shot.tier]
    if character.kind == "style":
        return ", ".join([identity, f"{tier} of {shot.subject}", *scene_phrases(shot)])
    return ", ".join([f"{tier} of {identity}", *scene_phrases(shot)])


def completed(text: str, trigger: str) -> str:
    """The user's caption as it is trained on: the trigger is put at the start if it appears nowhere.

    ``[trigger]`` and ``{trigger}`` become the trigger, as in other trainers.
    """
    for placeholder in (words.PLACEHOLDER, "[trigger]"):
        text = text.replace(placeholder, trigger)
    return text if not text or words.count(text, trigger) else f"{trigger}, {text}"


def read(path: Path) -> str:
    """Read a caption file as one line without surplus white space; empty if the file has no words.

    All captions are read here, the user's as well as the workflow's copies.

    Raises:
        UserError: the file is not UTF-8 text, or is a link that leads out of its folder: its target (a key, say) would
            be trained on, and end up in the bundle.
    """
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        raise UserError(f"{path}: is a link that leads out of its folder; put the text itself there")
    try:
        return tidy(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None


def made(path: Path) -> str:
    """Read a caption that the workflow has written.

    Raises:
        UserError: the file is truncated.
    """
    if not path.read_bytes().endswith(b"\n"):
        raise UserError(f"{path}: is truncated; delete it and run again to make it anew")
    return read(path)
