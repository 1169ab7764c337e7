"""Identity of drawn characters: CCIP (Contrastive Anime Character Image Pre-Training) as ONNX from the hub.

Face networks for photographs fail on drawings; this one was trained on drawn characters. It defines the difference of
two pictures as (1 - cosine) / 2; its published limit between same and different characters is about 0.178.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from charloom.core.errors import UserError
from charloom.judge.memory import Look

if TYPE_CHECKING:
    from charloom.judge.backend import Picture

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class Ccip:
    """``vector``: a unit vector (768,) of the whole picture."""

    name = "ccip"
    version = 1
    stranger = 0.5
    cut: float | None = 1.0 - 0.178
    """In similarity, 1 - difference."""

    def __init__(self, files: dict[str, Path], weights: str, device: Any = "cpu") -> None:
        import onnxruntime

        self.weights = weights
        (path,) = files.values()
        wanted = ["CUDAExecutionProvider"] if str(device).startswith("cuda") else []
        there = onnxruntime.get_available_providers()
        providers = [*(one for one in wanted if one in there), "CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), providers=providers)
        (given,) = self._session.get_inputs()
        self._input = given.name
        if len(given.shape) != 4:
            raise UserError(
                f"{path}: is not a feature network of CCIP (its input has the shape {given.shape}); name another"
            )
        self._size = given.shape[2] if isinstance(given.shape[2], int) else 384

    def look(self, pictures: Sequence[Picture]) -> list[Look]:
        """Return one vector per picture."""
        looks = []
        for picture in pictures:  # one at a time: the export may have a fixed batch
            small = Image.fromarray(picture.pixels).resize((self._size, self._size), Image.Resampling.BILINEAR)
            values = (np.asarray(small, np.float32) / 255.0 - _MEAN) / _STD
            vector = self._session.run(None, {self._input: values.transpose(2, 0, 1)[None]})[0].reshape(-1)
            looks.append({"vector": (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)})
        return looks

    @staticmethod
    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """1 - difference, between (N, 768) and (M, 768): 0 to 1."""
        return 0.5 + 0.5 * np.clip(one @ other.T, -1.0, 1.0)
