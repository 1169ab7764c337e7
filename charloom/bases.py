"""Which bytes a base model is: its files, their digests, and a lock file that names them.

A lock is a few kilobytes and stands in for gigabytes: a moved or touched file changes nothing, another
revision changes everything that depends on it. Digests are kept in the store by size and time of
change, so large files are read once. Must not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.canonical import digest, file_digest
from charloom.errors import UserError
from charloom.store import Store

COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
_IGNORED = (".md", ".txt", ".png", ".jpg")
_KEEP = ("merges.txt",)


def local_files(folder: str | None, adapters: dict[str, Any]) -> list[str]:
    """Files of a base on this disk: what the components are loaded from, and the adapters."""
    found = [str(path) for name in COMPONENTS for path in component_files(Path(folder), name)] if folder else []
    return found + [adapter for adapter in adapters.values() if isinstance(adapter, str)]


def component_files(folder: Path, component: str) -> list[Path]:
    """Files of one component in the diffusers layout, sorted; pictures and documents do not count."""
    files = sorted(path for path in (folder / component).glob("*") if path.is_file())
    return [
        path for path in files if (path.suffix not in _IGNORED or path.name in _KEEP) and not path.name.startswith(".")
    ]


def lock(settings: dict[str, Any], store: Store) -> dict[str, Any]:
    """The lock of a base.

    Returns ``name``, ``root`` (folder of the components), ``components`` (digest of each), ``adapters``
    (name -> path, sha256) and ``files`` (name -> size, sha256). Fetches from the hub what is not there yet.

    Raises:
        UserError: a component is missing, or the hub cannot be reached.
    """
    root = Path(settings["path"]) if settings.get("path") else _fetch(settings["repo"], settings["revision"])
    files: dict[str, dict[str, Any]] = {}
    components = {}
    for name in COMPONENTS:
        paths = component_files(root, name)
        if not paths:
            raise UserError(
                f"{root}: the base has no files in {name}/; it must be a whole folder in the diffusers layout"
            )
        own = {f"{name}/{path.name}": _facts(path, store) for path in paths}
        files |= own
        components[name] = digest({key: facts["sha256"] for key, facts in own.items()})
    adapters = {}
    for name, where in settings["adapters"].items():
        path = Path(where) if isinstance(where, str) else None
        # An adapter on the hub is fetched by the job that merges it: most bases offer more than one.
        adapters[name] = {"path": str(path), "sha256": _facts(path, store)["sha256"]} if path else dict(where)
    return {"name": settings["name"], "root": str(root), "components": components, "adapters": adapters, "files": files}


def adapter_file(entry: dict[str, Any]) -> Path:
    """The file of an adapter entry of a lock, fetched from the hub if it is not here."""
    if "path" in entry:
        return Path(entry["path"])
    return _fetch_file(entry["repo"], entry["file"], entry.get("revision", "main"))


def _facts(path: Path, store: Store) -> dict[str, Any]:
    state = path.stat()
    key = digest({"path": str(path.resolve()), "size": state.st_size, "changed": state.st_mtime_ns})
    if store.has("file-digest", key):
        sha = store.path("file-digest", key).read_text()
    else:
        sha = file_digest(path)
        with store.put("file-digest", key) as entry:
            entry.write_text(sha)
    return {"size": state.st_size, "sha256": sha}


def _fetch(repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["model_index.json", *(f"{name}/*" for name in COMPONENTS)]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises dozens of kinds, all of them the same to the user
        raise UserError(_unreachable(f"{repo} at {revision}", error)) from None


def _fetch_file(repo: str, file: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except Exception as error:
        raise UserError(_unreachable(f"{repo}/{file} at {revision}", error)) from None


def _unreachable(what: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    return (
        f"{what} cannot be fetched from the hub ({type(error).__name__}: {reason}); "
        "check the network and the name, or give the path of a local copy in config/bases/"
    )
