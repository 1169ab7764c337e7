"""The page of all messages that a user's mistake can get: docs/messages.md, from the code.

    python tools/messages.py

A message is the text of a ``UserError``; what is filled in stands in braces. ``tests/core/test_messages.py`` holds the
page against the code, and each message against the rule: what, where, what to do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "messages.md"
FOLDERS = ("charloom", "scripts")
CAUSES = ("charloom.judge.instruments", "charloom.judge.locking")
"""Modules whose messages are causes: the line that shows one ends in what to install or to name."""
VERBS = frozenset(
    """accept add allow buy change check choose close convert correct cut delete describe divide draw drop edit end free
    get give go install lay leave load look lower make mend move name pip put raise remove rename repeat replace
    restore run save say see set snakemake start take train try turn unset update use wait widen write""".split()
)
"""How a remedy begins."""
FILLED_IN = {
    "{path}: is not a complete safetensors file ({size} bytes: {error}); {again}": "delete x and download it again",
    "plan: {name}: training needs {peak} GiB of GPU memory with every block recomputing and in main memory, "
    "and may use {budget} GiB; {…}": "use a larger GPU: no setting makes it fit",
    "plan: {name}: drawing needs {need} GiB of GPU memory, and may use {allowed} GiB; {remedy}": "use a larger GPU",
    "{where}: {…}{more}": "names a base that is not there; name one of config/bases",
    "{label}: line {number}: {remedy}": "a [ or { is opened and never closed; close it",
    "{path}: {…}; {…}": "make it smaller",
    "{path}: needs pillow_heif, which {broken}": "pip install --upgrade …",
    "{path}: is completely transparent; {remedy}": "replace it",
    "{path}: not a readable safetensors file: {…}": "it is empty; get it again",
    "{path}: is not a workflow in API format; to make one: {remedy}": "snakemake --cores 2 results/mara/comfyui/…",
    "{path}: there is no such workflow; to make it: {remedy}": "snakemake --cores 2 results/mara/comfyui/…",
    "{path}: is not readable as JSON ({error}); to make it anew: {remedy}": "snakemake --cores 2 results/mara/…",
    "{repo}: {what}{…}": "the hub knows no such owner or repository; correct --repo",
    "images.masks: auto needs mediapipe where pictures are not transparent: {INSTALL}": "pip install --no-deps …",
    "images.masks: auto needs mediapipe, which cannot be imported ({…}): {INSTALL}": "pip install --no-deps …",
    "{folder}: its processor needs torchvision{lacking}": "install its release for torch 2.13.0",
    "captions.captioner: the processor of {name} needs torchvision{lacking}": "install its release for torch 2",
    "{url}: {…} ({status}, {…}); {remedy}": "check captions.captioner and the environment variable of the key",
    "{…}: there is no proposal; {remedy}": "use one of closeup-01",
    "{name}: cannot be edited without changing more; {by_hand} by hand": "write checkpoint: 500 into it by hand",
    "{name}: is not UTF-8; {by_hand} by hand": "write checkpoint: 500 into it by hand",
    "{name}: {why}": "is not a picture that can be read; replace it",
}
"""Messages whose remedy is filled in, with one that is."""
HEAD = """# Messages

Every message that a mistake can get, by the part of charloom that it comes from. Search this page for the words you
see; what is filled in stands in braces. What to do stands in the message itself, mostly behind the semicolon. Made by
`python tools/messages.py`.
"""


def messages(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """(Module, text) of each message, in the order of the code."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            module = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _name(node.func) == "UserError" and node.args:
                    if text := _text(node.args[0]):
                        yield module, " ".join(text.split())


def remedy(text: str) -> str | None:
    """The clause of a message that says what to do; None if there is none."""
    for clause in reversed(re.split(r"[;:,] (?:or |so |else |then )?", text)):
        if clause.split(" ")[0].lower() in VERBS or clause.startswith(("did you mean", "one of ")):
            return clause
    return None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _text(node: ast.expr) -> str:
    """The text of a string, an f-string, or a sum of them; empty if it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else _place(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = _text(node.left), _text(node.right)
        return "".join(side or "{…}" for side in sides) if any(sides) else ""
    return ""


def _place(part: ast.expr) -> str:
    value = part.value if isinstance(part, ast.FormattedValue) else part
    if isinstance(value, ast.Call) and _name(value.func) == "meant":
        return "did you mean …?"
    words = ast.unparse(value)
    return (
        "{"
        + (
            words
            if words.isidentifier()
            else words.rpartition(".")[2]
            if words.replace(".", "").isidentifier()
            else "…"
        )
        + "}"
    )


def page() -> str:
    """The whole page."""
    lines, package = [HEAD], ""
    for module, text in messages():
        part = module.split(".")[1] if module.startswith("charloom.") else "scripts"
        if part != package:
            package = part
            lines.append(f"\n## {part}\n")
        lines.append(f"- `{text.replace('`', chr(39))}`")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
