"""What the check of a data set sees in each picture, kept in the store by the digest of its bytes.

So only a picture that changed is looked at again. Facts are always measured; faces and text only if a detector for them
is installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from charloom.core import cores, files, pictures
from charloom.core.canonical import digest, file_digest
from charloom.core.errors import Stopped, UserError, reason
from charloom.core.store import Store
from charloom.core.versions import FACES_IN_PICTURES, RECIPES, TEXT_IN_PICTURES
from charloom.dataset import crop, lint
from charloom.judge import faces, ocr

KIND = "image-facts"
DETECTORS: dict[str, tuple[Callable[[], bool], Callable[[np.ndarray], list[dict[str, Any]]], int, int]] = {
    "faces": (faces.installed, faces.boxes, faces.LONGEST, FACES_IN_PICTURES),
    "text": (ocr.installed, ocr.texts, ocr.LONGEST, TEXT_IN_PICTURES),
}
"""By name: whether it is installed, what it sees on RGB pixels, the longer edge that it gets, and its version."""

broken: dict[str, str] = {}
"""Detectors that are installed but cannot be imported, with a line for each; this process does without them."""

Crop = Mapping[str, int]


def usable(wanted: Iterable[str] = tuple(DETECTORS)) -> tuple[str, ...]:
    """The detectors among ``wanted`` that are installed."""
    return tuple(name for name in DETECTORS if name in wanted and DETECTORS[name][0]())


def kept_facts(
    path: Path, store: Store, cut: Crop | None = None, detectors: Sequence[str] = (), sha256: str = ""
) -> dict[str, Any]:
    """:func:`charloom.dataset.lint.facts` of an image, after the crop ``cut`` if given, and what ``detectors`` see.

    ``sha256`` is the digest of the file, if it is known.

    Raises:
        UserError: the image cannot be read, or is too small for the crop.
    """
    if not path.is_file():
        pictures.read(path)
    image = {"image": sha256 or file_digest(path), **({"crop": dict(cut)} if cut else {})}
    opened: list[pictures.Picture] = []

    def picture() -> pictures.Picture:
        if not opened:
            read = pictures.read(path)
            opened.append(crop.cropped(read, path, **cut) if cut else read)
        return opened[0]

    found = _kept(store, KIND, {**image, "recipe": RECIPES["lint"]}, lambda: lint.facts_of(picture()))
    for name in detectors:
        _, look, longest, version = DETECTORS[name]
        key = {**image, "detector": name, "version": version}
        try:
            found[name] = _kept(store, f"image-{name}", key, lambda look=look, e=longest: look(_pixels(picture(), e)))
        except ImportError as error:  # of a library that it needs, such as OpenCV's libGL
            why = f"their detector cannot be imported ({reason(error)}); reinstall it, or uninstall it"
            broken[name] = f"pictures are not looked at for {name}: {why}"
    return found


def _kept(store: Store, kind: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    name = digest(dict(key))
    try:
        if store.has(kind, name, ".json"):
            return files.read_json(store.path(kind, name, ".json"))
    except (FileNotFoundError, ValueError):  # removed meanwhile, or of an older version and damaged: made again
        pass
    made = make()
    with store.put(kind, name, ".json", sync=False) as entry:
        entry.write_text(json.dumps(made, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
    return made


def _pixels(picture: pictures.Picture, longest: int) -> np.ndarray:
    """RGB pixels (H, W, 3) of a picture, reduced to a longer edge of ``longest``."""
    image = picture.image
    if max(image.size) > longest:
        image = image.copy()
        image.thumbnail((longest, longest), reducing_gap=2.0)
    return np.asarray(image)


def gathered(work: Mapping[str, Callable[[], Any]], threads: int = 0, stop: Event | None = None) -> dict[str, Any]:
    """Results by name, computed in parallel; a :class:`UserError` takes the place of its result.

    Raises:
        Stopped: ``stop`` was set in the meantime. What had been computed by then is kept, if ``work`` keeps it.
    """

    def one(call: Callable[[], Any]) -> Any:
        if stop is not None and stop.is_set():
            raise Stopped("the program ends")
        try:
            return call()
        except UserError as error:
            return error

    with ThreadPoolExecutor(threads or cores.usable()) as pool:
        results: Iterable[Any] = pool.map(one, work.values())
        return dict(zip(work, results, strict=True))
