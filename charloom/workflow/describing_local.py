"""A captioner on this machine: any model that transformers knows as image-text-to-text, or as image-to-text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from charloom.core import misfits, pictures
from charloom.core.errors import UserError, reason
from charloom.judge.embeddings import LOCAL, PILLOW

EDGE = 1024
"""Pixels to which the longer edge of a picture is reduced; more would only take memory."""


class Local:
    """A model in a folder, asked greedily, so that the same picture gets the same text."""

    def __init__(self, folder: Path, device: Any, longest: int) -> None:
        import torch

        self.folder, self.longest = folder.absolute(), longest
        self.device = torch.device(device)
        misfits.hide()
        # Half the memory on a GPU; a CPU computes in fp32.
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self._model = self._loaded(dtype).to(self.device).eval()
        self._processor = self._processing()
        self._template = bool(getattr(self._processor, "chat_template", None))

    def __call__(self, images: Iterable[Path], prompt: str) -> Iterator[tuple[Path, str | UserError]]:
        """One picture at a time, so that a text does not depend on the others."""
        import torch

        for path in images:
            try:
                image = pictures.read(path, pictures.MADE_HERE).image
            except UserError as error:
                yield path, error
                continue
            image.thumbnail((EDGE, EDGE), reducing_gap=2.0)
            try:
                yield path, self._text(image, prompt)
            except torch.OutOfMemoryError:
                raise UserError(
                    f"{self.folder.name}: does not fit into the memory of {self.device}; use a smaller model, or "
                    "run the job with --config device=cpu"
                ) from None

    def _text(self, image: Any, prompt: str) -> str:
        import torch

        if self._template:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            messages = [{"role": "user", "content": content}]
            text = self._processor.apply_chat_template(messages, add_generation_prompt=True)
            given = self._processor(text=[text], images=[[image]], return_tensors="pt")
        else:  # models that only caption, and take no request
            given = self._processor(images=image, return_tensors="pt")
        inputs = {
            name: value.to(self.device, self._model.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in given.items()
        }
        with torch.inference_mode():
            made = self._model.generate(**inputs, max_new_tokens=self.longest, do_sample=False, num_beams=1)
        asked = inputs["input_ids"].shape[1] if "input_ids" in inputs and self._answers_go_on() else 0
        return str(self._processor.batch_decode(made[:, asked:], skip_special_tokens=True)[0]).strip()

    def _answers_go_on(self) -> bool:
        """Whether the output begins with the prompt, as with decoder-only models."""
        return not bool(getattr(self._model.config, "is_encoder_decoder", False))

    def _loaded(self, dtype: Any) -> Any:
        from transformers import AutoModelForImageTextToText

        try:
            return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=dtype, use_safetensors=True, **LOCAL)
        except Exception as error:  # transformers raises whatever the files lead it into
            raise UserError(
                f"captions.captioner: {self.folder.name} cannot be loaded as a model that describes pictures "
                f"({reason(error)}); use another one"
            ) from error

    def _processing(self) -> Any:
        from transformers import AutoProcessor

        try:
            return AutoProcessor.from_pretrained(self.folder, **LOCAL, **PILLOW)
        except Exception as error:
            if lacking := misfits.lacking("torchvision"):  # models that also take videos say so in many ways
                raise UserError(
                    f"captions.captioner: the processor of {self.folder.name} needs torchvision{lacking}"
                ) from error
            raise UserError(
                f"captions.captioner: the processor of {self.folder.name} cannot be loaded ({reason(error)}); "
                "use another model"
            ) from error
