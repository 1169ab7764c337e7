"""Reads what the board of a data set shows, as plain values: pictures, captions, findings, proposals, prompts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from charloom.config import image_folder
from charloom.config.character import Character
from charloom.core import files
from charloom.core.errors import UserError
from charloom.dataset import picture_files
from charloom.watch.looking import Look
from charloom.workflow import board

SHOWN = "waiting"
"""The rule about open proposals, which the board shows anyway."""
FEW = 4
"""A finding about more pictures than this is shown above all of them instead of with each."""


@dataclass(frozen=True)
class Board:
    """The present data set of a character. ``fingerprint`` changes whenever anything in it does."""

    character: Character
    pictures: list[dict[str, Any]]
    fingerprint: str

    def record(self, look: Look) -> dict[str, Any]:
        """Everything that the page needs, including the findings of the last check."""
        character, record = self.character, look.record
        findings = record.get("findings", [])
        numbers = {one["name"]: one["findings"] for one in record.get("pictures", ())}
        proposals = look.review.proposals if look.review else {}
        found = []
        for picture in self.pictures:
            name = picture["name"]
            mine = [
                _finding(one, name) for number in numbers.get(name, ()) if (one := findings[number])["rule"] != SHOWN
            ]
            proposal = proposals.get(name)
            # A caption that has been decided on since then has no open proposal.
            waits = proposal is not None and not picture["excluded"] and proposal.current == picture["caption"]
            found.append({**picture, "findings": mine, "proposal": proposal.record() if proposal and waits else None})
        return {
            "kind": "board",
            "name": character.id,
            "title": character.name,
            "source": character.source,
            "trigger": character.trigger,
            "adds": picture_files.adds(character),
            "fixed": picture_files.reason(character, character.shot_names[0]) if character.shots else "",
            "pictures": found,
            "general": [_finding(one) for one in findings if not one["pictures"] or _wide(one)],
            "check": {
                "running": look.running,
                "done": bool(look.record),
                "problem": look.problem,
                "seconds": look.seconds,
                **{level: record.get(level, 0) for level in ("errors", "warnings", "notes")},
            },
        }


def read(character: Character, root: Path) -> Board:
    """Read the present data set; captions are opened, pictures are not."""
    reference, prompts = board.sheet(character)
    ticked = set(ticks(character.id, root))
    pictures = []
    if reference:
        pictures.append(_reference(character, reference, ticked, root))
    for name, out in board.names(character):
        prompt = prompts.get(name, "")
        words = board.words_of(board.kept(character, name) if out else character, name, root)
        pictures.append(
            {
                **_picture(character, name, root),
                **board.described(character, name),
                "excluded": out,
                "caption": words.text,
                "seen": words.version,
                "own": words.own,
                "problem": words.problem,
                "prompt": prompt,
                "ticked": name in ticked,
            }
        )
    looked_at = [[one[key] for key in ("name", "version", "seen", "excluded")] for one in pictures]
    settings = (character.base, character.written, character.recipe["data"], character.shots, looked_at)
    seen = hashlib.sha256(repr(settings).encode()).hexdigest()
    return Board(character, pictures, seen)


def _reference(character: Character, prompt: str, ticked: set[str], root: Path) -> dict[str, Any]:
    name = image_folder.REFERENCE
    plain = {"tier": "", "set": "", "role": name, "excluded": False, "caption": "", "seen": "", "own": False}
    return {**_picture(character, name, root), **plain, "problem": "", "prompt": prompt, "ticked": name in ticked}


def _picture(character: Character, name: str, root: Path) -> dict[str, Any]:
    file = board.file_of(character, name, root)
    version = picture_files.version(file)
    taken = not picture_files.reason(character, name)
    shown = f"/board/{character.id}/picture?picture={quote(name)}&version={version}"
    return {"name": name, "picture": shown if file else "", "version": version, "takes": taken}


def _wide(finding: dict[str, Any]) -> bool:
    """Whether so many pictures show a finding that it is about the whole set."""
    return len(finding["pictures"]) > FEW


def _finding(finding: dict[str, Any], name: str = "") -> dict[str, Any]:
    """A finding as the page needs it; ``others`` are the pictures besides ``name`` that show it, if they are few."""
    plain = {key: finding[key] for key in ("level", "rule", "where", "what", "remedy")}
    others = [] if _wide(finding) else [other for other in finding["pictures"] if other != name]
    return {**plain, "wide": _wide(finding), "pictures": len(finding["pictures"]), "others": others}


def ticks(character: str, root: Path) -> list[str]:
    """The prompts that the user has ticked off."""
    found = files.read_mapping(board.ticks_file(character, root)).get("done")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def tick(character: Character, name: str, on: bool, root: Path) -> None:
    """Tick a prompt off, or undo that.

    Raises:
        UserError: there is no such picture.
    """
    if not board.has(character, name) and name != image_folder.REFERENCE:
        raise UserError(f"there is no picture {name}; load the page again")
    before = ticks(character.id, root)
    after = [*(other for other in before if other != name), *([name] if on else [])]
    files.write_json(board.ticks_file(character.id, root), {"done": after})
