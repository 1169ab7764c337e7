"""Loading the parts of a base model from a diffusers folder, each on its own.

Training needs no text encoder and no autoencoder, encoding needs no transformer, so each part is loaded on its own. The
folder may hold the embedded miniature or Z-Image-Turbo; only its config files differ. The transformer's weights may
also come from a single file with ComfyUI's names (:mod:`charloom.zimage.singlefile`); its config never does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from diffusers.utils import logging as diffusers_logging

from charloom.base.files import check_transformer_config
from charloom.core.errors import UserError
from charloom.zimage import singlefile
from charloom.zimage.forward import prepare

diffusers_logging.disable_progress_bar()


def _part(folder: Path, name: str) -> Path:
    part = Path(folder) / name
    if not part.is_dir():
        raise UserError(
            f"{folder}: base model has no folder {name}/; expected a diffusers layout as in model_index.json"
        )
    return part


def load_transformer(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    single_file: Path | None = None,
) -> ZImageTransformer2DModel:
    """The transformer in ``folder/transformer``, frozen, with the batched forward installed.

    With ``single_file``, the weights come from there and only the config from the folder.

    Raises:
        UserError: the config is incomplete, or the weights do not fit it.
    """
    part = _part(folder, "transformer")
    check_transformer_config(part)
    if single_file:
        model = empty_transformer(folder)
        singlefile.load_into(model, single_file, dtype)
    else:
        model = ZImageTransformer2DModel.from_pretrained(part, torch_dtype=dtype)
    return prepare(model.to(device).eval().requires_grad_(False))


def empty_transformer(folder: Path) -> ZImageTransformer2DModel:
    """The transformer of ``folder`` on the meta device: names and shapes from its config, no weights."""
    part = _part(folder, "transformer")
    check_transformer_config(part)
    config = ZImageTransformer2DModel.load_config(part)
    with torch.device("meta"):
        return ZImageTransformer2DModel.from_config(config)


def load_vae(folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> AutoencoderKL:
    """The autoencoder in ``folder/vae``; fp32 by default, because its latents are what is trained on."""
    vae = AutoencoderKL.from_pretrained(_part(folder, "vae"), torch_dtype=dtype)
    return vae.to(device).eval().requires_grad_(False)


def load_text_encoder(folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"):
    """(tokenizer, text encoder) of ``folder``."""
    from transformers import AutoTokenizer, Qwen3Model

    tokenizer = AutoTokenizer.from_pretrained(_part(folder, "tokenizer"))
    encoder = Qwen3Model.from_pretrained(_part(folder, "text_encoder"), dtype=dtype)
    return tokenizer, encoder.to(device).eval().requires_grad_(False)
