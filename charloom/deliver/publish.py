"""Uploads a LoRA with its card and pictures to a repository on a hub, through ``huggingface_hub``.

All files are in one commit, so that an interrupted upload leaves the repository as it was. The token is the client's
(``HF_TOKEN`` or ``hf auth login``); it is never asked for, stored or printed here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.base import hub
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.core import last_run
from charloom.core.errors import UserError, reason
from charloom.core.files import read_mapping
from charloom.core.layout import Results
from charloom.deliver import bundle, model_card
from charloom.deliver.model_card import Shown

MOST = 12
"""Most pictures of the gallery that are uploaded."""
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
Log = Callable[[str], None]


@dataclass(frozen=True)
class Release:
    """What is uploaded: bytes or a file, by name in the repository."""

    repo: str
    files: Mapping[str, bytes | Path]

    def listing(self) -> list[str]:
        """One line per file, with its size."""
        width = max(map(len, self.files))
        return [f"  {name:{width}}  {_size(content):>9}" for name, content in self.files.items()]


def release(character: Character, base: Base, results: Results, repo: str, licence: str | None = None) -> Release:
    """Collect the files of a finished character or style from its results, without network access.

    Raises:
        UserError: the repository name is invalid, something is not made yet, or a text contains a private path.
    """
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith(".git"):
        raise UserError(f"--repo {repo}: is not the name of a repository; write owner/name, of A-Z a-z 0-9 - _ .")
    for path in (results.final, results.validation):
        if not path.is_file():
            again = last_run.again(Path(), character.id, results.final.as_posix())
            raise UserError(f"{path}: is not made yet; run {again}")
    # The checkpoint that ships; the user may have chosen it against the scores.
    step = read_mapping(results.verification).get("step", read_mapping(results.validation).get("step"))
    files: dict[str, bytes | Path] = {f"{character.id}.safetensors": results.final}
    shown = []
    for prompt in character.sample_prompts:
        picture = results.sample(step, prompt.name) if isinstance(step, int) else None
        if picture and picture.is_file() and prompt.scale and character.shown_by(prompt.text):
            files[f"images/{prompt.name}.png"] = picture
            shown.append(Shown(f"images/{prompt.name}.png", prompt.text))
    for scene in character.gallery[:MOST]:  # not scenes that have been removed from the file
        if (picture := results.scene(scene.name)).is_file():
            files[f"gallery/{picture.name}"] = picture
            on_top = ", ".join(f"{style.label} at {style.strength:g}" for style in scene.styles)
            shown.append(Shown(f"gallery/{picture.name}", scene.text, f"with {on_top}" if on_top else ""))
    about = _about(character, base, results, repo)
    files = {"README.md": model_card.card(about, shown, licence).encode(), **files}
    bundle.check_private(files)
    return Release(repo, files)


def _about(character: Character, base: Base, results: Results, repo: str) -> dict[str, Any]:
    sample = character.recipe["sample"]
    return {
        "id": character.id,
        "name": character.name,
        "trigger": character.trigger,
        "style": character.is_style,
        "base": base.name,
        "base_repo": base.repo,
        "license": base.license,
        "miniature": base.miniature,
        "repo": repo,
        "strength": read_mapping(results.strengths).get("recommended"),
        **{key: sample[key] for key in ("steps", "guidance", "width", "height")},
    }


def upload(one: Release, public: bool, log: Log) -> str:
    """Create the repository if it does not exist, upload everything in one commit, and return its address.

    Raises:
        UserError: one line: no token or a wrong one, no rights, no network, a public repository where a private one
            was asked for, or an interrupted upload.
    """
    import huggingface_hub

    # The client itself reads the variable only once, when it is imported.
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    with _plainly(one.repo, api.endpoint):
        who = api.whoami()["name"]
        log(f"logged in as {who}")
        there = api.repo_exists(one.repo)
        if there:
            info = api.repo_info(one.repo)
            if not info.private and not public:
                raise UserError(
                    f"{one.repo}: exists already and is public; add --public if everybody may see this, or choose "
                    "another name"
                )
            old = {sibling.rfilename for sibling in info.siblings or ()} & set(one.files)
            replaced = "1 file of it is" if len(old) == 1 else f"{len(old)} files of it are"
            log(f"{one.repo} exists already: {replaced} replaced, and kept in its history")
            if public and info.private:
                log(f"{one.repo} stays private; to make it public, change its settings on the hub")
        else:
            api.create_repo(one.repo, private=not public)
            log(f"{one.repo} made, {'public' if public else 'private'}")
    operations = [
        huggingface_hub.CommitOperationAdd(
            path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content)
        )
        for name, content in one.files.items()
    ]
    with _plainly(one.repo, api.endpoint, "the upload broke off, and no file of the repository was changed: "):
        api.create_commit(
            one.repo, operations, commit_message=f"Upload {next(n for n in one.files if '.safetensors' in n)}"
        )
    return f"{api.endpoint}/{one.repo}"


@contextmanager
def _plainly(repo: str, endpoint: str, what: str = "") -> Iterator[None]:
    """Turn the client's exceptions into one line without tokens, and turn its progress bars off."""
    with hub.without_bars():
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # the client raises dozens of types
            raise UserError(f"{repo}: {what}{explain(error, repo, endpoint)}") from None


def explain(error: BaseException, repo: str, endpoint: str) -> str:
    """Why a request failed and what to do, in one line."""
    kinds = {type(one).__name__ for one in hub.chain(error)}
    answer = next((found for one in hub.chain(error) if (found := getattr(one, "response", None)) is not None), None)
    status = getattr(answer, "status_code", None)
    if "LocalTokenNotFoundError" in kinds:
        return "you are not logged in; run hf auth login, or set HF_TOKEN to a token that may write"
    if status == 401 or (status is None and "Invalid user token" in str(error)):
        return "the hub does not accept your token; make a new one that may write, then run hf auth login"
    if status == 403:
        return f"your token may not write to {repo}; take one with write access, or a name of your own before the /"
    if status == 404:
        return "the hub knows no such owner or repository; correct --repo"
    if status == 409:
        return "the hub says that somebody changed the repository at the same time; run it again"
    if status in (413, 507) or "storage" in reason(error).lower():
        return "your storage on the hub is full; free some, or upload to another account"
    if status == 429:
        return "the hub reports too many requests; try again in a few minutes"
    if status and status >= 500:
        return f"the hub has an internal error (status {status}); run it again later: what arrived is not sent twice"
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set; unset it to upload"
    if kinds & set(hub.UNREACHABLE):
        return f"{endpoint} does not answer; check the network and run it again: what arrived is not sent twice"
    return f"{type(error).__name__}: {_without_token(reason(error))}; run it again"


def _without_token(text: str) -> str:
    import huggingface_hub

    token = huggingface_hub.get_token()
    text = text.replace(token, "…") if token else text
    return re.sub(r"\bhf_\w{8,}", "hf_…", text)


def _size(content: bytes | Path) -> str:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
