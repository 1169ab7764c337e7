"""One forward pass of training: from a batch of samples to its share of the loss.

Split in two, so that an engine can record the second half: :func:`inputs_of` puts everything that changes from
step to step into tensors, :func:`loss_of` only computes. It knows nothing of optimisers or of how the model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from charloom.lora.attach import Adapter
from charloom.train import losses
from charloom.train.data import Batch, TrainingData
from charloom.train.settings import Optimisation, Preservation
from charloom.zimage import flow, forward

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``predict(x, t, caps, pad)``: raw output of the adapted model, as :func:`charloom.zimage.forward.forward_masked`."""


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

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in a fixed order."""
        own = (self.x0, self.noise, self.sigma, self.weight, self.caps, self.pad)
        return own + tuple(tensor for term in self.terms for tensor in (term.rows, term.caps, term.pad))

    def filled(self, tensors: tuple[Tensor, ...]) -> Inputs:
        """The same batch with other tensors, in the order of :attr:`tensors`."""
        further = [tensors[i : i + 3] for i in range(6, len(tensors), 3)]
        terms = (Term(*three, term.multiplier) for three, term in zip(further, self.terms, strict=True))
        return Inputs(*tensors[:6], terms=tuple(terms))


def inputs_of(batch: Batch, data: TrainingData, device: torch.device) -> Inputs:
    """The batch's tensors on ``device``, captions padded."""
    terms = []
    for term, captions in _preservations(batch, data):
        for group in _by_padded_length(list(captions), captions):
            caps, pad = padded([captions[row] for row in group], device)
            terms.append(Term(sent(torch.tensor(group), device), caps, pad, term.multiplier))
    whole = (batch.latents, batch.noise, batch.sigma, batch.weight)
    return Inputs(*(sent(tensor, device) for tensor in whole), *padded(batch.captions, device), tuple(terms))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, without waiting for what a GPU still computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def padded(captions: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Captions of one padded length as (B, L, D), and their padding rows (B, L, 1) bool."""
    caps, lengths = forward.pad_captions(captions)
    pad = forward.caption_mask(lengths, caps.shape[1], caps.device)
    return sent(caps, device), sent(pad, device)


def loss_of(predict: Predict, adapter: Adapter, inputs: Inputs, settings: Optimisation) -> tuple[Tensor, Tensor]:
    """The batch's share of the step's loss, to call ``backward`` on, and the plain loss of each sample (B,).

    Prediction v = -output against noise - x0, fp32; each sample counts by its weight over the samples of a step.
    """
    noisy, t = flow.noisy(inputs.x0, inputs.noise, inputs.sigma), 1.0 - inputs.sigma
    prediction = -predict(noisy, t, inputs.caps, inputs.pad)
    per_item = losses.per_item(prediction, flow.target(inputs.x0, inputs.noise), settings.loss)
    total = per_item * inputs.weight
    for term in inputs.terms:
        arguments = noisy[term.rows], t[term.rows], term.caps, term.pad
        with torch.no_grad(), adapter.disabled():
            bare = predict(*arguments)
        distance = losses.preservation(predict(*arguments), bare) * term.multiplier
        total = total.index_add(0, term.rows, distance)
    return total.sum() / settings.draws_per_step, per_item.detach()


def _preservations(batch: Batch, data: TrainingData) -> Iterator[tuple[Preservation, dict[int, Tensor]]]:
    """(settings, captions by row) of the preservation term that is on; regularisation images need none."""
    settings = data.settings.train
    rows = {row: draw for row, draw in enumerate(batch.draws) if not draw.is_reg}
    if settings.differential.enabled:
        yield settings.differential, {row: data.class_caption(draw.item) for row, draw in rows.items()}
    if settings.blank.enabled:
        yield settings.blank, dict.fromkeys(rows, data.variant("empty"))


def _by_padded_length(rows: list[int], captions: Mapping[int, Tensor]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(forward.padded_length(len(captions[row])), []).append(row)
    return list(groups.values())
