"""Obedience by a vision-language model: the probability that it answers "yes" for each phrase of a prompt.

It can be any model that transformers knows as image-text-to-text, such as a Qwen3-VL. It is asked closed questions and
generates nothing: only the probabilities of "yes" and "no" as the next token are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from charloom.core import misfits
from charloom.core.errors import UserError
from charloom.judge.embeddings import LOCAL, PILLOW
from charloom.judge.memory import Look

if TYPE_CHECKING:
    from charloom.judge.backend import Picture

ITEMS = (
    "earrings", "a necklace", "glasses", "sunglasses", "a hat", "a scarf", "a watch", "a bracelet", "a nose ring",
    "a tattoo", "a bag", "headphones", "written text or a watermark", "a second person",
)  # fmt: skip
"""Things that training pictures often show and captions forget."""


def question(phrase: str) -> str:
    """The question about one phrase."""
    return f'Look at the picture. Does it show this: "{phrase}"? Answer with one word, yes or no.'


class VisionLanguage:
    """An instrument that needs questions: :meth:`answers` gives ``yes`` (P,), the probabilities for P phrases."""

    name = "vlm"
    version = 1
    BATCH = 8

    def __init__(self, files: dict[str, Path], weights: str, device: Any = "cpu") -> None:
        import torch

        misfits.hide()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.weights = weights
        self.device = torch.device(device)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        folder = files["config.json"].parent.absolute()
        self._model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, use_safetensors=True, **LOCAL)
        self._model = self._model.to(self.device).eval()
        try:
            self._processor = AutoProcessor.from_pretrained(folder, **LOCAL, **PILLOW)
        except Exception as error:
            if lacking := misfits.lacking("torchvision"):  # models for video report this in different ways
                raise UserError(f"{folder}: its processor needs torchvision{lacking}") from error
            raise
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"  # so that every row's answer follows its last position
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._yes = self._tokens("yes", "Yes", " yes", " Yes", "YES")
        self._no = self._tokens("no", "No", " no", " No", "NO")
        if not self._yes or not self._no or set(self._yes) & set(self._no):
            raise UserError(f"{folder}: its tokenizer has no words for yes and no; use another model")

    def _tokens(self, *words: str) -> list[int]:
        encoded = [self._processor.tokenizer.encode(word, add_special_tokens=False) for word in words]
        return sorted({ids[0] for ids in encoded if len(ids) == 1})

    def look(self, pictures: Sequence[Picture]) -> list[Look]:
        """Not used; see :meth:`answers`."""
        return [{} for _ in pictures]

    def answers(self, picture: Picture, phrases: Sequence[str]) -> Look:
        """The probability of "yes" against "no" for each phrase."""
        import torch
        from PIL import Image

        image, found = Image.fromarray(picture.pixels), []
        with torch.inference_mode():
            for start in range(0, len(phrases), self.BATCH):
                texts = [self._prompt(phrase) for phrase in phrases[start : start + self.BATCH]]
                given = self._processor(
                    text=texts, images=[[image] for _ in texts], padding=True, return_tensors="pt"
                ).to(self.device)
                given = {k: v.to(self._model.dtype) if v.is_floating_point() else v for k, v in given.items()}
                last = self._model(**given).logits[:, -1].float()
                yes = last[:, self._yes].logsumexp(dim=1)
                no = last[:, self._no].logsumexp(dim=1)
                found.append(torch.sigmoid(yes - no).cpu().numpy())
        return {"yes": np.concatenate(found) if found else np.zeros(0, np.float32)}

    def _prompt(self, phrase: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question(phrase)}]
        return self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
