"""Resolves ``judge: auto`` to a set of instruments, once, and describes them for a lock file.

Scores depend on the lock and not on what happens to be installed, so that a later ``pip install`` does not change a
choice. Deleting the lock file resolves them again. Hub models are pinned by commit and by the digests of their files,
as a base is. No torch here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.base import hub
from charloom.core.canonical import digest
from charloom.core.contents import remembered
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.judge.instruments import KINDS, Kind, versions


def lock(settings: dict[str, Any], store: Store, log: hub.Log = hub.silent) -> dict[str, Any]:
    """Make the lock of a base's judge; ``settings`` has ``name`` (of the base) and ``models`` (its ``judge_models``).

    Returns ``name``; ``instruments``: by name, ``versions`` of packages, ``files`` (name -> path, size, sha256),
    ``sha256`` over all of them, and for hub models ``repo`` and ``revision``; ``missing``: by name, ``why`` and
    ``install``, one line each.
    """
    found: dict[str, Any] = {}
    missing: dict[str, dict[str, str]] = {}
    for name, kind in KINDS.items():
        model = settings["models"].get(name)
        try:
            entry: dict[str, Any] = {"versions": versions(kind)}
            files = {}
            if kind.hub:
                files, origin = _model(name, kind, model, settings["name"], log)
                entry |= origin
            elif kind.files:
                files = _packaged(kind)
            facts = {
                key: {"path": str(path), "size": path.stat().st_size, "sha256": remembered(path, store, tell=log)}
                for key, path in sorted(files.items())
            }
            _check(facts, (model or {}).get("checksums", {}))
        except UserError as error:
            missing[name] = {"why": str(error), "install": _install(name, kind, model, settings["name"])}
            continue
        found[name] = {**entry, "files": facts, "sha256": digest({key: one["sha256"] for key, one in facts.items()})}
    return {"name": settings["name"], "instruments": found, "missing": missing}


def changed(made: dict[str, Any]) -> dict[str, str]:
    """Instruments that cannot be used as they were locked; the reasons, by name."""
    wrong = {}
    for name, entry in made["instruments"].items():
        try:
            for distribution, version in versions(KINDS[name]).items():
                locked = entry["versions"].get(distribution, version)  # older locks do not name all of them
                if version != locked:
                    raise UserError(f"{distribution} is {version}, not {locked} as locked")
            for facts in entry["files"].values():
                path = Path(facts["path"])
                if not path.is_file():
                    raise UserError(f"{path} is gone")
                if path.stat().st_size != facts["size"]:
                    raise UserError(f"{path} has changed")
        except UserError as error:
            wrong[name] = str(error)
    return wrong


def files_of(made: dict[str, Any], name: str, store: Store | None = None) -> dict[str, Path]:
    """The files of a locked instrument, after comparing them with the lock.

    Raises:
        UserError: one is missing or has changed.
    """
    paths = {}
    for key, facts in made["instruments"][name]["files"].items():
        path = Path(facts["path"])
        if not path.is_file():
            raise UserError(f"{path} is gone")
        if store is not None and remembered(path, store) != facts["sha256"]:
            raise UserError(f"{path} has changed since the judge was locked")
        paths[key] = path
    return paths


def _packaged(kind: Kind) -> dict[str, Path]:
    files = kind.files() if kind.files else {}
    if not files or not all(path.is_file() for path in files.values()):
        lost = next((path for path in files.values() if not path.is_file()), None)
        raise UserError(f"{lost} is missing" if lost else "its weights are not installed")
    return files


def _model(name: str, kind: Kind, model: Any, base: str, log: hub.Log) -> tuple[dict[str, Path], dict[str, str]]:
    """The files of a model, by their name in it, and their origin."""
    if not model:
        raise UserError(f"config/bases/{base}.yaml names no model for it")
    if "path" in model:
        root, origin = Path(model["path"]), {}
        if not root.is_dir():
            raise UserError(f"there is no folder {root}")
    else:
        repo, revision = model["repo"], model["revision"]
        root = _cached(repo, revision, kind.hub, f"config/bases/{base}.yaml", bool(model.get("download")), log)
        origin = {"repo": repo, "revision": hub.commit_of(root) or revision}
    files = {
        path.relative_to(root).as_posix(): path
        for pattern in kind.hub
        for path in sorted(root.glob(pattern))
        if path.is_file()
    }
    if not any(name.endswith((".safetensors", ".onnx")) for name in files):
        raise UserError(f"{root} has no weights ({', '.join(kind.hub)})")
    return files, origin


def _cached(repo: str, revision: str, patterns: tuple[str, ...], label: str, fetch: bool, log: hub.Log) -> Path:
    """The folder of a model in the hub's cache; it is downloaded only if the base says ``download: true``."""
    if fetch:
        return hub.snapshot(repo, revision, patterns, label, log)
    folder = hub.cached(repo, revision)
    if folder is None:
        raise UserError(f"{repo} is not in the cache of the hub")
    return folder


def _check(facts: dict[str, Any], checksums: dict[str, str]) -> None:
    for key, expected in checksums.items():
        if key in facts and facts[key]["sha256"] != expected:
            raise UserError(
                f"{facts[key]['path']} is not the file that is listed (sha256 {facts[key]['sha256'][:12]}…)"
            )


def _install(name: str, kind: Kind, model: Any, base: str) -> str:
    """The one line that makes an instrument available."""
    if kind.hub and not model:
        return f"name one under judge_models.{name} in config/bases/{base}.yaml"
    steps = [kind.install] if kind.install and any(True for _ in kind.packages) else []
    if kind.hub and "repo" in model:
        what = f" {kind.hub[0]}" if len(kind.hub) == 1 else ""
        steps.append(f"hf download {model['repo']}{what} --revision {model['revision']}")
    return " && ".join(steps) or f"put the model into {model['path']}"
