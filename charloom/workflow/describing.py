"""What captioners say about pictures: asked once per picture, model and prompt, and kept in the store.

A text is stored as soon as it arrives, so that a run that was stopped asks only for the missing ones. Must not import
torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from charloom.base import hub
from charloom.config.captioning import PATTERNS, model_files
from charloom.core import files, words
from charloom.core.canonical import digest, file_digest
from charloom.core.contents import remembered
from charloom.core.errors import UserError
from charloom.core.store import Store

KIND = "raw-caption"
ROOM = 2**24
"""Bytes that must be free before a captioner is asked: an API also charges for what cannot be saved."""


class Asked(Protocol):
    """A captioner that is ready to use: yields (picture, text or error) for each picture as results arrive."""

    def __call__(self, pictures: Iterable[Path], prompt: str) -> Iterable[tuple[Path, str | UserError]]: ...


def key(image_sha256: str, settings: Mapping[str, Any], model: str) -> str:
    """Store key of what a captioner says about a picture; ``model`` is :func:`model_of`."""
    asked = {name: settings[name] for name in ("prompt", "longest", "recipe")}
    return digest({"image": image_sha256, "model": model, **asked})


def model_of(settings: Mapping[str, Any], store: Store) -> str:
    """What identifies a captioner: the contents of a folder, the name of a model on the Hub or behind an API.

    A branch of the Hub may move; existing descriptions stay valid until another revision is named.

    Raises:
        UserError: the folder is not there, or holds no model.
    """
    if settings.get("base_url"):
        return digest({"base_url": settings["base_url"].rstrip("/"), "model": settings["model"]})
    folder = folder_of(settings)
    if folder is None:
        return digest({"repo": settings["model"], "revision": settings["revision"]})
    found = model_files(folder)
    if not any(path.suffix == ".safetensors" for path in found):
        raise UserError(f"{folder}: holds no model (config.json and *.safetensors); correct captions.captioner")
    return digest({path.name: remembered(path, store) for path in found})


def folder_of(settings: Mapping[str, Any]) -> Path | None:
    """The folder of a captioner's model; None if its model is one of the Hub.

    Raises:
        UserError: it must be a folder, and does not exist.
    """
    path = files.expanded(settings["model"])
    if path.is_dir():
        return path
    if settings["model"].count("/") == 1 and not settings["model"].startswith((".", "~", "/")):
        return None
    raise UserError(f"captions.captioner: there is no folder {settings['model']}; correct it, or write owner/name")


def open_captioner(settings: Mapping[str, Any], device: Callable[[], Any], log: hub.Log) -> Asked:
    """The captioner of the settings; ``device`` is called only if the model runs here.

    Raises:
        UserError: the model cannot be fetched or loaded, or the key of the API is missing.
    """
    if settings.get("base_url"):
        from charloom.workflow.describing_api import Api

        return Api(settings, log)
    from charloom.workflow.describing_local import Local

    folder = folder_of(settings)
    if folder is None:
        label = "captions.captioner of the character file"
        folder = hub.snapshot(settings["model"], settings["revision"], PATTERNS, label, log)
    return Local(folder, device(), settings["longest"])


def make(
    images: Iterable[Path],
    settings: Mapping[str, Any],
    store: Store,
    device: Callable[[], Any],
    log: hub.Log = hub.silent,
) -> dict[Path, str]:
    """Describe those of ``images`` that are not described yet; returns, by image, why some could not be.

    Raises:
        UserError: the captioner is not available at all.
    """
    model = model_of(settings, store)
    keys = {image: key(file_digest(image), settings, model) for image in images}
    missing = [image for image, name in keys.items() if not store.has(KIND, name, ".json")]
    if not missing:
        return {}
    ask, failed, done = open_captioner(settings, device, log), {}, 0
    files.need_room(store.root, ROOM)
    log(f"describing {words.several(len(missing), 'picture')} with {settings['model']}")
    for image, text in ask(missing, settings["prompt"]):
        if isinstance(text, UserError):
            failed[image] = str(text)
            continue
        record = {"image": image.stem, "model": settings["model"], "prompt": settings["prompt"], "text": text}
        with store.put(KIND, keys[image], ".json") as entry:
            entry.write_text(json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        done += 1
        if done % 10 == 0:
            log(f"{done} of {len(missing)} described")
    return failed


def recalled(images: Mapping[str, Path], settings: Mapping[str, Any], store: Store) -> dict[str, str]:
    """What the captioner has said about pictures, by name, as far as it is stored; does not ask for more."""
    if not settings.get("model"):
        return {}
    model, found = model_of(settings, store), {}
    for name, image in images.items():
        if image.is_file():
            entry = key(file_digest(image), settings, model)
            if store.has(KIND, entry, ".json"):
                found[name] = text_of(store.path(KIND, entry, ".json"))
    return found


def text_of(path: Path) -> str:
    """The captioner's text in a stored file, or in its copy among the results."""
    return words.tidy(str(files.read_json(path)["text"]))
