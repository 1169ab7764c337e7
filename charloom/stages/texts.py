"""Texts to embeddings: captions, their variants and sample prompts alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from charloom import bases
from charloom.canonical import digest
from charloom.store import Store

KIND = "embedding"


def key(text: str, lock: dict[str, Any], settings: dict[str, Any]) -> str:
    """Store key of the embedding of ``text``."""
    parts = {name: lock["components"][name] for name in ("text_encoder", "tokenizer")}
    return digest({"text": text, **parts, **settings})


def make(texts: Iterable[str], lock: dict[str, Any], settings: dict[str, Any], store: Store, device: Any) -> int:
    """Encode those of ``texts`` that are not stored: tensor ``embeds`` (L, D) fp32 each; returns how many.

    One text at a time, so that an embedding does not depend on its neighbours.
    """
    from charloom.lora.files import write_safetensors
    from charloom.zimage import base, text

    missing = {
        entry: words for words in texts if not store.has(KIND, entry := key(words, lock, settings), ".safetensors")
    }
    if not missing:
        return 0
    bases.locate(lock, "tokenizer", store)
    root = bases.locate(lock, "text_encoder", store)
    tokenizer, encoder = base.load_text_encoder(root, dtype=_dtype(device), device=device)
    for entry, words in missing.items():
        embeds = text.encode(tokenizer, encoder, [words])[0].float().cpu()
        with store.put(KIND, entry, ".safetensors") as path:
            write_safetensors(path, {"embeds": embeds}, {"caption": words})
    return len(missing)


def _dtype(device: Any) -> Any:
    import torch

    return torch.bfloat16 if device.type == "cuda" else torch.float32
