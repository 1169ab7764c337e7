"""Reads text in pictures with RapidOCR, whose package (``rapidocr-onnxruntime``) includes its networks."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from typing import Any

import numpy as np

CONFIDENT = 0.6
"""Below this confidence a text is often just a pattern that looks like text."""
LONGEST = 1024
"""Pixels to which the longer edge is reduced before reading."""

_own = threading.local()


def installed() -> bool:
    """Whether OCR is installed."""
    return find_spec("rapidocr_onnxruntime") is not None


def texts(pixels: np.ndarray) -> list[dict[str, Any]]:
    """Read the texts in RGB pixels (H, W, 3; uint8), each with ``text``, ``confidence`` and ``box`` (left, top, right,
    bottom as shares of the edges)."""
    if not hasattr(_own, "reader"):
        from rapidocr_onnxruntime import RapidOCR

        _own.reader = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
    found, _ = _own.reader(np.ascontiguousarray(pixels[:, :, ::-1]))
    height, width = pixels.shape[:2]
    out = []
    for corners, text, confidence in found or ():
        if float(confidence) >= CONFIDENT:
            xs, ys = [point[0] for point in corners], [point[1] for point in corners]
            box = [min(xs) / width, min(ys) / height, max(xs) / width, max(ys) / height]
            out.append(
                {"text": str(text), "confidence": round(float(confidence), 3), "box": [round(v, 4) for v in box]}
            )
    return out
