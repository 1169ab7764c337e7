"""What one training step computes on: a batch as plain tensors, so that the engine can record the step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
    """Weights of the places in the loss (B, 1, h, w); None where all count alike."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in a fixed order."""
        own = (self.x0, self.noise, self.sigma, self.weight, self.caps, self.pad)
        terms = tuple(tensor for term in self.terms for tensor in (term.rows, term.caps, term.pad))
        # Last, so that whoever counts by position need not know of it.
        return own + terms + (() if self.mask is None else (self.mask,))

    def filled(self, tensors: tuple[Tensor, ...]) -> Inputs:
        """The same batch with other tensors, in the order of :attr:`tensors`."""
        mask = None if self.mask is None else tensors[-1]
        last = len(tensors) - (mask is not None)
        rest = [tensors[i : i + 3] for i in range(6, last, 3)]
        terms = (Term(*three, term.multiplier) for three, term in zip(rest, self.terms, strict=True))
        return Inputs(*tensors[:6], terms=tuple(terms), mask=mask)
