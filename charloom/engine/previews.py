"""Drawing previews with the memory and the units that there are: number format, batch size, compiled blocks.

Decides how the sampler of :mod:`charloom.zimage.sampler` is fed; what is drawn is none of its business.
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
"""Pictures in a batch at most: more are no faster."""

COMPILE_FROM = 400
"""Forward passes, counted by the picture, from which on compiling (tens of seconds) is worth it."""

ROOM = int(1.7 * memory.GIB)
"""Needed beside the transformer's weights to draw one picture: the autoencoder, activations, workspaces."""

_QUANTISED = "float8"


def load_transformer(
    root: Path,
    single_file: Path | None,
    device: torch.device,
    options: EngineOptions,
    tell: Callable[[str], None],
) -> nn.Module:
    """The transformer of a base on ``device``: fp32, on a GPU bf16, or float8 where bf16 is too big for it.

    Raises:
        UserError: it is too big in any case.
    """
    if device.type != "cuda":
        return weights.load_transformer(root, dtype=torch.float32, device=device, single_file=single_file)
    model = weights.load_transformer(root, dtype=torch.bfloat16, single_file=single_file)
    budget = memory.budget(options.limit, device)
    try:
        if not fits_plain(model, budget):
            tell(f"drawing with the transformer in {_QUANTISED}: bf16 is too big for {budget / memory.GIB:.1f} GiB")
            quantize.quantize(model, _QUANTISED, device)
            quantize.set_mode(model, quantize.best_mode(device) if options.fp8_units else "dequantize")
        return model.to(device)
    except torch.OutOfMemoryError:
        raise UserError(
            f"the transformer does not fit into the {budget / memory.GIB:.1f} GiB of GPU memory that may be taken; "
            "close other programs that use the GPU, raise recipe.memory or set device: cpu"
        ) from None


def quick_decoder(vae: nn.Module, device: torch.device) -> nn.Module:
    """The autoencoder as previews use it: on a GPU bf16 with channels last.

    Not for encoding, where latents are made that are trained on.
    """
    vae = vae.to(device)
    return vae.to(torch.bfloat16, memory_format=torch.channels_last) if device.type == "cuda" else vae


def fits_plain(model: nn.Module, budget: int) -> bool:
    """Whether ``model`` fits into ``budget`` bytes as it is. Z-Image-Turbo in bf16 asks for 14 GiB."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) + ROOM <= budget


def batch_size(model: nn.Module, width: int, height: int, device: torch.device, options: EngineOptions) -> int:
    """How many pictures to draw at a time with what is free; a guess that :func:`sample` corrects."""
    if device.type != "cuda":
        return BATCH
    free = memory.budget(options.limit, device) - torch.cuda.memory_allocated(device)
    return pictures_in(free, width, height, model.config.dim)


def pictures_in(free: int, width: int, height: int, dim: int) -> int:
    """Pictures that ``free`` bytes are enough for, from 1 to :data:`BATCH`; ``dim`` is the transformer's width.

    A block holds about 40 times the width of a token in bytes at its worst: rotations are made in fp32, and the
    inner layer of the feed-forward part is there three times.
    """
    tokens = (width // (FACTOR * PATCH)) * (height // (FACTOR * PATCH)) + 128
    return max(1, min(BATCH, free // (40 * dim * tokens)))


def predict_for(model: nn.Module, options: EngineOptions, forwards: int) -> Predict:
    """The model's forward pass as the sampler calls it, as fast as ``options`` allow.

    ``forwards`` (counted by the picture) is how often it will be used. Not recorded as a CUDA graph: a batch of
    pictures keeps the GPU busy for longer than launching it takes.
    """
    device = next(model.parameters()).device
    if device.type == "cuda" and options.compile and forwards >= COMPILE_FROM:
        compile_blocks(model, options.cudnn_attention)

    def predict(x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
        with attention(options.cudnn_attention):
            return forward(model, x, t, caps, pad)

    return predict


class Adapters:
    """LoRA files on a model, one after the other, also where its blocks are compiled.

    Compiled code may miss a hook that comes later: it would go on drawing what the base draws, without a
    word. There each Linear gets a wrapper, which is another type and therefore compiled anew, and a further file only
    changes the numbers in it.
    """

    def __init__(self, model: nn.Module, options: EngineOptions) -> None:
        self.model, self.options = model, options
        self._slots: dict[str, _Adapted] = {}

    @contextlib.contextmanager
    def put_on(self, path: Path | None, strength: float) -> Iterator[None]:
        """Inside the block the model draws with the file at ``path``; None is the model alone.

        Raises:
            UserError: the file does not fit the model.
        """
        if path is None or not is_compiled(self.model):
            with load_into(self.model, path, strength) if path else contextlib.nullcontext():
                yield
            return
        adapter = read_adapter(path)
        if any("lora_A" not in parts or "dora_scale" in parts for parts in adapter.modules.values()):
            # Not a sum of two outputs: rare enough to be drawn without compiled blocks.
            self._take_off()
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
            self._take_off()
            load_into(self.model, adapter.path).remove()  # says what is wrong with a file that does not fit
            dtype = self.model.all_x_embedder["2-1"].weight.dtype  # never quantised
            for name, (down, up) in parts.items():
                self._slots[name] = _Adapted(self.model.get_submodule(name), down.shape, up.shape, dtype)
                self.model.set_submodule(name, self._slots[name])
        for name, (down, up) in parts.items():
            self._slots[name].down.copy_(down)
            self._slots[name].up.copy_(up.float() * (adapter.scale(name) * strength))

    def _take_off(self) -> None:
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
        """The Linear's own: some modules ask for its dtype."""
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(F.linear(x.to(self.down.dtype), self.down), self.up)
