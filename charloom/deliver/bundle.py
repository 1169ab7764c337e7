"""Collects what goes into ``bundle.zip``: the LoRA, everything it was made from, and everything it comes with."""

from __future__ import annotations

import html
import importlib.metadata
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from markupsafe import Markup

from charloom.core import files
from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.layout import WHOLE_MASK, Results
from charloom.deliver import crop_script, model_card
from charloom.deliver.comfyui import WORKFLOWS

FORMAT, VERSION = "charloom bundle", 1
MANIFEST = "manifest.json"
_SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".html", ".css", ".js", ".json", ".csv", ".txt")
_TEXT = (".md", ".txt", ".json", ".yaml", ".html", ".css", ".js", ".csv", ".py")
_SOURCE = ("source", "repository", "sourcecode", "github")
"""Labels of a repository in package metadata; see packaging.python.org, well-known project URLs."""
_LINKS = [
    re.compile(r'<li><a href="(?P<to>[^"#][^":]*)">[^<]*</a>: [^<]*</li>'),
    re.compile(r'<a href="(?P<to>[^"#][^":]*)">(?P<words>[^<]*)</a>'),
    re.compile(r' data-file="(?P<to>[^"]*)"'),
]
"""Links of the report to files beside it: in the list of files, in texts, and of pictures that open at full size."""
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[po]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}")


def members(
    results: Results, about: Mapping[str, Any], lock: Mapping[str, Any], extras: Iterable[Path]
) -> dict[str, Any]:
    """The members of the bundle: bytes or a file, by name.

    ``about`` has ``id``, ``name``, ``trigger``, ``base``, ``license`` and ``miniature``; ``character`` and ``config``
    (texts of the files of character and base); ``elsewhere``, the user's folders outside the workflow and what replaces
    them on another machine; ``items``, names of all images; ``captions``, shots whose caption was written by hand;
    ``sets``, names of extra data sets; ``source``; ``prompts``, sample prompts; and ``recipes``. If there are any:
    ``masks``, images with a mask; ``gallery``, scenes; ``start``, the LoRA that training started from;
    ``left_behind``, what is not in the bundle, in words.
    ``extras`` are files below ``results`` that only some characters have; the gallery's page includes its folder.
    """
    name = about["id"]
    out: dict[str, Any] = {
        f"{name}.safetensors": results.final,
        "report.html": b"",  # written once all link targets are known
        "comparison.png": results.comparison,
        "prompts.html": results.prompt_page,
        "prompts.txt": results.prompt_text,
        "validation.json": results.validation,
        "scores.csv": results.score_table,
        "crop.py": Path(crop_script.__file__).read_bytes(),
        "sample-prompts.txt": _lines(about["prompts"]),
        **({"gallery-prompts.txt": _lines(about["gallery"])} if about.get("gallery") else {}),
        "provenance.json": _json(provenance(results, about, lock)),
        "LICENSE.txt": _licence(about),
        f"config/characters/{name}.yaml": about["character"].encode(),
        f"config/bases/{about['base']}.yaml": about["config"].encode(),
    }
    if "start" in about:
        out[start_name(name)] = Path(about["start"])
    for workflow in WORKFLOWS:
        out[f"comfyui/{workflow}.json"] = results.comfyui(workflow)
        out[f"comfyui/{workflow}.api.json"] = results.comfyui_api(workflow)
    for item in about["items"]:
        out[f"dataset/{item}.png"], out[f"dataset/{item}.txt"] = results.image(item), results.caption(item)
    for item in about.get("masks", ()):
        out[f"masks/{item}.png"] = _mask(results.mask(item))
    # Pictures of removed scenes may still exist.
    scenes = {f"{scene['name']}.png" for scene in about.get("gallery", ())}
    for extra in extras:
        folder = extra.parent
        found = [extra] if folder == results.root else sorted(path for path in folder.rglob("*") if path.is_file())
        for path in found:
            inside = path.relative_to(results.root)
            if scenes and path.suffix == ".png" and path.name not in scenes and folder != results.root:
                continue
            if path.suffix in _SHOWN and not any(part.startswith(".") for part in inside.parts):
                out[inside.as_posix()] = path
    out["report.html"] = _report(results, about, out)
    out["README.md"] = _readme(about, out)
    check_private(out)
    listed = {key: {"sha256": _digest(value), "bytes": _size(value)} for key, value in sorted(out.items())}
    told = {key: about[key] for key in ("base", "captions", "masks", "recipes", "sets", "source") if key in about}
    told |= {"start": start_name(name)} if "start" in about else {}
    out[MANIFEST] = _json({"format": FORMAT, "version": VERSION, "character": name, **told, "files": listed})
    return out


