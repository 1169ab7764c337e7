"""Texts to embeddings: captions, their variants and sample prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core import tokens
from charloom.core.canonical import digest
from charloom.core.store import Store

KIND = "embedding"
FULL_PRECISION = "none"


def key(text: str, lock: dict[str, Any], settings: dict[str, Any]) -> str:
    """Store key of the embedding of ``text``."""
    parts = {name: lock["components"][name] for name in ("text_encoder", "tokenizer")}
    return digest({"text": text, **parts, **settings})


def make(
    texts: Iterable[str],
    lock: dict[str, Any],
    settings: dict[str, Any],
    store: Store,
    device: Any,
    log: Callable[[str], None] | None = None,
) -> int:
    """Encode those of ``texts`` that are not stored; returns how many. The encoder is freed afterwards.

    Raises:
        UserError: as :meth:`Encoder.encode`.
    """
    encoder = Encoder(lock, settings, store, device)
    try:
        return encoder.encode(texts, log)
    finally:
        encoder.close()


class Encoder:
    """The text encoder of a base, loaded for the first text that is not stored, and kept until :meth:`close`."""

    def __init__(self, lock: dict[str, Any], settings: dict[str, Any], store: Store, device: Any) -> None:
        self.lock, self.settings, self.store, self.device = lock, settings, store, device
        self._loaded: tuple[Any, Any, Any] | None = None

    def path(self, text: str) -> Path:
        """Where the embedding of ``text`` is stored."""
        return self.store.path(KIND, key(text, self.lock, self.settings), ".safetensors")

    def encode(self, texts: Iterable[str], log: Callable[[str], None] | None = None) -> int:
        """Encode those of ``texts`` that are not stored, each to a tensor ``embeds`` (L, D) in fp32; returns how many.

        One text at a time, so that an embedding does not depend on the others. ``log`` gets a line for each text that
        is truncated.

        Raises:
            UserError: a file of the encoder is missing or has changed; quantization nf4 without bitsandbytes.
        """
        from charloom.core.tensors import write_safetensors
        from charloom.zimage import text

        missing = [words for words in dict.fromkeys(texts) if not self.path(words).is_file()]
        if not missing:
            return 0
        if self._loaded is None:
            locks.locate(self.lock, "tokenizer", self.store)
            root = locks.locate(self.lock, "text_encoder", self.store)
            precision = self.settings.get("quantization", FULL_PRECISION)
            self._loaded = (*_load(root, precision, self.device), tokens.counter({"path": str(root)}))
        tokenizer, encoder, count = self._loaded
        for words in missing:
            if log and (what := count.too_long(words)):
                log(f"{what}: {words[:60]}…")
            embeds = text.encode(tokenizer, encoder, [words])[0].float().cpu()
            with self.store.put(KIND, key(words, self.lock, self.settings), ".safetensors") as path:
                write_safetensors(path, {"embeds": embeds}, {"caption": words})
        return len(missing)

    def close(self) -> None:
        """Free the encoder's memory."""
        if self._loaded is None:
            return
        import torch

        self._loaded = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _load(root: Any, kind: str, device: Any) -> tuple[Any, Any]:
    """(tokenizer, encoder) with its Linears stored in ``kind``, fp32 only on the CPU with ``none``.

    Read in bf16, onto a GPU that has room for all of it; else quantised one by one, so that it never holds all of it.
    """
    import torch

    from charloom.engine import memory
    from charloom.kernels import quantize
    from charloom.zimage import weights

    full = kind == FULL_PRECISION and device.type == "cpu"
    dtype = torch.float32 if full else torch.bfloat16
    if kind not in quantize.KINDS:
        return weights.load_text_encoder(root, dtype=dtype, device=device)
    roomy = device.type == "cuda" and memory.budget(None, device) > 1.2 * weights.bf16_bytes(root, "text_encoder")
    tokenizer, encoder = weights.load_text_encoder(root, dtype=dtype, device=device if roomy else "cpu")
    quantize.quantize(encoder, kind, device)
    quantize.set_mode(encoder, "dequantize")  # captions are short: quantised products would save nothing
    return tokenizer, encoder.to(device)
