"""Pins the bytes of a base model: a lock file with its files and their digests.

A lock is a few kilobytes and stands for gigabytes: moving or touching a file changes nothing, another revision changes
everything that depends on it. A branch of a Hub repo (``main``) is resolved to a commit when the lock is made, and
stays at that commit until the lock is deleted. Digests are kept in the store, so large files are read once. Must not
import torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from charloom.base import files as basefiles
from charloom.base import hub
from charloom.core.canonical import digest
from charloom.core.contents import remembered
from charloom.core.errors import UserError
from charloom.core.layout import WORK
from charloom.core.store import Store

COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
SINGLE_FILE = "transformer_file"
SCHEDULER = Path("scheduler/scheduler_config.json")
SHIFT = 3.0
"""Shift of the noise levels in Z-Image-Turbo, and in every lock that was made before it was recorded."""
READERS = 6
"""Files that are read at the same time for their digests."""
_IGNORED = (".md", ".txt", ".png", ".jpg")
_KEEP = ("merges.txt",)


def local_files(folder: str | None, adapters: dict[str, Any], single_file: Any = None) -> list[str]:
    """Local files of a base: those of its components, the single file, and the adapters."""
    found = []
    for name in COMPONENTS if folder else ():
        found += [str(path) for path in component_files(Path(folder), name, bool(single_file))]
    others = [single_file, *adapters.values()]
    return found + [path for path in others if isinstance(path, str)]


def component_files(folder: Path, component: str, single_file: bool = False) -> list[Path]:
    """Files of one component in the diffusers layout, sorted; images and documents are left out.

    With ``single_file``, the transformer's weights are elsewhere, and only its config is used.
    """
    files = sorted(path for path in (folder / component).glob("*") if path.is_file())
    if single_file and component == "transformer":
        files = [path for path in files if path.name == "config.json"]
    return [
        path for path in files if (path.suffix not in _IGNORED or path.name in _KEEP) and not path.name.startswith(".")
    ]


def lock(settings: dict[str, Any], store: Store, log: hub.Log = hub.silent) -> dict[str, Any]:
    """The lock of a base.

    Returns ``name``, ``root`` (folder of the components), ``components`` (digest of each), ``adapters``
    (name -> path, sha256; or repo, file, revision), ``files`` (name -> size, sha256), for a base from the Hub
    ``repo`` and ``revision`` (the commit), with a single-file transformer ``transformer_file``, and ``shift`` if the
    scheduler has another one than Turbo's. Missing files are fetched from the Hub; ``log`` gets lines of progress.

    Raises:
        UserError: a component is missing or damaged, a checksum differs, or the Hub cannot be reached.
    """
    label = _label(settings["name"])
    single, checksums = settings.get(SINGLE_FILE), settings.get("checksums", {})
    root, origin = _root(settings, label, log)
    made: dict[str, Any] = {"name": settings["name"], "root": str(root), **origin}
    files: dict[str, dict[str, Any]] = {}
    components, other = {}, []
    _read(root, bool(single), checksums, store, log)
    for name in COMPONENTS:
        paths = component_files(root, name, bool(single))
        if not paths:
            raise UserError(f"{root}: the base has no files in {name}/; name a whole folder in the diffusers layout")
        digests = {}
        for path in paths:
            key = f"{name}/{path.name}"
            files[key] = _checked(path, store, log)
            other += _other(key, path, checksums, files[key], store, log)
            digests[key] = files[key]["sha256"]
        if single and name == "transformer":
            where, path = _single(single, label, log)
            made[SINGLE_FILE] = where | _checked(path, store, log)
            other += _other(SINGLE_FILE, path, checksums, made[SINGLE_FILE], store, log)
            digests[SINGLE_FILE] = made[SINGLE_FILE]["sha256"]
        components[name] = digest(digests)
    unused = (SINGLE_FILE, "transformer/") if single else (SINGLE_FILE,)
    missing = [name for name in checksums if name not in files and not name.startswith(unused)]
    if problem := basefiles.differing(root, other, missing, label):
        raise UserError(problem)
    adapters = {name: _adapter(where, store, label) for name, where in settings["adapters"].items()}
    if (own := _shift(root / SCHEDULER)) != SHIFT:
        made["shift"] = own
    return {**made, "components": components, "adapters": adapters, "files": files}


def shift(lock: dict[str, Any]) -> float:
    """Shift of the noise levels that the base is sampled with (:func:`charloom.zimage.flow.shift_sigma`)."""
    return float(lock.get("shift", SHIFT))


def _shift(path: Path) -> float:
    """The shift that a scheduler's file sets.

    Raises:
        UserError: the file is broken, or its scheduler does not use one shift for all sizes.
    """
    if not path.is_file():
        return SHIFT
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = float(config.get("shift", 1.0))  # the default of FlowMatchEulerDiscreteScheduler in diffusers
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is not a scheduler configuration ({error}); get the file again") from None
    if config.get("use_dynamic_shifting"):
        raise UserError(
            f"{path}: use_dynamic_shifting is not supported; name a base that is sampled with one shift, like Z-Image"
        )
    if not 0 < found < 100:
        raise UserError(f"{path}: shift: {found:g} is not valid; get the file again")
    return found


def _read(root: Path, single: bool, checksums: dict[str, str], store: Store, log: hub.Log) -> None:
    """Compute the digests of all files in parallel: one after the other, a core would be slower than the disk."""
    with ThreadPoolExecutor(READERS) as pool:
        for name in COMPONENTS:
            for path in component_files(root, name, single):
                kinds = {"sha256", basefiles.kind(checksums.get(f"{name}/{path.name}", "")) or "sha256"}
                for kind in kinds:
                    pool.submit(remembered, path, store, kind, log)


def size(lock: dict[str, Any]) -> int:
    """Bytes of all files of a base, without its adapters."""
    return sum(facts["size"] for facts in lock["files"].values())


def locate(lock: dict[str, Any], component: str, store: Store, log: hub.Log = hub.silent) -> Path:
    """The folder of the base, after checking that the files of ``component`` are those of the lock.

    Files missing from the Hub's cache are fetched again, at the commit of the lock.

    Raises:
        UserError: names the file that is missing or has changed.
    """
    root = Path(lock["root"])
    names = [name for name in lock["files"] if name.startswith(f"{component}/")]
    if "repo" in lock and not all((root / name).is_file() for name in names):
        root = hub.snapshot(lock["repo"], lock["revision"], names, _label(lock["name"]), log)
    for name in names:
        _same(root / name, lock["files"][name], lock, store)
    return root


def single_file(lock: dict[str, Any], store: Store, log: hub.Log = hub.silent) -> Path | None:
    """The single file with the transformer's weights, checked as by :func:`locate`; None if there is none."""
    entry = lock.get(SINGLE_FILE)
    if not entry:
        return None
    path = _single_path(entry, _label(lock["name"]), log)
    _same(path, entry, lock, store)
    return path