def start_name(character: str) -> str:
    """Name in the bundle of the LoRA that training started from."""
    return f"{character}-start.safetensors"


def _report(results: Results, about: Mapping[str, Any], there: Collection[str]) -> bytes:
    """The report with the user's folders replaced, the LoRA under its name in the bundle, and links only to ``there``,
    the files in the bundle."""
    text = results.report.read_text(encoding="utf-8")
    for path in sorted(about["elsewhere"], key=len, reverse=True):
        for written in {path, html.escape(path), str(Markup.escape(path))}:
            text = text.replace(written, about["elsewhere"][path])
    text = text.replace('href="final.safetensors"', f'href="{about["id"]}.safetensors"')

    def kept(link: re.Match[str]) -> str:
        return link[0] if unquote(html.unescape(link["to"])) in there else link.groupdict().get("words") or ""

    for link in _LINKS:
        text = link.sub(kept, text)
    return text.encode()


def _mask(path: Path) -> bytes:
    """A mask at the size of its picture, as a PNG."""
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        return bytes(file.get_tensor(WHOLE_MASK).tobytes())


def provenance(results: Results, about: Mapping[str, Any], lock: Mapping[str, Any]) -> dict[str, Any]:
    """What the LoRA was made from, by digest, without paths of this machine."""
    header = _header(results.final)
    adapters = lock.get("adapters", {})
    kept = ("repo", "file", "revision", "sha256")
    base = {key: lock[key] for key in ("name", "repo", "revision", "components") if key in lock}
    base["adapters"] = {name: {key: one[key] for key in kept if key in one} for name, one in adapters.items()}
    base["files"] = {name: one["sha256"] for name, one in lock.get("files", {}).items()}
    lora = {"file": f"{about['id']}.safetensors", "sha256": file_digest(results.final)}
    return {"lora": lora, "base": base, "training": json.loads(header["charloom.provenance"])}


def _header(path: Path) -> dict[str, str]:
    """The metadata of a LoRA, read without torch."""
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        return dict(file.metadata() or {})


def check_private(contents: Mapping[str, Any]) -> None:
    """Refuse texts that contain a path of this machine or a token.

    Raises:
        UserError: with the first such file and what is in it.
    """
    signs = {
        what: _sign(folder) for what, folder in (("home", Path.home()), ("project", Path.cwd())) if folder.parts[1:]
    }
    for name, content in contents.items():
        if name.endswith(".safetensors"):
            # The LoRA that training started from may come from anywhere.
            name, text = f"{name}: its header", json.dumps(_header(content), ensure_ascii=False)
        elif name.endswith(_TEXT):
            text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")
        else:
            continue
        for what, sign in signs.items():
            if found := sign.search(text):
                raise UserError(f"{name}: holds the path of your {what} folder, {found[0]}; remove it and try again")
        if found := _TOKEN.search(text):
            raise UserError(f"{name}: holds what looks like a secret, {found[0][:6]}…; remove it and try again")


def _sign(folder: Path) -> re.Pattern[str]:
    """A pattern that finds the path of a folder in a text, with slashes or backslashes, doubled as in JSON or not.

    It does not match the end of a longer path or of a tag, nor the start of a longer name.
    """
    parts = re.split(r"[/\\]+", str(folder))
    return re.compile(r"(?<![\w.<-])" + r"[/\\]+".join(map(re.escape, parts)) + r"(?![\w.-])")


