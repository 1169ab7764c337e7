"""Unpacks a bundle into a folder of the workflow: character file, base, pictures and captions; overwrites nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml as pyyaml

from charloom.config import portable, project, schema, yaml
from charloom.core import files
from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.versions import RECIPES
from charloom.deliver import bundle
from charloom.deliver.archive import Archive, opened

_TOP = re.compile(
    r"[a-z0-9][a-z0-9_-]*\.safetensors|(README\.md|LICENSE\.txt|crop\.py|manifest\.json|provenance\.json|report\.html|"
    r"comparison\.png|prompts\.(html|txt)|validation\.json|scores\.csv|strengths\.json|(sample|gallery)-prompts\.txt)|"
    r"(dataset|masks)/([a-z0-9][a-z0-9_-]*/)?[a-z0-9][a-z0-9_-]*\.(png|txt)|(gallery|comfyui)/.+|config/(characters|bases)/[a-z0-9][a-z0-9._-]*\.yaml"
)
# The keys that decide the bytes of a base; the rest of its file is advice.
_IDENTITY = ("repo", "revision", "adapters", "transformer_file")


LARGEST_TEXT = 2**20
"""Most bytes of a settings file."""
DEEPEST = 30
"""Most levels of nesting in one."""
_OPENING = (pyyaml.BlockMappingStartToken, pyyaml.BlockSequenceStartToken, pyyaml.FlowMappingStartToken,
            pyyaml.FlowSequenceStartToken)  # fmt: skip
_CLOSING = (pyyaml.BlockEndToken, pyyaml.FlowMappingEndToken, pyyaml.FlowSequenceEndToken)


@dataclass
class Unpacked:
    """What was done: new files, and remarks about the rest."""

    character: str
    written: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def unpack(path: Path, root: Path, recipes: Mapping[str, int] = RECIPES) -> Unpacked:
    """Unpack what training needs into the workflow's folder ``root``.

    ``recipes`` are the recipe numbers of this charloom. Everything is checked before the first file is written; if
    writing fails, the files already written are removed.

    Raises:
        UserError: an incomplete bundle; a foreign or unsafe member; an existing file with other contents.
    """
    with opened(path) as archive:
        manifest = _manifest(archive)
        name = manifest["character"]
        texts, notes = _config(archive, manifest, root)
        made = manifest.get("recipes")
        other = [key for key, number in made.items() if recipes.get(key) != number] if isinstance(made, dict) else []
        if other:
            notes.append(
                f"this version of charloom makes different bytes than the bundle's in: {', '.join(sorted(other))}"
            )
        wanted: dict[str, str | bytes] = {**texts, **_pictures(manifest)}
        if (started := manifest.get("start")) and f"config/characters/{name}.yaml" in texts:
            wanted[portable.start_of(name)] = started
        todo = {}
        for target, content in wanted.items():
            digest = (
                manifest["files"][content]["sha256"]
                if isinstance(content, str)
                else hashlib.sha256(content).hexdigest()
            )
            there = root / target
            if not there.exists():
                todo[target] = content
            elif not there.is_file() or file_digest(there) != digest:
                raise UserError(
                    f"{there}: exists already with other contents and is not overwritten; move it away first"
                )
        out = Unpacked(name, notes=notes)
        try:
            for target, content in todo.items():
                with files.whole(root / target) as temporary, open(temporary, "wb") as file:
                    for block in [content] if isinstance(content, bytes) else archive.blocks(content):
                        file.write(block)
                out.written.append(root / target)
        except BaseException:
            for written in out.written:
                with contextlib.suppress(OSError):
                    written.unlink()
            raise
    return out


def _manifest(archive: Archive) -> dict[str, Any]:
    """The table of contents, after comparing every member with it."""
    try:
        manifest = json.loads(archive.read(bundle.MANIFEST))
    except (ValueError, RecursionError):
        manifest = None
    where = f"{archive.path}: {bundle.MANIFEST}"
    if not isinstance(manifest, dict) or manifest.get("format") != bundle.FORMAT:
        raise UserError(f"{where}: is not the table of a charloom bundle; get the bundle again")
    if manifest.get("version") != bundle.VERSION:
        raise UserError(
            f"{where}: is of version {manifest.get('version')}, this charloom reads {bundle.VERSION}; update it"
        )
    listed = manifest.get("files")
    names = [
        manifest.get("character"),
        manifest.get("base"),
        *_texts(manifest.get("sets")),
        *_texts(manifest.get("captions")),
    ]
    masks = manifest.get("masks", [])
    well_formed = isinstance(listed, dict) and all(isinstance(n, str) and schema.is_name(n) for n in names)
    well_formed = (
        well_formed
        and isinstance(masks, list)
        and all(isinstance(name, str) for name in masks)
        and {f"masks/{name}.png" for name in masks} == {name for name in listed if name.startswith("masks/")}
    )
    if well_formed and (started := manifest.get("start")) is not None:
        well_formed = started == bundle.start_name(manifest["character"]) and started in listed
    if not well_formed or manifest.get("source") not in ("folder", "paperdoll"):
        raise UserError(f"{where}: is damaged; get the bundle again")
    foreign = sorted(set(archive.names) - set(listed) - {bundle.MANIFEST})
    foreign += sorted(n for n in archive.names if not _TOP.fullmatch(n))
    if foreign:
        raise UserError(f"{archive.path}: {foreign[0]} does not belong in a bundle; it was changed, get it again")
    missing = sorted(set(listed) - set(archive.names))
    if missing:
        raise UserError(f"{archive.path}: {missing[0]} is missing; get the bundle again")
    for name, entry in listed.items():
        if not isinstance(entry, dict) or archive.sha256(name) != entry.get("sha256"):
            raise UserError(f"{archive.path}: {name} is not what {bundle.MANIFEST} says; it was changed, get it again")
    return manifest


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


def _config(archive: Archive, manifest: Mapping[str, Any], root: Path) -> tuple[dict[str, bytes], list[str]]:
    """The files of character and base, checked as strictly as the user's own; and remarks."""
    name, base = manifest["character"], manifest["base"]
    paths = {"character": f"config/characters/{name}.yaml", "base": f"config/bases/{base}.yaml"}
    texts = {kind: archive.read(path, LARGEST_TEXT) for kind, path in paths.items()}
    values = {}
    for kind, text in texts.items():
        _check_plain(text, f"{archive.path}: {paths[kind]}")
        with _as_file(text) as temporary:
            values[kind], problems = schema.check(yaml.read_yaml(temporary, paths[kind]), kind, paths[kind])
        if problems:
            raise UserError.several([f"{archive.path}: {line}" for line in problems])
        outside = [
            s
            for s in _strings(values[kind] if kind == "base" else values[kind].get("recipe", {}))
            if not portable.is_inside(s)
        ]
        if outside:
            raise UserError(
                f"{archive.path}: {paths[kind]} names {outside[0]!r}, which lies outside of the workflow; get it again"
            )
    character = values["character"]
    folders = {part["name"]: part["path"] for part in character.get("datasets", ())}
    mine = {part: portable.pictures_of_set(name, part) for part in manifest["sets"]}
    shown = {name.rpartition("/")[0] for name in manifest.get("masks", ())}
    masks = {"": character["images"].get("masks")}
    masks |= {part["name"]: part.get("masks") for part in character.get("datasets", ())}
    pictures = character["images"].get("path")
    started = manifest.get("start")
    init = character.get("recipe", {}).get("network", {}).get("init")
    wanted = portable.pictures_of(name) if manifest["source"] == "folder" else None
    if (
        folders != mine
        or pictures != wanted
        or any(given != (portable.masks_of(name, part) if part in shown else None) for part, given in masks.items())
        or character["images"]["source"] != manifest["source"]
        or character.get("base") != base
        or init != (portable.start_of(name) if started else None)
        or any(portable.names_more(character))
    ):
        raise UserError(f"{archive.path}: {paths['character']} does not fit the rest of the bundle; get it again")
    out, notes = {}, []
    digest = manifest["files"][started]["sha256"] if started else ""
    if not _says_the_same(root, name, texts["character"], digest):
        out[paths["character"]] = texts["character"]
    if (root / paths["base"]).is_file():
        own, theirs = yaml.read_yaml(root / paths["base"], paths["base"]), values["base"]
        copied = any("path" in one or isinstance(one.get("transformer_file"), str) for one in (own, theirs))
        # The location of a base says nothing about its content.
        differ = [] if copied else [key for key in _IDENTITY if (own.get(key) or None) != (theirs.get(key) or None)]
        if copied and own.get("path") != theirs.get("path"):
            notes.append(
                f"{paths['base']}: yours is in another place than the bundle's; the same bytes need the same files"
            )
        if differ:
            raise UserError(
                f"{paths['base']}: has another {differ[0]} than the bundle's base {base}; rename yours first"
            )
    else:
        out[paths["base"]] = texts["base"]
        lost = [path for path in portable.weights_of(values["base"]) if not (root / path).exists()]
        if lost:
            notes.append(f"weights are not in the bundle; put them where the base expects them: {', '.join(lost)}")
    return out, notes


