"""How a character's pictures are generated, as its file says under ``images``. Opens no picture, imports nothing slow.

A *generator* is an image source that makes each picture from a prompt and the reference: an API, a ComfyUI server, a
pipeline on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charloom.config import addresses, schema
from charloom.config.addresses import is_local

GENERATORS = ("gemini", "openai", "comfyui", "diffusers")
"""The sources that generate pictures."""
PAID = ("gemini", "openai")
"""Those that charge for it, and draw a reference from words alone."""
Z_IMAGE, GENERATOR = "z-image", "generator"
"""Who draws the reference: the base, or the generator itself."""
KEYS = (*GENERATORS, "reference", "identity", "retry", "attempts", "budget")
"""Keys of ``images`` that are for generators alone."""
REFERENCE = "reference"
"""What the neutral reference is called among the pictures, and among the prompts of the base."""


@dataclass(frozen=True)
class Generation:
    """How pictures are generated; ``settings`` are those of ``source``, with all defaults."""

    source: str
    settings: dict[str, Any]
    reference: str
    """:data:`Z_IMAGE`, :data:`GENERATOR`, or the path of a picture."""
    identity: str | float = "auto"
    """The likeness to the reference below which a picture is far from it; ``auto`` or ``none``."""
    retry: int = 0
    attempts: Mapping[str, int] = field(default_factory=dict)
    """By shot, the attempt that counts first, if that is not 0."""
    pictures: int | None = None
    money: float | None = None
    """What may be spent in all."""

    @property
    def base_draws(self) -> bool:
        """Whether the base draws the reference."""
        return self.reference == Z_IMAGE

    @property
    def file(self) -> str | None:
        """The user's own picture that is the reference."""
        return None if self.reference in (Z_IMAGE, GENERATOR) else self.reference

    @property
    def price(self) -> float | None:
        """What a picture costs; None if that is not known."""
        found = self.settings.get("price")
        return float(found) if found is not None else (None if self.paid else 0.0)

    @property
    def paid(self) -> bool:
        """Whether pictures are charged for: by a server that is not one's own."""
        return self.source in PAID and not is_local(self.settings.get("base_url", ""))


def read(images: Mapping[str, Any]) -> Generation | None:
    """The generation that ``images`` of a checked character file asks for; None if nothing is generated."""
    source = images["source"]
    if source not in GENERATORS:
        return None
    reference = images.get("reference", "auto")
    if reference == "auto":
        reference = GENERATOR if source in PAID else Z_IMAGE
    elif reference not in (GENERATOR, Z_IMAGE):
        reference = os.path.expanduser(reference)
    budget = images.get("budget", {})
    return Generation(
        source=source,
        settings={**schema.defaults(schema.load_schema(source)), **images.get(source, {})},
        reference=reference,
        identity=images.get("identity", "auto"),
        retry=images.get("retry", 0),
        attempts=dict(images.get("attempts", {})),
        pictures=budget.get("pictures"),
        money=budget.get("money"),
    )


def mistakes(images: Mapping[str, Any], shots: Sequence[str]) -> list[str]:
    """What a schema cannot check, each as ``key: what is wrong; what to do``. Never repeats what might be a secret."""
    found = read(images)
    if found is None:
        return [
            f"images.{key}: is for generators; source {images['source']} generates nothing, so remove it"
            for key in KEYS
            if key in images and key not in GENERATORS
        ]
    lines = []
    where = f"images.{found.source}"
    name = found.settings.get("key_from")
    if name is not None and (wrong := addresses.variable_mistake(name)):
        lines.append(f"{where}.key_from: {wrong}")
    address = found.settings.get("base_url")
    if address and (wrong := addresses.mistake(address)):
        lines.append(f"{where}.base_url: {wrong}")
    if addresses.holds_secret(found.settings.get("server") or ""):
        lines.append(f"{where}.server: holds a password; remove it, because it would end up in logs")
    if found.reference == GENERATOR and found.source not in PAID:
        lines.append(f"images.reference: {found.source} needs a picture to begin with; use z-image, or name a file")
    if found.file and not Path(found.file).is_file():
        lines.append(f"images.reference: there is no picture {found.file}; use auto, z-image, generator, or a file")
    if found.money is not None and found.price is None:
        lines.append(f"images.budget.money: needs the price of a picture; set {where}.price")
    lines += [
        f"images.attempts.{name}: there is no such shot; {schema.meant(name, [*shots, REFERENCE])}"
        for name in found.attempts
        if name not in (*shots, REFERENCE)
    ]
    return lines
