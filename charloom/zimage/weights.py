"""Loading the parts of a base model from a diffusers folder, each on its own.

Training needs no text encoder and no autoencoder, encoding needs no transformer, so each part is loaded on its own. The
folder may hold the embedded miniature or Z-Image-Turbo; only its config files differ. The transformer's weights may
also come from a single file with ComfyUI's names (:mod:`charloom.zimage.singlefile`); its config never does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from charloom.base.files import check_transformer_config, check_whole
from charloom.core.errors import UserError
from charloom.zimage import singlefile
from charloom.zimage.forward import prepare
from charloom.zimage.libraries import AutoencoderKL, ZImageTransformer2DModel, diffusers_logging

diffusers_logging.disable_progress_bar()

READERS = 4
"""Threads that copy tensors from the mapped files."""


def _part(folder: Path, name: str) -> Path:
    part = Path(folder) / name
    if not part.is_dir():
        raise UserError(
            f"{folder}: base model has no folder {name}/; get the whole folder, as listed in model_index.json"
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


def stream(
    folder: Path, dtype: torch.dtype, device: str | torch.device = "cpu", single_file: Path | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the transformer in ``folder`` one by one, cast to ``dtype`` and copied to ``device``.

    The caller decides what is kept, so a model that is quantized while loading is never in memory as a whole. A few
    tensors are read ahead.

    Raises:
        UserError: as :func:`load_transformer`.
    """
    model = empty_transformer(folder)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    mapped = singlefile.read(single_file, model) if single_file else _mapped(folder, expected)

    def copied(name: str) -> Tensor:
        return mapped[name].to(device, dtype, copy=True)

    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[str, Future[Tensor]]] = deque()
        for name in mapped:
            waiting.append((name, pool.submit(copied, name)))
            if len(waiting) > 2 * READERS:
                first, tensor = waiting.popleft()
                yield first, tensor.result()
        for first, tensor in waiting:
            yield first, tensor.result()


def _mapped(folder: Path, expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The tensors of the transformer's files, still mapped from them."""
    found: dict[str, Tensor] = {}
    part = _part(folder, "transformer")
    for path in sorted(part.glob("*.safetensors")):
        check_whole(path)
        try:
            with safe_open(str(path), framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); get it again") from None
    for name, shape in expected.items():
        if name not in found or found[name].shape != shape:
            what = "is missing" if name not in found else f"is {tuple(found[name].shape)}, not {tuple(shape)}"
            raise UserError(f"{part}: {name} {what}: its files do not belong to its config.json; get them again")
    return {name: found[name] for name in expected}


def load_vae(folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> AutoencoderKL:
    """The autoencoder in ``folder/vae``; fp32 by default, because its latents are what is trained on."""
    vae = AutoencoderKL.from_pretrained(_part(folder, "vae"), torch_dtype=dtype)
    return vae.to(device).eval().requires_grad_(False)


def load_text_encoder(folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"):
    """(tokenizer, text encoder) of ``folder``."""
    from transformers import AutoTokenizer, Qwen3Model
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(_part(folder, "tokenizer"))
    # Straight onto the device, not by way of main memory.
    encoder = Qwen3Model.from_pretrained(_part(folder, "text_encoder"), dtype=dtype, device_map={"": device})
    return tokenizer, encoder.eval().requires_grad_(False)


def bf16_bytes(folder: Path, name: str) -> int:
    """Bytes of a part's weights in bf16, from the shapes in its files."""
    total = 0
    for path in _part(folder, name).glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            total += sum(2 * math.prod(file.get_slice(key).get_shape()) for key in file.keys())
    return total
