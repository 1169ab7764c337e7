"""One forward pass of training: from a batch of samples to its share of the loss.

Split in two, so that an engine can record the second half: :func:`inputs_of` puts everything that changes between steps
into tensors, :func:`loss_of` only computes. Independent of optimizers and of how the model is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from charloom.engine.inputs import Inputs, Term
from charloom.lora.attach import Adapter
from charloom.train import losses
from charloom.train.data import Batch, TrainingData
from charloom.train.settings import Optimisation, Preservation
from charloom.zimage import flow, forward
from charloom.zimage.forward import Predict


def inputs_of(batch: Batch, data: TrainingData, device: torch.device) -> Inputs:
    """The batch's tensors on ``device``, captions padded."""
    terms = []
    for term, captions in _preservations(batch, data):
        for group in _by_padded_length(list(captions), captions):
            caps, pad = padded([captions[row] for row in group], device)
            terms.append(Term(to_device(torch.tensor(group), device), caps, pad, term.multiplier))
    whole = (batch.latents, batch.noise, batch.sigma, batch.weight)
    x0, noise, sigma, weight = (to_device(tensor, device) for tensor in whole)
    mask = None if batch.mask is None else to_device(batch.mask, device)
    return Inputs(x0, noise, sigma, weight, *padded(batch.captions, device), tuple(terms), mask)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; to a GPU an asynchronous copy from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def padded(captions: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Captions of one padded length as (B, L, D), and their padding rows (B, L, 1) bool."""
    caps, pad = forward.pad_captions(captions)
    return to_device(caps, device), to_device(pad, device)


def loss_of(predict: Predict, adapter: Adapter, inputs: Inputs, settings: Optimisation) -> tuple[Tensor, Tensor]:
    """The batch's share of the step's loss, to be differentiated, and the plain loss per sample (B,).

    The prediction is compared with the true velocity in fp32; each sample counts by its weight divided by the number of
    samples per step.
    """
    noisy = flow.noisy(inputs.x0, inputs.noise, inputs.sigma)
    prediction = flow.velocity(predict, noisy, inputs.sigma, inputs.caps, inputs.pad)
    per_item = losses.per_item(prediction, flow.target(inputs.x0, inputs.noise), settings.loss, inputs.mask)
    total = per_item * inputs.weight
    for term in inputs.terms:
        arguments = noisy[term.rows], inputs.sigma[term.rows], term.caps, term.pad
        with torch.no_grad(), adapter.disabled():
            bare = flow.velocity(predict, *arguments)
        distance = losses.preservation(flow.velocity(predict, *arguments), bare) * term.multiplier
        total = total.index_add(0, term.rows, distance)
    return total.sum() / settings.draws_per_step, per_item.detach()


def _preservations(batch: Batch, data: TrainingData) -> Iterator[tuple[Preservation, dict[int, Tensor]]]:
    """(settings, captions by row) of the enabled preservation term; regularization images have none."""
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
