"""Texts to embeddings: captions, their variants and sample prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """Encode those of ``texts`` that are not stored, each to a tensor ``embeds`` (L, D) in fp32; returns how many.

    One text at a time, so that an embedding does not depend on the others. The encoder is freed afterwards. ``log``
    gets a line for each text that is truncated.

    Raises:
        UserError: a file of the encoder is missing or has changed; quantization nf4 without bitsandbytes.
    """
    import torch

    from charloom.core.tensors import write_safetensors
    from charloom.zimage import text

    missing = {
        entry: words for words in texts if not store.has(KIND, entry := key(words, lock, settings), ".safetensors")
    }
    if not missing:
        return 0
    locks.locate(lock, "tokenizer", store)
    root = locks.locate(lock, "text_encoder", store)
    tokenizer, encoder = _load(root, settings.get("quantization", FULL_PRECISION), device)
    count = tokens.counter({"path": str(root)})
    for entry, words in missing.items():
        if log and (what := count.too_long(words)):
            log(f"{what}: {words[:60]}…")
        embeds = text.encode(tokenizer, encoder, [words])[0].float().cpu()
        with store.put(KIND, entry, ".safetensors") as path:
            write_safetensors(path, {"embeds": embeds}, {"caption": words})
    del encoder
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return len(missing)


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