def _check_plain(text: bytes, where: str) -> None:
    """Refuse what lets a few lines of YAML expand to gigabytes: aliases, and very deep nesting.

    Raises:
        UserError: ``where`` has either.
    """
    depth = 0
    with contextlib.suppress(pyyaml.YAMLError):  # reported by the reader, with the line
        for token in pyyaml.scan(text):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if isinstance(token, pyyaml.AliasToken) or depth > DEEPEST:
                raise UserError(f"{where} refers to parts of itself or is nested too deeply; get the bundle again")


def _says_the_same(root: Path, name: str, text: bytes, start: str) -> bool:
    """Whether the workflow already has the same character, apart from comments and defaults.

    ``start`` is the digest of the LoRA that training starts from, empty if it starts from nothing.
    """
    try:
        there = project.as_last_run(root, name, ready=False).characters.get(name)
    except UserError:
        return False  # reported by the next command
    if there is None or portable.character_file(there).encode() != text:
        return False
    return not start or (there.init is not None and file_digest(root / there.init) == start)


def _pictures(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The member for each picture and caption that training reads, by its path in the workflow's folder."""
    name, out = manifest["character"], {}
    for member in manifest["files"]:
        folder, _, rest = member.partition("/")
        part, _, image = rest.rpartition("/")
        if folder == "masks":
            out[f"{portable.masks_of(name, part)}/{image}"] = member
        if folder != "dataset":
            continue
        if part in manifest["sets"]:
            out[f"{portable.pictures_of_set(name, part)}/{image}"] = member
        elif manifest["source"] == "folder":
            out[f"{portable.pictures_of(name)}/{image}"] = member
        elif image.endswith(".txt") and image.removesuffix(".txt") in manifest["captions"]:
            out[f"config/captions/{name}/{image}"] = member
    return out


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


@contextlib.contextmanager
def _as_file(text: bytes) -> Iterator[Path]:
    """A temporary file with ``text``, because the YAML reader reports lines of files."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.yaml"
        path.write_bytes(text)
        yield path
