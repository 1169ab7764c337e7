"""The gallery: scenes that the finished LoRA draws, with styles on top, one by one, each stored as soon as it is done.

A picture depends on the tensors of its LoRAs, but neither on their headers nor on the order in which they are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core.canonical import digest, file_digest
from charloom.core.errors import UserError
from charloom.core.headers import tensors_digest
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.engine.options import EngineOptions
from charloom.workflow.samples import KIND, Painter, Wanted, precision_of
from charloom.workflow.usable import checked

LoraFile = tuple[Path, float]


class Gallery:
    """The pictures of the character whose files are in the folder ``results``, drawn with the file ``lora``."""

    def __init__(self, results: Path, lora: Path, lock: dict[str, Any]) -> None:
        self.files, self.lora, self.lock = Results(results), lora, lock

    def wanted(self, prompt: str, settings: dict[str, Any], styles: Sequence[LoraFile] = ()) -> Wanted | None:
        """One picture (``gallery-01``), or None while the embedding of its prompt is missing.

        Raises:
            UserError: a LoRA cannot be read.
        """
        embedding = self.files.prompt_embedding(prompt)
        if not embedding.is_file():
            return None
        away = settings.get("negative_prompt")
        negative = self.files.negative_embedding(away) if settings["guidance"] > 1 else None
        shift = locks.shift(self.lock)
        key = digest(
            {
                "lora": _identity(self.lora),
                "styles": sorted([_identity(path), strength] for path, strength in styles),
                "embedding": file_digest(embedding),
                "negative": file_digest(negative) if negative else None,
                "transformer": self.lock["components"]["transformer"],
                "vae": self.lock["components"]["vae"],
                **({"shift": shift} if shift != locks.SHIFT else {}),
                **settings,
            }
        )
        return Wanted(0, prompt, self.lora, embedding, settings, key, tuple(styles), negative)


@cache
def _identity(path: Path) -> str:
    try:
        return tensors_digest(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; run snakemake again, which makes it") from None
    except (OSError, ValueError):
        from charloom.core.tensors import read_safetensors

        read_safetensors(path)  # says what it is instead
        raise


def make(
    gallery: Gallery,
    wanted: Sequence[Wanted],
    store: Store,
    device: Any,
    log: Callable[[str], None],
    options: EngineOptions,
) -> None:
    """Draw those of ``wanted`` that are not stored, one after the other; each is stored as soon as it is done.

    Styles may be files of any trainer.

    Raises:
        UserError: as :class:`charloom.workflow.samples.Painter`, or a LoRA does not fit the base.
    """
    import tempfile
    import time

    missing = [one for one in wanted if not store.has(KIND, one.key, ".png")]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        applied = _usable(missing, gallery.lock, Path(folder), log)
        # One precision: it is the recipe's.
        precision = precision_of(missing[0].settings)
        painter = Painter(gallery.lock, store, device, log, options, precision)
        started = time.monotonic()
        for members, pixels in painter.paint(applied, at_once=1):
            painter.keep(members[0], pixels[0])
            size = "{width}x{height}, {steps} steps".format(**members[0].settings)
            log(f"{members[0].prompt}: {size}, {time.monotonic() - started:.1f} s")
            started = time.monotonic()


def _usable(wanted: Sequence[Wanted], lock: dict[str, Any], folder: Path, log: Callable[[str], None]) -> list[Wanted]:
    """``wanted`` with styles that fit the base, converted into ``folder`` where they have to be."""
    found = {}
    for path in dict.fromkeys(path for one in wanted for path, _ in one.styles):
        found[path], notes = checked(path, lock, folder)
        for note in notes:
            log(f"note: {note}")
    return [replace(one, styles=tuple((found[path], strength) for path, strength in one.styles)) for one in wanted]
