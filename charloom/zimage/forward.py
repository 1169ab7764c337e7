"""One batched forward pass over a stock ``ZImageTransformer2DModel``.

diffusers feeds its model lists of single items and rebuilds position grids, masks and complex
rotations on every call. Training and sampling here always work on batches of equal shape, so
this module runs the *same modules* on plain tensors: static shapes, rotation in real
arithmetic, nothing that a compiler or a CUDA graph would trip over. The result equals the
stock forward up to floating-point rounding (``tests/test_zimage_parity.py``).

It knows nothing of training, sampling or files.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ZImageTransformer2DModel
from torch import Tensor

TOKEN_MULTIPLE = 32
"""Captions and images are padded to a multiple of this many tokens (SEQ_MULTI_OF in diffusers)."""

PATCH = 2


def padded_length(length: int) -> int:
    """Number of tokens that a sequence of ``length`` tokens occupies in the model."""
    return -(-length // TOKEN_MULTIPLE) * TOKEN_MULTIPLE


class RealRopeAttention:
    """Attention processor equal to diffusers' ``ZSingleStreamAttnProcessor``, without complex numbers.

    ``freqs_cis`` is the pair stacked by :func:`rotation_table`: (2, B or 1, L, 1, head_dim).
    """

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, freqs_cis=None) -> Tensor:
        # An engine may have made one product of the three.
        projected = getattr(attn, "fused", None) or (lambda x: (attn.to_q(x), attn.to_k(x), attn.to_v(x)))
        query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in projected(hidden_states))
        turned = getattr(attn, "turned", None)  # likewise of norm and rotation
        if turned is not None:
            query, key = turned(query, key, freqs_cis)
        else:
            query, key = attn.norm_q(query), attn.norm_k(key)
            query, key = rotate(query, *freqs_cis), rotate(key, *freqs_cis)
        attend = getattr(attn, "attend", None) or attention  # and of attention
        return attn.to_out[0](attend(query, key, value).flatten(2))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (B, L, heads, head_dim) each, without a mask, by whichever kernel PyTorch takes."""
    out = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs of ``x`` (B, L, heads, head_dim) by angles given as cos/sin (…, L, 1, head_dim).

    Both stand there twice for each pair, the first sine with a minus: every element is then computed alike from
    itself and its neighbour, which a GPU reads and writes in one piece.
    """
    wide = x.float()
    return (wide * cos + neighbours(wide) * sin).type_as(x)


def neighbours(x: Tensor) -> Tensor:
    """``x`` with the two of every pair in its last dimension the other way round."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def prepare(model: ZImageTransformer2DModel) -> ZImageTransformer2DModel:
    """Install the real-arithmetic attention in every block. The stock ``model.forward`` no longer works after it."""
    for block in (*model.noise_refiner, *model.context_refiner, *model.layers):
        block.attention.processor = RealRopeAttention()
    return model


