"""A data set as somebody views and edits it by hand: pictures with captions, prompts, and versions of what was read.

For web pages. Before anything is written, the present state is compared with what the author saw, so no edit is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charloom.config import datasets, image_folder
from charloom.config.character import Character, Shot
from charloom.core import layout
from charloom.core.errors import UserError
from charloom.dataset import caption_files, picture_files, prompts
from charloom.workflow import lint_files, proposing, slices


@dataclass(frozen=True)
class Words:
    """The present caption of a picture, and the version of the files from which it was read."""

    text: str
    version: str
    own: bool
    """Whether somebody wrote it; otherwise it was composed."""
    problem: str = ""


class Outdated(UserError):
    """Somebody else has changed a caption in the meantime; ``words`` are its present ones."""

    def __init__(self, name: str, words: Words) -> None:
        super().__init__(f"{name}: the caption has changed since you read it; nothing was written")
        self.words = words


def names(character: Character) -> Iterator[tuple[str, bool]]:
    """Every picture in order, and whether it is left out: shots, then the extra sets."""
    out = {shot.name for shot in character.excluded}
    yield from ((name, name in out) for name in character.planned)
    for part in character.datasets:
        every = {**part.files, **part.excluded} if part.excluded else part.files
        for image in sorted(every, key=lambda image: every[image]) if part.excluded else every:
            yield f"{part.name}/{image}", image in part.excluded


def has(character: Character, name: str) -> bool:
    """Whether :func:`names` has the picture ``name``; looks at no other."""
    part, image = character.part_of(name)
    return image in part.files or image in part.excluded if part else name in character.planned


def kept(character: Character, name: str) -> Character:
    """The character with the picture ``name`` included; unchanged if it is not left out."""
    part, image = character.part_of(name)
    if part and image in part.excluded:
        whole = replace(part, files={**part.files, image: part.excluded[image]}, excluded={})
        return replace(character, datasets=tuple(whole if one is part else one for one in character.datasets))
    if any(shot.name == name for shot in character.excluded):
        shots = (*character.shots, *character.excluded)
        # Nobody has looked for the words of those that are left out.
        wordless = {shot.name for shot in character.excluded if _is_wordless(character, shot)}
        return replace(character, shots=shots, excluded=(), blank=character.blank | wordless)
    return character


def _is_wordless(character: Character, shot: Shot) -> bool:
    """Whether no caption can be composed for a shot, so that the user has to write one."""
    return character.source == "folder" if character.takes_all else bool(character.missing(shot))


def file_of(character: Character, name: str, root: Path) -> Path | None:
    """The picture's file, the user's if there is one, whether it is left out or not; None if it does not exist yet."""
    if name == image_folder.REFERENCE and not has(character, name):
        return None if picture_files.reason(character, name) else picture_files.place(character, name).there
    path, _ = lint_files.picture(kept(character, name), name, root)
    return path if path.is_file() else None


def words_of(character: Character, name: str, root: Path) -> Words:
    """The present caption of a picture that is not left out."""
    part, image = character.part_of(name)
    path = part.caption_file(image) if part else character.caption_file(character.shot(image), root)
    problem = ""
    try:
        text = lint_files.caption(character, name, root)
    except UserError as error:
        text, problem = "", str(error)
    try:
        data = path.read_bytes() if path else b""
    except OSError:
        data = b""
    seen = hashlib.sha256(b"\0".join([str(path or "").encode(), data, text.encode()])).hexdigest()
    return Words(text, seen, path is not None and not datasets.is_blank(path), problem)


def write(character: Character, name: str, text: str, *, by: str, seen: str, root: Path) -> Path:
    """Save a caption as the user's own (:func:`charloom.dataset.caption_files.save`), if it is still the one seen.

    Raises:
        Outdated: the caption has changed since.
        UserError: the text has no words, or the file cannot be written.
    """
    character = kept(character, name)
    before = caption_files.version(caption_files.place(character, name, root))
    now = words_of(character, name, root)
    if now.version != seen:
        raise Outdated(name, now)
    try:
        return caption_files.save(character, name, text, by=by, root=root, expected=before)
    except caption_files.Changed:
        raise Outdated(name, words_of(character, name, root)) from None


def settle(
    character: Character, review: proposing.Review, name: str, proposed: str, *, take: bool, seen: str, root: Path
) -> Path:
    """Accept a proposed caption as it was shown (``take``), or keep the present one as the user's own.

    Raises:
        Outdated: the present caption has changed since.
        UserError: the proposal has changed since, or is gone.
    """
    proposal = review.proposals.get(name)
    if proposal is None or proposal.text != proposed:
        raise UserError(f"{name}: the proposal has changed or is gone; look at it again")
    text, by = (proposal.text, review.captioner) if take else (proposal.current, "you")
    return write(character, name, text, by=by, seen=seen, root=root)


def sheet(character: Character) -> tuple[str, dict[str, str]]:
    """The prompt of the reference (may be empty), and those of the shots by name: none where no shot is described."""
    if character.whole or not character.has_sheet or not character.appearance:
        return "", {}
    found = prompts.sheet(json.loads(slices.prompt_sheet(character)))
    by_hand = character.source == "folder"
    return found.reference if by_hand else "", {name: prompt for _, name, prompt in found.shots}


def ticks_file(character: str, root: Path) -> Path:
    """The file that records which prompts have been ticked off."""
    return root / layout.results(character).root / "prompts-done.json"


def described(character: Character, name: str) -> dict[str, Any]:
    """Tier and extra set of a picture."""
    part, image = character.part_of(name)
    out = next((shot for shot in character.excluded if shot.name == name), None)
    tier = "" if part else (out or character.shot(image)).tier
    role = "hold-out" if part and part.holdout else "regularisation" if part and part.regularization else ""
    return {"tier": tier, "set": part.name if part else "", "role": role}
