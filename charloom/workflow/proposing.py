"""The captions that wait for review, as they are now: from the store and the user's own files.

For ``charloom captions``, the check, and web pages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.config import captioning
from charloom.config.character import Character
from charloom.core import layout
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset import caption_files, proposals
from charloom.dataset.proposals import Proposal
from charloom.workflow import caption_slices, describing, lint_files


@dataclass(frozen=True)
class Review:
    """Proposals by picture, the present captions of all pictures, and what the captioner has said about them."""

    character: Character
    proposals: dict[str, Proposal]
    captions: dict[str, str]
    raw: dict[str, str]
    undescribed: list[str]
    """Pictures without a caption of the user's that the captioner has not described yet."""

    @property
    def captioner(self) -> str:
        """The model that has described the pictures; empty if none is named."""
        found = captioning.of(self.character).captioner
        return found.model if found else ""

    def record(self) -> dict[str, Any]:
        """As plain values (:func:`charloom.dataset.proposals.record`)."""
        settings = caption_slices.clean_settings(self.character, self.character.image_names[0])
        settings |= {"trigger": self.character.trigger}
        made = proposals.record(self.proposals, self.captions, self.raw, settings, len(self.undescribed))
        return {"character": self.character.id, "captioner": self.captioner, **made}


def review(character: Character, root: Path, store: Store) -> Review:
    """What there is to review now.

    Raises:
        UserError: a caption that cannot be read; the captioner's folder is gone.
    """
    made = layout.results(character.id)
    raw = raw_texts(character, root, store)
    present = {name: lint_files.caption(character, name, root, raw) for name in character.image_names}
    described = captioning.described(character, root)
    waiting = [] if captioning.of(character).auto else described
    found = {
        name: proposals.propose(name, raw[name], present[name], caption_slices.clean_settings(character, name))
        for name in waiting
        if name in raw
    }
    undescribed = [name for name in described if name not in raw or not (root / made.image(name)).is_file()]
    return Review(character, found, present, raw, undescribed)


def raw_texts(character: Character, root: Path, store: Store) -> dict[str, str]:
    """What the captioner has said about the character's pictures as they are now, by name."""
    if captioning.of(character).captioner is None:
        return {}
    made = layout.results(character.id)
    images = {name: root / made.image(name) for name in character.image_names}
    return describing.recalled(images, json.loads(caption_slices.captioner(character)), store)


def accept(review: Review, names: list[str], root: Path, *, keep: bool = False) -> list[Path]:
    """Write the proposed captions of pictures (with ``keep`` the present ones) as the user's own; returns the files.

    ``all`` stands for every picture with a proposal; of those, proposals that the check would refuse are left.

    Raises:
        UserError: there is no proposal for a picture.
    """
    wanted = list(review.proposals) if names == ["all"] else names
    if lost := [name for name in wanted if name not in review.proposals]:
        there = ", ".join(review.proposals)
        remedy = (
            f"use one of {there}"
            if there
            else "describe pictures first: snakemake --cores 2 results/<name>/captions.json"
        )
        raise UserError(f"{', '.join(lost)}: there is no proposal; {remedy}")
    written = []
    for name in wanted:
        proposal = review.proposals[name]
        if names == ["all"] and not keep and not proposal.good:
            continue
        text, by = (proposal.current, "you") if keep else (proposal.text, review.captioner)
        written.append(caption_files.save(review.character, name, text, by=by, root=root))
    return written
