"""A small network that reads every attribute of a doll, and who it is, from one picture.

The identity embedding is built from the identity attributes that can be read: for each of them the
class probabilities minus the uniform distribution, weighted and laid side by side. Two pictures of
one person point the same way, two strangers are orthogonal on average, and what cannot be seen (eyes
from behind) adds nothing. It is a measuring device: it knows nothing of LoRAs or of prompts.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from charloom.paperdoll.attributes import IDENTITY_VALUES, TABLES

SIZE = 256


class _Block(nn.Module):
    """A residual block of two 3x3 convolutions with batch norm."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class Probe(nn.Module):
    """Maps pictures (B, 3, 256, 256) in [-1, 1] to logits per attribute.

    A residual network down to 16 x 16 cells; each attribute attends to its own part of the picture.
    """

    WIDTHS = (24, 48, 96, 160)
    DEPTHS = (0, 1, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, depth in zip(self.WIDTHS, self.DEPTHS, strict=True):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [_Block(width) for _ in range(depth)]
            before = width
        self.trunk = nn.Sequential(*layers)
        longest = max(len(values) for values in TABLES.values())
        self.queries = nn.Parameter(torch.randn(len(TABLES), before) * 0.05)
        self.key = nn.Conv2d(before, before, 1)
        self.position = nn.Parameter(torch.zeros(1, before, 16, 16))
        self.weight = nn.Parameter(torch.randn(len(TABLES), longest, before) * 0.05)
        self.bias = nn.Parameter(torch.zeros(len(TABLES), longest))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, attributes, longest table); rows of shorter tables end in meaningless entries."""
        features = self.trunk(pixels)
        keys = (self.key(features) + self.position).flatten(2)
        weights = torch.softmax(torch.einsum("qc,bcn->bqn", self.queries, keys), dim=-1)
        pooled = torch.einsum("bqn,bcn->bqc", weights, features.flatten(2))
        return torch.einsum("bqc,qkc->bqk", pooled, self.weight) + self.bias

    @torch.no_grad()
    def read(self, images: np.ndarray, batch_size: int = 32) -> dict:
        """Read uint8 pictures (B, H, W, 3) of any size.

        Returns ``{"attributes": {name: probabilities (B, K)}, "identity": unit vectors (B, E)}``, numpy fp32.
        """
        device = self.queries.device
        rows: dict[str, list[Tensor]] = {key: [] for key in TABLES}
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
            pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
            if pixels.shape[-2:] != (SIZE, SIZE):
                pixels = F.interpolate(pixels, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
            logits = self(pixels).float().cpu()
            for i, (key, values) in enumerate(TABLES.items()):
                rows[key].append(torch.softmax(logits[:, i, : len(values)], dim=-1))
        probabilities = {key: torch.cat(parts) for key, parts in rows.items()}
        return {
            "attributes": {key: value.numpy() for key, value in probabilities.items()},
            "identity": identity_vectors(probabilities).numpy(),
        }

    def save(self, path: Path) -> None:
        """Save fp16 weights in one safetensors file, with the attribute tables in its header."""
        state = {key: value for key, value in self.state_dict().items() if value.is_floating_point()}
        tensors = {key: value.to(torch.float16).contiguous() for key, value in state.items()}
        save_file(tensors, path, metadata={"tables": json.dumps({k: list(v) for k, v in TABLES.items()})})

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Load the weights in fp32, for inference."""
        probe = cls()
        missing, unknown = probe.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
        if unknown or any(not key.endswith("num_batches_tracked") for key in missing):
            raise ValueError(f"{path} is not a probe of this version")
        return probe.eval().requires_grad_(False)


def identity_vectors(probabilities: dict[str, Tensor]) -> Tensor:
    """Unit vectors (B, E) from identity attribute probabilities {name: (B, K)}.

    Each attribute contributes ``(p - 1/K) * sqrt(K / (K - 1))``, of length 1 when certain and 0 when unreadable.
    """
    parts = []
    for key in IDENTITY_VALUES:
        count = probabilities[key].shape[-1]
        parts.append((probabilities[key] - 1.0 / count) * (count / (count - 1.0)) ** 0.5)
    return F.normalize(torch.cat(parts, dim=-1), dim=-1)