def _digest(content: bytes | Path) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_digest(content)


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _lines(prompts: Iterable[Mapping[str, Any]]) -> bytes:
    lines = []
    for p in prompts:
        how = [f"{p['width']}x{p['height']}", *([f"{p['steps']} steps"] if "steps" in p else []), f"seed {p['seed']}"]
        how += [f"strength {p['scale']:g}", *(f"{style} at {strength:g}" for style, strength in p.get("styles", ()))]
        lines.append(f"{p['name']}  {', '.join(how)}\n{p['text']}\n")
    return "\n".join(lines).encode()


def _licence(about: Mapping[str, Any]) -> bytes:
    of_base = f"under {about['license']}" if about["license"] else "under the licence that its authors give it"
    return f"""{about["id"]}.safetensors was trained on {about["base"]}, which its authors publish
{of_base}; its terms hold for what is derived from it.

{_started(about)}Pictures, captions, prompts and the LoRA belong to whoever made {about["name"]}. This bundle gives
no licence for them: ask, or write yours here.

crop.py and the workflows in comfyui/ were written by charloom, under the Apache License 2.0.
""".encode()


def _started(about: Mapping[str, Any]) -> str:
    """The paragraph about somebody else's LoRA in the bundle."""
    if "start" not in about:
        return ""
    return f"""{start_name(about["id"])} is what the training started from; the terms of whoever made it
hold for it, and may hold for what was trained from it.

"""


def _readme(about: Mapping[str, Any], contents: Mapping[str, Any]) -> bytes:
    name = about["id"]
    rows = {
        "draw with ComfyUI": f"`{name}.safetensors` goes into `ComfyUI/models/loras`; drop `comfyui/portrait.json` "
        "into the window",
        "what it can do": "`report.html`",
        "pictures and captions that it learnt from": "`dataset/`",
        **({"where they count most": "`masks/`, white on the person"} if about.get("masks") else {}),
        "prompts that made them": "`prompts.html`; `crop.py` cuts off a generator's watermark",
        "what it was made from, by digest": "`provenance.json`",
    }
    if about["miniature"]:
        rows["draw with ComfyUI"] = "not this one: it fits charloom's miniature alone, which ComfyUI cannot load"
    if (started := start_name(name)) in contents:
        rows["the LoRA that its training started from"] = f"`{started}`, by its own authors"
    if "strengths.json" in contents:
        best = files.read_mapping(contents["strengths.json"]).get("recommended")
        rows["what it does at which strength"] = "`strengths.json`" + (f"; recommended: {best:g}" if best else "")
    if "gallery/index.html" in contents:
        rows["scenes"] = "`gallery/index.html`; their prompts: `gallery-prompts.txt`"
    table = "\n".join(f"| {what} | {where} |" for what, where in rows.items())
    address = _repository()
    asked = "." if address else "; for `ADDRESS` write the address of charloom's repository."
    return f"""# {about["name"]}

{model_card.introduction(about)}

| | |
|---|---|
{table}

## Train it again

With Python 3.11 or newer{asked} In a workflow folder that you have
already, the last two lines are enough.

```sh
pip install git+{address or "ADDRESS"}
charloom init studio && cd studio
charloom unpack ../bundle.zip
snakemake --cores 2 results/{name}/final.safetensors
```

On a CPU, with the same versions of torch and Pillow and the same checkpoint chosen, the same bytes come out.
{_left_behind(about)}""".encode()


def _repository() -> str | None:
    """The address of charloom's repository, if the installed package has it; the recipient of a bundle needs it."""
    try:
        named = importlib.metadata.metadata("charloom").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for label, _, address in (line.partition(",") for line in named):
        if re.sub(r"[\W_]", "", label.lower()) in _SOURCE:
            return str(address.strip())
    return None


def _left_behind(about: Mapping[str, Any]) -> str:
    lost = about.get("left_behind")
    return f"Not in here: {'; '.join(lost)}.\n" if lost else ""
