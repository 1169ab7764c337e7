"""Files from the Hugging Face Hub: fetched at a revision, with disk space checked and progress reported.

Resuming, caching and ``HF_HUB_OFFLINE=1`` are up to the client library; this module turns every failure into one line
with a remedy. Must not import torch.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from charloom.core.errors import UserError

PROGRESS_SECONDS = 10.0
"""Time between two progress lines."""

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
UNREACHABLE = (
    "ConnectError",
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ReadError",
    "ProxyError",
    "TimeoutError",
    "TimeoutException",
    "gaierror",
    "LocalEntryNotFoundError",
    "IncompleteSnapshotError",
    "RemoteProtocolError",
    "FileMetadataError",
)

Log = Callable[[str], None]
"""Takes one line for the user."""


def silent(_text: str) -> None:
    """Discard the line."""


def snapshot(repo: str, revision: str, patterns: Sequence[str], label: str, log: Log = silent) -> Path:
    """The cached folder of ``repo`` at ``revision``, with every file that matches one of ``patterns``.

    ``label`` names the YAML file that refers to it. The folder's name is the commit (see :func:`commit_of`).

    Raises:
        UserError: it cannot be fetched; the message says why and what to do.
    """
    import huggingface_hub

    with _plainly(repo, revision, label), _progress(repo, revision, patterns, label, log):
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))


def file(repo: str, name: str, revision: str, label: str, log: Log = silent) -> Path:
    """One file of ``repo`` in the cache; otherwise as :func:`snapshot`."""
    import huggingface_hub

    with _plainly(repo, revision, label, name), _progress(repo, revision, [name], label, log):
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))


def cached(repo: str, revision: str) -> Path | None:
    """The folder of ``repo`` at ``revision`` in the cache, complete or not; None if there is none. Works offline."""
    commit = revision
    if not COMMIT.fullmatch(revision):
        remembered = _folder(repo) / "refs" / revision
        commit = remembered.read_text().strip() if remembered.is_file() else ""
    folder = _folder(repo) / "snapshots" / commit
    return folder if commit and folder.is_dir() else None


def commit_of(path: Path) -> str | None:
    """The commit of a path returned by :func:`snapshot` or :func:`file`."""
    parts = path.parts
    after = parts[parts.index("snapshots") + 1 :] if "snapshots" in parts else ()
    return after[0] if after and COMMIT.fullmatch(after[0]) else None


def resolve(repo: str, revision: str, label: str) -> str:
    """The current commit of a branch or tag; offline, the one recorded in the cache.

    Raises:
        UserError: neither the hub nor the cache knows it.
    """
    if COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub

    try:
        return str(huggingface_hub.HfApi().model_info(repo, revision=revision).sha)
    except Exception as error:  # the client raises dozens of types
        remembered = _folder(repo) / "refs" / revision
        if remembered.is_file():
            return remembered.read_text().strip()
        raise UserError(explain(error, repo, revision, label)) from None


def blob_digest(path: Path) -> str | None:
    """The SHA-256 that the Hub states for a large file, which names its blob in the cache. None for small files."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def cache() -> Path:
    """The client library's cache folder."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def held(repo: str) -> float:
    """GB of a repository that are already in the cache, of any revision."""
    return sum(path.stat().st_size for path in (_folder(repo) / "blobs").glob("*") if path.is_file()) / 1e9


def _folder(repo: str) -> Path:
    return cache() / f"models--{repo.replace('/', '--')}"


@contextlib.contextmanager
def _plainly(repo: str, revision: str, label: str, name: str | None = None) -> Iterator[None]:
    """Turn exceptions into :class:`UserError`, without the client's progress bars."""
    with without_bars():
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(explain(error, repo, revision, label, name)) from None


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Disable the client's progress bars, which clutter logs."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def explain(error: BaseException, repo: str, revision: str, label: str, name: str | None = None) -> str:
    """One line for an exception of the client library: what cannot be fetched, why, and what to do."""
    causes = list(chain(error))
    kinds = {type(one).__name__ for one in causes}
    what = f"{label}: {repo}{f'/{name}' if name else ''} at {revision} cannot be fetched from the hub"
    page = f"https://huggingface.co/{repo}"
    copy = f"name a copy on this disk in {label}"
    if name:
        copy += ": its path in place of {repo, file, revision}"
    if any(getattr(one, "errno", None) == errno.ENOSPC or "No space left" in str(one) for one in causes):
        return (
            f"{what}: the disk of {cache()} is full; free some space or set HF_HOME to a folder on a larger disk, "
            "then run again: the download resumes"
        )
    if any(getattr(one, "errno", None) in (errno.EACCES, errno.EROFS) for one in causes):
        return f"{what}: {cache()} cannot be written to; set HF_HOME to a folder of your own"
    if "GatedRepoError" in kinds:
        return f"{what}: it is gated; accept its terms at {page} and log in with `hf auth login`"
    if kinds & {"RepositoryNotFoundError", "DisabledRepoError"}:
        return f"{what}: no such repo, or it is private; correct repo, or log in with `hf auth login`"
    if "RevisionNotFoundError" in kinds:
        return f"{what}: the repo has no such revision; take a commit from {page}/commits/main"
    if kinds & {"EntryNotFoundError", "RemoteEntryNotFoundError"}:
        return f"{what}: the repo has no such file at this revision; see {page}/tree/{revision}"
    if "HFValidationError" in kinds:
        return f"{what}: {repo} is not a repo name; write owner/name"
    if "OfflineModeIsEnabled" in kinds:
        return (
            f"{what}: HF_HUB_OFFLINE is set and {cache()} does not hold all of it; unset it, or fill the cache on "
            f"another machine with `hf download {repo} --revision {revision}`"
        )
    if kinds & set(UNREACHABLE):
        return (
            f"{what}: huggingface.co does not answer; check the network and run again (the download resumes), or {copy}"
        )
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"{what}: {type(error).__name__}: {reason}; run again, or {copy}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it, from the last to the first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def _progress(repo: str, revision: str, patterns: Sequence[str], label: str, log: Log) -> Iterator[None]:
    """Check that the missing files fit on the disk, then report the progress of the download regularly."""
    wanted = _missing(repo, revision, patterns)
    if not wanted:
        yield
        return
    # Interrupted downloads resume from their .incomplete files.
    left = max(0, wanted - _bytes(repo, "*.incomplete"))
    free = _free(cache())
    if left > free:
        raise UserError(
            f"{label}: {repo} needs {_gb(left)} more on the disk of {cache()}, which has {_gb(free)} free; "
            "free some space or set HF_HOME to a folder on a larger disk"
        )
    log(f"downloading {_gb(left)} of {repo} at {revision} to {cache()}")
    before, started, done = _bytes(repo), time.monotonic(), threading.Event()

    def watch() -> None:
        while not done.wait(PROGRESS_SECONDS):
            seconds, come = time.monotonic() - started, max(0, _bytes(repo) - before)
            speed = come / seconds
            rest = f", about {max(0, left - come) / speed / 60:.0f} min left" if come else ""
            log(f"{_gb(min(come, left))} of {_gb(left)}, {speed / 1e6:.0f} MB/s{rest}")

    # A thread that watches the disk, because the client's own progress API changes between releases.
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    log(f"{repo}: {_gb(left)} in {time.monotonic() - started:.0f} s")


def _missing(repo: str, revision: str, patterns: Sequence[str]) -> int | None:
    """Bytes of the wanted files that the cache lacks; None if the hub does not say."""
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception:
        return None  # the download reports why, and needs no network if everything is cached
    missing = 0
    for entry in info.siblings or ():
        if any(fnmatch.fnmatch(entry.rfilename, pattern) for pattern in patterns):
            there = huggingface_hub.try_to_load_from_cache(repo, entry.rfilename, revision=info.sha)
            missing += 0 if isinstance(there, str) else entry.size or 0
    return missing


def _bytes(repo: str, pattern: str = "*") -> int:
    """Bytes on disk of a repo's blobs; partial files count as far as they are written."""
    total = 0
    for path in (_folder(repo) / "blobs").glob(pattern):
        with contextlib.suppress(OSError):  # renamed meanwhile
            state = path.stat()
            blocks = getattr(state, "st_blocks", None)
            total += state.st_size if blocks is None else min(state.st_size, blocks * 512)
    return total


def _free(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