@functools.cache  # recordings hold on to the tables
def rotation_table(
    axes_dims: tuple[int, ...],
    axes_lens: tuple[int, ...],
    theta: float,
    caption: int,
    rows: int,
    columns: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Rotations of the image tokens and of the caption tokens for :func:`rotate`, fp32, each (2, 1, L, 1, head_dim).

    Position ids (diffusers ``_pad_with_ids``): caption token i is (1 + i, 0, 0) also where it is
    padding; image tokens are (caption + 1, y, x); image padding is (0, 0, 0).
    """
    ids = torch.zeros(padded_length(rows * columns), 3, dtype=torch.long)
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).flatten(0, 1)
    ids[: rows * columns, 0] = caption + 1
    ids[: rows * columns, 1:] = grid
    caption_ids = torch.zeros(caption, 3, dtype=torch.long)
    caption_ids[:, 0] = torch.arange(caption) + 1

    def table(positions: Tensor) -> Tensor:
        angles = []
        for axis, (dim, end) in enumerate(zip(axes_dims, axes_lens, strict=True)):
            if positions[:, axis].max() >= end:
                raise ValueError(f"position {int(positions[:, axis].max())} exceeds axes_lens[{axis}] = {end}")
            freqs = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            angles.append(torch.outer(positions[:, axis].double(), freqs).float())
        joined = torch.cat(angles, dim=-1)
        cos, sin = joined.cos(), joined.sin()
        pairs = torch.stack((torch.stack((cos, cos), -1), torch.stack((-sin, sin), -1)))
        # A copy in any case: a compiler treats views of something else as another kind of input.
        return pairs.flatten(-2)[:, None, :, None].to(device, copy=True)

    return table(ids), table(caption_ids)


def patchify(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H/2 * W/2, 4 C); inside a token: row, column, channel."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(b, (h // PATCH) * (w // PATCH), PATCH * PATCH * c)


def unpatchify(tokens: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Inverse of :func:`patchify`."""
    b = tokens.shape[0]
    x = tokens.view(b, height // PATCH, width // PATCH, PATCH, PATCH, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, channels, height, width)


def pad_captions(caps: Sequence[Tensor], device: torch.device | None = None) -> tuple[Tensor, list[int]]:
    """Stack caption embeddings [(L_i, D)] into (B, ceil32(max L), D), zero-filled, with their true lengths."""
    lengths = [len(cap) for cap in caps]
    out = torch.zeros(len(caps), padded_length(max(lengths)), caps[0].shape[-1], dtype=caps[0].dtype)
    for row, cap in zip(out, caps, strict=True):
        row[: len(cap)] = cap
    return out.to(device) if device is not None else out, lengths


def caption_mask(cap_lens: Sequence[int], length: int, device: torch.device) -> Tensor:
    """(B, length, 1) bool, true on padding rows."""
    lens = torch.as_tensor(cap_lens, device=device)
    return (torch.arange(length, device=device) >= lens[:, None])[..., None]


def forward(model: ZImageTransformer2DModel, x: Tensor, t: Tensor, caps: Tensor, cap_lens: Sequence[int]) -> Tensor:
    """Raw model output for a batch whose captions share one padded length.

    Args:
        model: a stock transformer passed through :func:`prepare`.
        x: noisy latents (B, C, H, W), H and W even.
        t: (B,) fp32, 1 - sigma: 0 is pure noise, 1 is clean.
        caps: caption embeddings (B, L, D), zero-padded; L may be any length up to the padded one.
        cap_lens: true caption lengths; all must have the same :func:`padded_length`.

    Returns:
        (B, C, H, W), about x0 - noise; the flow-matching prediction is its negative.

    Raises:
        ValueError: captions of different padded lengths in one call (their positions differ).
    """
    padded = {padded_length(length) for length in cap_lens}
    if len(padded) != 1:
        raise ValueError(f"captions of one forward must share a padded length, got {sorted(padded)}")
    length = padded.pop()
    caps = F.pad(caps[:, :length], (0, 0, 0, max(0, length - caps.shape[1])))
    return forward_masked(model, x, t, caps, caption_mask(cap_lens, length, x.device))


def forward_masked(model: ZImageTransformer2DModel, x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
    """:func:`forward` on captions already padded to a multiple of 32; ``pad`` (B, L, 1) marks padding rows."""
    config = model.config
    b, channels, height, width = x.shape
    rows, columns = height // PATCH, width // PATCH
    image_rope, caption_rope = rotation_table(
        tuple(config.axes_dims), tuple(config.axes_lens), config.rope_theta, caps.shape[1], rows, columns, x.device
    )
    dtype = model.all_x_embedder["2-1"].weight.dtype
    modulation = model.t_embedder(t * config.t_scale).to(dtype)

    image = model.all_x_embedder["2-1"](patchify(x.to(dtype)))
    if extra := image_rope.shape[2] - image.shape[1]:
        image = torch.cat((image, model.x_pad_token.to(image.dtype).expand(b, extra, -1)), dim=1)
    for block in model.noise_refiner:
        image = block(image, None, image_rope, modulation)

    caption = model.cap_embedder(caps.to(dtype))
    caption = torch.where(pad, model.cap_pad_token.to(caption.dtype), caption)
    for block in model.context_refiner:
        caption = block(caption, None, caption_rope)

    joint = torch.cat((image, caption), dim=1)
    rope = torch.cat((image_rope, caption_rope), dim=2)
    # An engine may have made one product of the modulations of all blocks.
    at_once = model.__dict__.get("modulations")
    modulations = at_once(modulation) if at_once else [modulation] * len(model.layers)
    for block, its_own in zip(model.layers, modulations, strict=True):
        joint = block(joint, None, rope, its_own)
    tokens = model.all_final_layer["2-1"](joint, c=modulation)[:, : rows * columns]
    return unpatchify(tokens, channels, height, width)
