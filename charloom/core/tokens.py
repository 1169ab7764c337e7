"""How many tokens a text has for the text encoder, which reads only the first 512.

Counted by the base's own tokenizer if it is on this disk, otherwise estimated to within about a third. Must not import
torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_TOKENS = 512
"""Tokens that ``ZImagePipeline`` keeps of a prompt, chat template included."""
_BEFORE, _AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
_TEMPLATE = 8
"""Tokens of the chat template around a text."""

_RUNS = re.compile(
    r"(?P<latin>[A-Za-z]+)|(?P<digit>\d)|(?P<kana>[\u3040-\u30ff])|(?P<han>[\u3400-\u9fff\uf900-\ufaff])"
    r"|(?P<hangul>[\uac00-\ud7af])|(?P<other>[^\W\d_A-Za-z]+)|(?P<line>_)|(?P<mark>[^\w\s]+)"
)
_EACH = {"digit": 1.0, "kana": 0.8, "han": 0.75, "hangul": 1.0, "line": 0.5}
"""Tokens per character, measured with the tokenizer of Z-Image-Turbo; :func:`estimate` treats the others by length."""


class Counter:
    """Counts the tokens of texts; ``exact`` says whether by a tokenizer or by an estimate."""

    def __init__(self, tokenizer: Any = None) -> None:
        self._tokenizer = tokenizer
        self.exact = tokenizer is not None
        self.room = MAX_TOKENS - (self._around("") if self.exact else _TEMPLATE)
        """Tokens that a text may have."""

    def __call__(self, text: str) -> int:
        """Tokens of ``text`` itself, without the chat template."""
        return self._around(text) - (MAX_TOKENS - self.room) if self.exact else estimate(text)

    def pieces(self, text: str) -> list[str]:
        """The tokens of ``text`` as strings, with the space before a word; only if ``exact``."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return [text[start:end] for start, end in offsets]

    def _around(self, text: str) -> int:
        return len(self._tokenizer.encode(_BEFORE + text + _AFTER, add_special_tokens=False).ids)

    def too_long(self, text: str) -> str | None:
        """What is wrong with the length of ``text``, or None."""
        if (number := self(text)) <= self.room:
            return None
        about = "" if self.exact else "about "
        return f"has {about}{number} tokens, and only the first {self.room} are read; shorten it"


def counter(source: Mapping[str, Any]) -> Counter:
    """A counter for the base at ``source``: ``path``, or ``repo`` and ``revision`` as far as the cache has it."""
    path = _tokenizer_file(source)
    if path is None:
        return Counter()
    try:
        from tokenizers import Tokenizer

        return Counter(Tokenizer.from_file(str(path)))
    except Exception:  # tokenizers raises bare Exception; the job that needs the file reports what is wrong
        return Counter()


def _tokenizer_file(source: Mapping[str, Any]) -> Path | None:
    name = "tokenizer/tokenizer.json"
    if source.get("path"):
        path = Path(source["path"], name)
        return path if path.is_file() else None
    if not source.get("repo"):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source["repo"], name, revision=source.get("revision"))
    return Path(found) if isinstance(found, str) else None


def estimate(text: str) -> int:
    """About the number of tokens, by the scripts that the text is written in."""
    total = 0.0
    for run in _RUNS.finditer(text):
        kind, length = run.lastgroup or "", len(run[0])
        if kind == "latin":
            total += 1 + max(0, length - 7) / 5
        elif kind in ("other", "mark"):
            total += max(1.0, length * 0.5)
        else:
            total += _EACH[kind]
    return math.ceil(total)
