"""One forward pass of training: from a batch of samples to its share of the loss.

Split in two, so that an engine can record the second half: :func:`inputs_of` puts everything that changes from
step to step into tensors, :func:`loss_of` only computes. It knows nothing of optimisers or of how the model runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from charloom.engine.inputs import Inputs, Predict, Term
from charloom.lora.attach import Adapter
from charloom.train import losses
from charloom.train.data import Batch, TrainingData
from charloom.train.settings import Optimisation, Preservation
from charloom.zimage import flow, forward


def inputs_of(batch: Batch, data: TrainingData, device: torch.device) -> Inputs:
    """The batch's tensors on ``device``, captions padded."""
    terms = []
    for term, captions in _preservations(batch, data):
        for group in _by_padded_length(list(captions), captions):
            caps, pad = padded([captions[row] for row in group], device)
            terms.append(Term(sent(torch.tensor(group), device), caps, pad, term.multiplier))
    x0, noise, sigma, weight = (sent(t, device) for t in (batch.latents, batch.noise, batch.sigma, batch.weight))
    return Inputs(x0, noise, sigma, weight, *padded(batch.captions, device), tuple(terms))


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
