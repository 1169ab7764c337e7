"""Captions to text embeddings, row for row equal to ``ZImagePipeline.encode_prompt``.

The prompt goes through the tokenizer's chat template as one user message with thinking enabled
(which adds no think block) and is truncated to 512 tokens; the output of the second-to-last layer is
kept for the real tokens only. Attention is causal and padding is on the right, so encoding without
padding gives the same rows; captions are therefore encoded one by one at their exact length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from charloom.core.tokens import MAX_TOKENS


def template(tokenizer, prompt: str) -> str:
    """The prompt in chat format, as the text encoder reads it."""
    message = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=True)


def token_ids(tokenizer, prompt: str) -> list[int]:
    """Token ids of a prompt in its template, at most 512."""
    return tokenizer(template(tokenizer, prompt), truncation=True, max_length=MAX_TOKENS)["input_ids"]


@torch.no_grad()
def encode(tokenizer, text_encoder, prompts: Sequence[str]) -> list[Tensor]:
    """Embeddings of each prompt, fp32 on the CPU, each (L_i, hidden size)."""
    out = []
    for prompt in prompts:
        ids = torch.tensor([token_ids(tokenizer, prompt)], device=text_encoder.device)
        states = text_encoder(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        out.append(states[-2][0].float().cpu())
    return out
