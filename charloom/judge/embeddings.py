"""Embeddings of whole pictures: SigLIP 2 and DINOv2 from the hub, EfficientNet-Lite0 from a package.

All give ``vector``, of unit length, so that the dot product is the cosine. SigLIP embeds texts into the same space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from charloom.core import misfits
from charloom.judge.memory import Look

if TYPE_CHECKING:
    from charloom.judge.backend import Picture


class _Embedding:
    """What the embeddings share: :meth:`look`, and how vectors are compared."""

    name = ""
    version = 1
    stranger = 0.0
    """Similarity of two strangers, where no pictures of others were measured."""
    cut: float | None = None

    def __init__(self, files: dict[str, Path], weights: str, device: Any = "cpu") -> None:
        import torch

        self.weights = weights
        self.device = torch.device(device)
        # Half the memory and twice the speed on a GPU; a CPU computes in fp32.
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self._load(files)

    def look(self, pictures: Sequence[Picture]) -> list[Look]:
        """Return one unit vector (D,) per picture, fp32."""
        import torch

        with torch.inference_mode():
            vectors = self._embed([picture.pixels for picture in pictures])
        return [{"vector": vector} for vector in _units(vectors)]

    @staticmethod
    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Cosine, between (N, D) and (M, D)."""
        return one @ other.T

    def _load(self, files: dict[str, Path]) -> None:
        raise NotImplementedError

    def _embed(self, pixels: list[np.ndarray]) -> Any:
        raise NotImplementedError


def _units(vectors: Any) -> np.ndarray:
    """Normalise a tensor (B, D) to unit vectors in fp32."""
    out = vectors.float().cpu().numpy()
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


LOCAL = {"local_files_only": True, "trust_remote_code": False}
"""How the files of a model are loaded: only the locked ones, and no code from its repository."""
PILLOW = {"backend": "pil"}
"""Asks transformers for processors that need only Pillow, not torchvision."""


class _Transformer(_Embedding):
    """A model that transformers loads from a folder."""

    def _load(self, files: dict[str, Path]) -> None:
        misfits.hide()
        from transformers import AutoImageProcessor, AutoModel

        # All files of a snapshot are in one folder, with "config.json" at its top.
        self.folder = files["config.json"].parent.absolute()
        self._model = AutoModel.from_pretrained(self.folder, dtype=self.dtype, use_safetensors=True, **LOCAL)
        self._model = self._model.to(self.device).eval()
        self._processor = AutoImageProcessor.from_pretrained(self.folder, **LOCAL, **PILLOW)

    def _inputs(self, pixels: list[np.ndarray]) -> dict[str, Any]:
        made = self._processor(images=pixels, return_tensors="pt")
        return {
            key: value.to(self.device, self.dtype) if value.is_floating_point() else value.to(self.device)
            for key, value in made.items()
        }


class Dinov2(_Transformer):
    """DINOv2: the class token of the last layer."""

    name = "dinov2"

    def _embed(self, pixels: list[np.ndarray]) -> Any:
        return self._model(**self._inputs(pixels)).pooler_output


class Siglip(_Transformer):
    """SigLIP or SigLIP 2, of fixed or native resolution."""

    name = "siglip"

    def _load(self, files: dict[str, Path]) -> None:
        super()._load(files)
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(self.folder, **LOCAL)
        self._length = int(getattr(self._model.config.text_config, "max_position_embeddings", 64))

    def _embed(self, pixels: list[np.ndarray]) -> Any:
        return _pooled(self._model.get_image_features(**self._inputs(pixels)))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, D) of texts, which are padded to the full length, as in SigLIP's training."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), 64):
                batch = [text.lower() for text in texts[start : start + 64]]
                given = self._tokenizer(
                    batch, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
                )
                ids = given["input_ids"].to(self.device)
                found.append(_units(_pooled(self._model.get_text_features(input_ids=ids))))
        return np.concatenate(found)


def _pooled(output: Any) -> Any:
    """The pooled features; newer releases of transformers wrap them."""
    return getattr(output, "pooler_output", output)


class EfficientNet(_Embedding):
    """EfficientNet-Lite0 trained on ImageNet, from a package: the mean of the last features (1280,)."""

    name = "efficientnet"
    stranger = 0.468
    """Different people in portraits; the same person in another photo has 0.635."""

    def _load(self, files: dict[str, Path]) -> None:
        import torch
        from efficientnet_lite_pytorch import EfficientNet as Network

        self.dtype = torch.float32
        self._model = Network.from_name("efficientnet-lite0")
        (path,) = files.values()
        # The package ships a pickle; weights_only unpickles nothing but tensors.
        self._model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._model = self._model.to(self.device).eval()

    def _embed(self, pixels: list[np.ndarray]) -> Any:
        import torch
        from PIL import Image

        small = [np.asarray(Image.fromarray(p).resize((224, 224), Image.Resampling.BICUBIC)) for p in pixels]
        batch = torch.from_numpy(np.stack(small)).to(self.device).permute(0, 3, 1, 2).float()
        return self._model.extract_features((batch - 127.0) / 128.0).mean(dim=(2, 3))
