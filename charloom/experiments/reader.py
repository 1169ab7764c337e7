"""An instrument independent of charloom's own judge: a second network that reads the attributes of a doll.

The probe (:mod:`charloom.paperdoll.probe`) scores checkpoints and so decides which one ships. Something else has to
tell whether that choice was right. The reader shares only its vocabulary with the probe: it has another architecture
(position kept by flattening instead of attention), and other dolls, random numbers and blemishes in its training
pictures. ``tools/paperdoll/train_reader.py`` trains it; the labels come from the renderer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from charloom.core.errors import UserError
from charloom.paperdoll.attributes import TABLES

SIZE = 256


class _Residual(nn.Module):
    """A residual block: group norm, SiLU and convolution, twice, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.silu(self.norms[0](x)))
        return x + self.second(F.silu(self.norms[1](y)))


class Reader(nn.Module):
    """Maps pictures (B, 3, 256, 256) in [-1, 1] to logits (B, K) per attribute, in the order of ``TABLES``."""

    WIDTHS = (24, 48, 80, 112, 128)
    DEPTHS = (0, 1, 1, 2, 1)
    CELLS = 8
    SQUEEZED = 32

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, depth in zip(self.WIDTHS, self.DEPTHS, strict=True):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            layers += [_Residual(width) for _ in range(depth)]
            before = width
        self.trunk = nn.Sequential(*layers)
        self.squeeze = nn.Conv2d(before, self.SQUEEZED, 1)
        self.hidden = nn.Linear(self.SQUEEZED * self.CELLS**2, 192)
        self.heads = nn.Linear(192, sum(map(len, TABLES.values())))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        cells = F.silu(self.squeeze(self.trunk(pixels)))
        logits = self.heads(F.silu(self.hidden(cells.flatten(1))))
        return list(logits.split([len(values) for values in TABLES.values()], dim=1))

    @torch.no_grad()
    def read(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Read the most likely value of every attribute in uint8 pictures (B, H, W, 3): int64 (B, attributes)."""
        device = self.heads.weight.device
        rows = []
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
            pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
            if pixels.shape[-2:] != (SIZE, SIZE):
                pixels = F.interpolate(pixels, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
            rows.append(torch.stack([part.argmax(dim=1) for part in self(pixels)], dim=1).cpu())
        return torch.cat(rows).numpy()

    def save(self, path: Path) -> None:
        """Save fp16 weights in one safetensors file, with the attribute tables in its header."""
        tensors = {key: value.detach().cpu().to(torch.float16).contiguous() for key, value in self.state_dict().items()}
        save_file(tensors, path, metadata={"tables": json.dumps({k: list(v) for k, v in TABLES.items()})})

    @classmethod
    def load(cls, path: Path) -> Reader:
        """Load the weights in fp32, for inference.

        Raises:
            UserError: there is no such file, or it has another version.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}: there is no reader; train one with python tools/paperdoll/train_reader.py")
        reader = cls()
        try:
            reader.load_state_dict({key: value.float() for key, value in load_file(path).items()})
        except RuntimeError:
            raise UserError(f"{path}: is a reader of another version; train it again") from None
        return reader.eval().requires_grad_(False)
