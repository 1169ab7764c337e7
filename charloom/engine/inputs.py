"""What one training step computes on: a batch as plain tensors, so that the engine can record the step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from charloom.zimage import forward
from charloom.zimage.vae import FACTOR

ALMOST = 1.05
"""A shape takes over the measurements of one with up to this many times its tokens."""
TYPICAL_PATCHES, TYPICAL_CAPTION = 32, 96
"""Side of the image in patches (512 pixels) and caption tokens of the batch that blocks are first compiled for."""


@dataclass(frozen=True)
class Term:
    """A preservation term on rows (R,) of the batch, with other captions (R, L, D) and their padding (R, L, 1)."""

    rows: Tensor
    caps: Tensor
    pad: Tensor
    multiplier: float


@dataclass(frozen=True)
class Inputs:
    """A batch on the device: latents and noise (B, C, h, w), sigma and weight (B,), captions (B, L, D), padding."""

    x0: Tensor
    noise: Tensor
    sigma: Tensor
    weight: Tensor
    caps: Tensor
    pad: Tensor
    terms: tuple[Term, ...] = ()
    mask: Tensor | None = None
    """Loss weights by position (B, 1, h, w); None if all are equal."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in a fixed order."""
        own = (self.x0, self.noise, self.sigma, self.weight, self.caps, self.pad)
        terms = tuple(tensor for term in self.terms for tensor in (term.rows, term.caps, term.pad))
        # Last, so that code that counts positions need not know of it.
        return own + terms + (() if self.mask is None else (self.mask,))

    @property
    def size(self) -> str:
        """Width and height of the pictures in pixels, for the user."""
        return "x".join(str(side * FACTOR) for side in reversed(self.x0.shape[-2:]))

    def filled(self, tensors: tuple[Tensor, ...]) -> Inputs:
        """The same batch with other tensors, in the order of :attr:`tensors`."""
        mask = None if self.mask is None else tensors[-1]
        last = len(tensors) - (mask is not None)
        rest = [tensors[i : i + 3] for i in range(6, last, 3)]
        terms = (Term(*three, term.multiplier) for three, term in zip(rest, self.terms, strict=True))
        return Inputs(*tensors[:6], terms=tuple(terms), mask=mask)


def typical(inputs: Inputs, lengths: Sequence[int]) -> Inputs:
    """A batch of zeros whose size is independent of that of ``inputs``.

    It has as many terms, and like ``inputs`` one sample or more than one. ``lengths`` are the model's position limits
    per axis (``axes_lens``).
    """
    rows, columns = (min(TYPICAL_PATCHES, length) * forward.PATCH for length in lengths[1:])
    caption = min(TYPICAL_CAPTION, (lengths[0] - 2) // forward.TOKEN_MULTIPLE * forward.TOKEN_MULTIPLE)

    def few(tensor: Tensor, *shape: int) -> Tensor:
        return tensor.new_zeros(min(len(tensor), 2), *shape)

    return Inputs(
        *(few(x, x.shape[1], rows, columns) for x in (inputs.x0, inputs.noise)),
        *(few(x) for x in (inputs.sigma, inputs.weight)),
        few(inputs.caps, caption, inputs.caps.shape[2]),
        few(inputs.pad, caption, 1),
        tuple(
            Term(
                few(term.rows),
                few(term.caps, caption, term.caps.shape[2]),
                few(term.pad, caption, 1),
                term.multiplier,
            )
            for term in inputs.terms
        ),
        None if inputs.mask is None else few(inputs.mask, 1, rows, columns).fill_(1.0),
    )


def hardly_larger(key: Any, others: Iterable[Any]) -> Any:
    """The first of ``others`` with as many samples as ``key`` and as many tokens or slightly more; None without one."""
    rows, tokens = [shape[0] for shape in key], tokens_of(key)
    alike = (other for other in others if [shape[0] for shape in other] == rows)
    return next((other for other in alike if tokens <= tokens_of(other) <= ALMOST * tokens), None)


def tokens_of(key: Any) -> int:
    """Tokens of all passes of a shape, by which shapes are compared; ``key`` is in the order of ``Inputs.tensors``."""
    batch, _, height, width = key[0]
    image = height * width // forward.PATCH**2
    # A mask, if there is one, is the last and belongs to no term.
    terms = sum(shape[0] * (image + caps[1]) for shape, caps in zip(key[6::3], key[7::3], strict=False))
    return batch * (image + key[4][1]) + terms
