"""One batched forward pass over a stock ``ZImageTransformer2DModel``.

diffusers feeds its model lists of single items and rebuilds position grids, masks and complex rotations on every call.
Training and sampling here always work on batches of equal shape, so this module runs the *same modules* on plain
tensors: static shapes, rotation in real arithmetic, no graph breaks, nothing a CUDA graph cannot record. The result
equals the stock forward up to floating-point rounding (``tests/zimage/test_zimage_parity.py``). Independent of
training, sampling and files.

The engine replaces parts by setting attributes on the stock modules. They are optional, and the plain operations are
used where they are missing:

* ``attention.fused``: a module that maps (…, in) to query, key and value in one product
  (:class:`charloom.engine.fuse.Fused`);
* ``attention.rotated``: normalizes and rotates query and key in one kernel (:func:`charloom.kernels.rotary.rotated`);
* ``attention.attend``: the attention kernel (:func:`charloom.kernels.attention.attend`);
* ``model.__dict__["modulations"]``: the modulations of all blocks in one product
  (:class:`charloom.engine.fuse.Modulations`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from charloom.zimage.libraries import ZImageTransformer2DModel

TOKEN_MULTIPLE = 32
"""Captions and images are padded to a multiple of this many tokens (SEQ_MULTI_OF in diffusers)."""

PATCH = 2
"""Side of an image token in latent cells."""

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``predict(x, t, caps, pad)``: :func:`forward` of some model, maybe adapted, compiled or under autocast."""


def padded_length(length: int) -> int:
    """Number of tokens that a sequence of ``length`` tokens occupies in the model."""
    return -(-length // TOKEN_MULTIPLE) * TOKEN_MULTIPLE


class RealRopeAttention:
    """Attention processor equal to diffusers' ``ZSingleStreamAttnProcessor``, without complex numbers.

    ``freqs_cis`` is the pair stacked by :func:`rotation_table`: (2, B or 1, L, 1, head_dim).
    """

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, freqs_cis=None) -> Tensor:
        projected = getattr(attn, "fused", None) or (lambda x: (attn.to_q(x), attn.to_k(x), attn.to_v(x)))
        query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in projected(hidden_states))
        rotated = getattr(attn, "rotated", None)
        if rotated is not None:
            query, key = rotated(query, key, freqs_cis)
        else:
            query, key = attn.norm_q(query), attn.norm_k(key)
            query, key = rotate(query, *freqs_cis), rotate(key, *freqs_cis)
        attend = getattr(attn, "attend", None) or attention
        return attn.to_out[0](attend(query, key, value).flatten(2))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (B, L, heads, head_dim) each, without a mask, by the kernel that PyTorch chooses."""
    out = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs of ``x`` (B, L, heads, head_dim) by angles given as cos/sin (…, L, 1, head_dim).

    cos and sin are repeated per pair, the first sine negated: every output element is x * cos + neighbour * sin, which
    keeps memory access contiguous.
    """
    wide = x.float()
    return (wide * cos + neighbours(wide) * sin).type_as(x)


def neighbours(x: Tensor) -> Tensor:
    """``x`` with the elements of each pair in the last dimension swapped."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def prepare(model: ZImageTransformer2DModel) -> ZImageTransformer2DModel:
    """Install the real-arithmetic attention in every block; the stock ``model.forward`` no longer works afterwards."""
    for block in (*model.noise_refiner, *model.context_refiner, *model.layers):
        block.attention.processor = RealRopeAttention()
    return model


@functools.cache  # recorded graphs keep pointers to the tables
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

    Position ids (diffusers ``_pad_with_ids``): caption token i has (1 + i, 0, 0), padding included; image tokens have
    (caption + 1, y, x); image padding has (0, 0, 0).
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
        # Always a copy: Dynamo treats views as another kind of input.
        return pairs.flatten(-2)[:, None, :, None].to(device, copy=True)

    return table(ids), table(caption_ids)


def patchify(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H/2 * W/2, 4 C); order inside a token: row, column, channel."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(b, (h // PATCH) * (w // PATCH), PATCH * PATCH * c)


def unpatchify(tokens: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Inverse of :func:`patchify`."""
    b = tokens.shape[0]
    x = tokens.view(b, height // PATCH, width // PATCH, PATCH, PATCH, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, channels, height, width)


def pad_captions(caps: Sequence[Tensor], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Captions of one batch as the model takes them.

    Args:
        caps: embeddings [(L_i, D)] that share a :func:`padded_length` L.
        device: where the result goes, by default the CPU.

    Returns:
        Zero-padded embeddings (B, L, D), and a mask (B, L, 1) bool, true on padding rows.

    Raises:
        ValueError: captions of different padded lengths (their image positions would differ).
    """
    padded = {padded_length(len(cap)) for cap in caps}
    if len(padded) != 1:
        raise ValueError(f"captions of one batch must share a padded length, got {sorted(padded)}")
    length = padded.pop()
    out = torch.zeros(len(caps), length, caps[0].shape[-1], dtype=caps[0].dtype)
    for row, cap in zip(out, caps, strict=True):
        row[: len(cap)] = cap
    pad = (torch.arange(length) >= torch.tensor([len(cap) for cap in caps])[:, None])[..., None]
    return out.to(device), pad.to(device)


def forward(model: ZImageTransformer2DModel, x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
    """Raw model output for a batch of one shape.

    Args:
        model: a stock transformer passed through :func:`prepare`.
        x: noisy latents (B, C, H, W), H and W even.
        t: (B,) fp32, 1 - sigma: 0 is pure noise, 1 is clean.
        caps: caption embeddings (B, L, D), L a multiple of 32.
        pad: (B, L, 1) bool, true on padding rows; see :func:`pad_captions`.

    Returns:
        (B, C, H, W), about x0 - noise; :func:`charloom.zimage.flow.velocity` is its negative.
    """
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
    batched = model.__dict__.get("modulations")
    modulations = batched(modulation) if batched else [modulation] * len(model.layers)
    for block, own in zip(model.layers, modulations, strict=True):
        joint = block(joint, None, rope, own)
    tokens = model.all_final_layer["2-1"](joint, c=modulation)[:, : rows * columns]
    return unpatchify(tokens, channels, height, width)
