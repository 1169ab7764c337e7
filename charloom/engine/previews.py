"""Sampling previews with the memory and units that a GPU has: number format, batch size, compiled blocks.

Decides how :mod:`charloom.zimage.sampler` is run, not what is sampled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charloom.core.errors import UserError
from charloom.engine import memory
from charloom.engine.compile import attention, compile_blocks, is_compiled, plain_blocks
from charloom.engine.options import EngineOptions
from charloom.kernels import quantize
from charloom.lora.adapter import load_into
from charloom.lora.files import AdapterFile, read_adapter
from charloom.zimage import weights
from charloom.zimage.forward import PATCH, Predict, forward
from charloom.zimage.vae import FACTOR

BATCH = 10
"""Largest batch of images; larger ones are no faster."""

COMPILE_FROM = 400
"""Forward passes, counted per image, from which compiling (tens of seconds) pays off."""

ROOM = int(1.7 * memory.GIB)
"""Bytes needed besides the transformer's weights for one image: autoencoder, activations, workspaces."""

_QUANTISED = "float8"


def load_transformer(
    root: Path,
    single_file: Path | None,
    device: torch.device,
    options: EngineOptions,
    log: Callable[[str], None],
) -> nn.Module:
    """The transformer of a base on ``device``: fp32 on the CPU; bf16 on a GPU, or float8 if bf16 is too large for it.

    Raises:
        UserError: it does not fit either way.
    """
    if device.type != "cuda":
        return weights.load_transformer(root, dtype=torch.float32, device=device, single_file=single_file)
    model = weights.load_transformer(root, dtype=torch.bfloat16, single_file=single_file)
    budget = memory.budget(options.limit, device)
    try:
        if not fits_plain(model, budget):
            log(f"sampling with the transformer in {_QUANTISED}: bf16 is too large for {budget / memory.GIB:.1f} GiB")
            quantize.quantize(model, _QUANTISED, device)
            quantize.set_mode(model, quantize.best_mode(device) if options.fp8_units else "dequantize")
        return model.to(device)
    except torch.OutOfMemoryError:
        raise UserError(
            f"the transformer does not fit into the {budget / memory.GIB:.1f} GiB of GPU memory that may be used; "
            "close other programs that use the GPU, raise recipe.memory or set device: cpu"
        ) from None


def quick_decoder(vae: nn.Module, device: torch.device) -> nn.Module:
    """The autoencoder as previews use it: on a GPU in bf16 with channels last.

    Not for encoding the latents that are trained on.
    """
    vae = vae.to(device)
    return vae.to(torch.bfloat16, memory_format=torch.channels_last) if device.type == "cuda" else vae


def fits_plain(model: nn.Module, budget: int) -> bool:
    """Whether ``model`` fits into ``budget`` bytes unquantised. Z-Image-Turbo in bf16 needs 14 GiB."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) + ROOM <= budget


def batch_size(model: nn.Module, width: int, height: int, device: torch.device, options: EngineOptions) -> int:
    """How many images to sample at once in free memory; a guess that the sampler corrects."""
    if device.type != "cuda":
        return BATCH
    free = memory.budget(options.limit, device) - torch.cuda.memory_allocated(device)
    return images_in(free, width, height, model.config.dim)


def images_in(free: int, width: int, height: int, dim: int) -> int:
    """Images that fit into ``free`` bytes, from 1 to :data:`BATCH`; ``dim`` is the transformer's width.

    A block's peak is about 40 bytes per token and channel: rotations run in fp32, and the inner layer of the
    feed-forward part exists three times.
    """
    tokens = (width // (FACTOR * PATCH)) * (height // (FACTOR * PATCH)) + 128
    return max(1, min(BATCH, free // (40 * dim * tokens)))


def predict_for(model: nn.Module, options: EngineOptions, forwards: int) -> Predict:
    """The model's forward pass for the sampler, as fast as ``options`` allow.

    ``forwards`` (counted per image) is how often it will be used. Not recorded as a CUDA graph: a batch of images keeps
    the GPU busy for longer than launching takes.
    """
    device = next(model.parameters()).device
    if device.type == "cuda" and options.compile and forwards >= COMPILE_FROM:
        compile_blocks(model, options.cudnn_attention)

    def predict(x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
        with attention(options.cudnn_attention):
            return forward(model, x, t, caps, pad)

    return predict


class Adapters:
    """LoRA files on a model, one after the other, even if its blocks are compiled.

    Compiled code may silently ignore hooks that are added later, and keep sampling the bare base. Therefore each Linear
    gets a wrapper, a different type and thus recompiled once, and later files only replace the values in it.
    """

    def __init__(self, model: nn.Module, options: EngineOptions) -> None:
        self.model, self.options = model, options
        self._slots: dict[str, _Adapted] = {}

    @contextlib.contextmanager
    def applied(self, path: Path | None, strength: float) -> Iterator[None]:
        """Inside the block, the model has the LoRA at ``path`` applied; None is the bare model.

        Raises:
            UserError: the file does not fit the model.
        """
        if path is None or not is_compiled(self.model):
            with load_into(self.model, path, strength) if path else contextlib.nullcontext():
                yield
            return
        adapter = read_adapter(path)
        if any("lora_A" not in parts or "dora_scale" in parts for parts in adapter.modules.values()):
            # Not a sum of two outputs: rare enough to run without compiled blocks.
            self._remove()
            plain_blocks(self.model)
            try:
                with load_into(self.model, path, strength):
                    yield
            finally:
                compile_blocks(self.model, self.options.cudnn_attention)
            return
        try:
            self._fill(adapter, strength)
            yield
        finally:
            for slot in self._slots.values():
                slot.up.zero_()

    @torch.no_grad()
    def _fill(self, adapter: AdapterFile, strength: float) -> None:
        parts = {name: (found["lora_A"], found["lora_B"]) for name, found in adapter.modules.items()}
        shapes = {name: (slot.down.shape, slot.up.shape) for name, slot in self._slots.items()}
        if {name: (down.shape, up.shape) for name, (down, up) in parts.items()} != shapes:
            self._remove()
            load_into(self.model, adapter.path).remove()  # raises a clear error if the file does not fit
            dtype = self.model.all_x_embedder["2-1"].weight.dtype  # never quantised
            for name, (down, up) in parts.items():
                self._slots[name] = _Adapted(self.model.get_submodule(name), down.shape, up.shape, dtype)
                self.model.set_submodule(name, self._slots[name])
        for name, (down, up) in parts.items():
            self._slots[name].down.copy_(down)
            self._slots[name].up.copy_(up.float() * (adapter.scale(name) * strength))

    def _remove(self) -> None:
        for name, slot in self._slots.items():
            self.model.set_submodule(name, slot.linear)
        self._slots = {}


class _Adapted(nn.Module):
    """A Linear and the two matrices of a LoRA, ``down`` (r, in) and ``up`` (out, r)."""

    def __init__(self, linear: nn.Module, down: torch.Size, up: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = linear
        like = {"dtype": dtype, "device": linear.weight.device}
        self.down, self.up = nn.Buffer(torch.zeros(down, **like)), nn.Buffer(torch.zeros(up, **like))

    @property
    def weight(self) -> Tensor:
        """The Linear's weight: some modules read its dtype."""
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(F.linear(x.to(self.down.dtype), self.down), self.up)