def adapter_file(lock: dict[str, Any], name: str, store: Store, log: hub.Log = hub.silent) -> Path:
    """The file of a training adapter of a lock, fetched from the Hub if necessary.

    Raises:
        UserError: it cannot be fetched, is damaged, or has changed.
    """
    entry = lock["adapters"][name]
    if "path" in entry:
        _same(Path(entry["path"]), entry, lock, store)
        return Path(entry["path"])
    if "unresolved" in entry:
        raise UserError(f"{entry['unresolved']}; then delete {_lock_file(lock)}")
    path = _single_path(entry, _label(lock["name"]), log)
    basefiles.check_whole(path)
    _check_blob(path, _facts(path, store)["sha256"])
    return path


def _root(settings: dict[str, Any], label: str, log: hub.Log) -> tuple[Path, dict[str, str]]:
    if settings.get("path"):
        return Path(settings["path"]), {}
    repo, revision = settings["repo"], settings["revision"]
    root = hub.snapshot(repo, revision, _patterns(bool(settings.get(SINGLE_FILE))), label, log)
    return root, {"repo": repo, "revision": hub.commit_of(root) or revision}


def _patterns(single_file: bool) -> Sequence[str]:
    own = {"transformer": "transformer/config.json"} if single_file else {}
    return ["model_index.json", *(own.get(name, f"{name}/*") for name in COMPONENTS)]


def _single(where: Any, label: str, log: hub.Log) -> tuple[dict[str, str], Path]:
    """(entry for the lock, path) of the single file that ``where`` names."""
    if isinstance(where, str):
        return {"path": where}, Path(where)
    path = hub.file(where["repo"], where["file"], where.get("revision", "main"), label, log)
    revision = hub.commit_of(path) or where.get("revision", "main")
    return {"repo": where["repo"], "file": where["file"], "revision": revision}, path


def _single_path(entry: dict[str, Any], label: str, log: hub.Log) -> Path:
    if "path" in entry:
        return Path(entry["path"])
    return hub.file(entry["repo"], entry["file"], entry["revision"], label, log)


def _adapter(where: Any, store: Store, label: str) -> dict[str, Any]:
    if isinstance(where, str):
        return {"path": where, "sha256": _facts(Path(where), store)["sha256"]}
    # Fetched by the job that merges it: bases may offer several, of which one is used.
    entry = {"repo": where["repo"], "file": where["file"], "revision": where.get("revision", "main")}
    try:
        return entry | {"revision": hub.resolve(entry["repo"], entry["revision"], label)}
    except UserError as error:
        return entry | {"unresolved": str(error)}


def _checked(path: Path, store: Store, log: hub.Log) -> dict[str, Any]:
    """Size and SHA-256 of a file, after checking that it is intact."""
    if path.suffix == ".safetensors":
        basefiles.check_whole(path)
    facts = _facts(path, store, log)
    _check_blob(path, facts["sha256"])
    return facts


def _other(
    name: str, path: Path, checksums: dict[str, str], facts: dict[str, Any], store: Store, log: hub.Log
) -> list[basefiles.Other]:
    """The file, if the base's YAML file lists another checksum."""
    if not (expected := checksums.get(name)):
        return []
    found = facts["sha256"] if basefiles.kind(expected) == "sha256" else remembered(path, store, "md5", log)
    return [] if found == expected else [basefiles.Other(name, path, expected, found)]


def _check_blob(path: Path, sha256: str) -> None:
    if hub.blob_digest(path) not in (None, sha256):
        raise UserError(f"{path}: is damaged in the Hub's cache; delete {path.resolve()} and run again")


def _same(path: Path, locked: dict[str, Any], lock: dict[str, Any], store: Store) -> None:
    if not path.is_file():
        raise UserError(f"{path}: is missing; put it back, or delete {_lock_file(lock)} to start over without it")
    found = _facts(path, store)["sha256"]
    if found != locked["sha256"]:
        raise UserError(
            f"{path}: has changed since base {lock['name']} was locked (sha256 {found[:12]}…, not "
            f"{locked['sha256'][:12]}…); put it back, or delete {_lock_file(lock)} to start over with it"
        )


def _facts(path: Path, store: Store, log: hub.Log = hub.silent) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": remembered(path, store, "sha256", log)}


def _label(name: str) -> str:
    return f"config/bases/{name}.yaml"


def _lock_file(lock: dict[str, Any]) -> str:
    return WORK.lock(lock["name"]).as_posix()
