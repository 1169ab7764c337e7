"""Sampling previews with the memory and units that a GPU has: number format, batch size, compiled blocks.

Decides how :mod:`charloom.zimage.sampler` is run, not what is sampled. On a GPU a picture's bytes depend on neither the
pictures drawn beside it nor the process that draws it: one picture at a time, by code compiled by rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charloom.core.errors import UserError, reason
from charloom.engine import memory
from charloom.engine.compile import attention, by_rule, compile_blocks, is_compiled, plain_blocks
from charloom.engine.options import EngineOptions
from charloom.kernels import quantize
from charloom.lora.adapter import Part, in_order, is_plain, load_into, load_stack, side_by_side
from charloom.lora.attach import target_modules
from charloom.lora.files import AdapterFile, read_adapter
from charloom.lora.network import Network
from charloom.zimage import weights
from charloom.zimage.forward import PATCH, TOKEN_MULTIPLE, Predict, forward, prepare

BATCH = 10
"""Largest batch of pictures on the CPU; larger ones are no faster. On a GPU it is 1: a picture keeps it busy."""

ROOM = int(1.7 * memory.GIB)
"""Bytes needed besides the transformer's weights for a picture of 1024x1024: autoencoder, activations, workspaces."""

PRIMING = 32
"""Side of the picture, in image tokens, with which blocks are compiled: code for all sizes depends on the first."""

FLOAT8, BF16 = "float8", "bf16"
"""Number formats of the transformer's weights."""

Shapes = dict[str, tuple[torch.Size, torch.Size]]
"""Shapes of the two matrices that a LoRA has for each Linear."""


def empty_transformer(root: Path, precision: str) -> nn.Module:
    """The transformer of a base as previews use it, without weights."""
    model = weights.empty_transformer(root)
    if precision == FLOAT8:
        quantize.restructure(model, FLOAT8)
    return model


def stream(
    model: nn.Module, root: Path, single_file: Path | None, device: torch.device, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors for ``model`` from :func:`empty_transformer`, quantized if it is.

    By default in bf16 on a GPU, else in fp32.
    """
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    for name, tensor in weights.stream(root, dtype, device, single_file):
        yield from quantize.stored(model, name, tensor).items()


def load_transformer(
    root: Path, single_file: Path | None, device: torch.device, options: EngineOptions, precision: str = BF16
) -> nn.Module:
    """The transformer of a base on ``device``, with weights in ``precision`` (``bf16`` is fp32 on the CPU).

    Raises:
        UserError: it does not fit.
    """
    quantize.check(precision, device)
    model = empty_transformer(root, precision)
    # Still without values, for its size. Not to(torch.bfloat16): diffusers warns even if everything may be cast.
    model = model.bfloat16() if device.type == "cuda" else model
    try:
        if device.type == "cuda" and not fits(model, budget := memory.budget(options.limit, device)):
            raise torch.OutOfMemoryError
        with torch.no_grad():
            model.load_state_dict(dict(stream(model, root, single_file, device)), assign=True)
    except torch.OutOfMemoryError:
        remedy = "set sample.precision: float8" if precision == BF16 else "close other programs that use the GPU"
        raise UserError(
            f"the transformer in {precision} does not fit into the {budget / memory.GIB:.1f} GiB of GPU memory that "
            f"may be used for previews; {remedy}, raise recipe.memory or set device: cpu"
        ) from None
    return ready(model, device, options)


def ready(model: nn.Module, device: torch.device, options: EngineOptions) -> nn.Module:
    """``model`` with its weights, as the sampler takes it."""
    quantize.set_mode(model, quantize.best_mode(device) if options.fp8_units else "dequantize")
    return prepare(model.eval().requires_grad_(False))


def quick_decoder(vae: nn.Module, device: torch.device) -> nn.Module:
    """The autoencoder as previews use it: on a GPU in bf16 with channels last.

    Not for encoding the latents that are trained on.
    """
    vae = vae.to(device)
    return vae.bfloat16().to(memory_format=torch.channels_last) if device.type == "cuda" else vae


def fits(model: nn.Module, budget: int) -> bool:
    """Whether ``model`` and what a picture needs fit into ``budget`` bytes. Z-Image-Turbo in bf16 needs 14 GiB."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) + ROOM <= budget


def room_for(width: int, height: int) -> int:
    """Bytes that drawing a picture of ``width`` x ``height`` needs besides the transformer's weights."""
    return int(ROOM * max(1.0, width * height / 2**20))


def batch_size(device: torch.device) -> int:
    """How many pictures are sampled at once."""
    return 1 if device.type == "cuda" else BATCH


def predict_for(
    model: nn.Module, options: EngineOptions, device: torch.device, log: Callable[[str], None] = lambda _: None
) -> Predict:
    """The model's forward pass for the sampler, as fast as ``options`` allow.

    If the blocks cannot be compiled (no C compiler, say), they run uncompiled, with one line in ``log``. Not recorded
    as a CUDA graph, because a picture keeps the GPU busy for longer than launching takes.
    """
    if device.type == "cuda" and options.compile:
        compile_blocks(model, options.cudnn_attention)

    def run(x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
        with attention(options.cudnn_attention), by_rule() if is_compiled(model) else contextlib.nullcontext():
            return forward(model, x, t, caps, pad)

    def predict(x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
        try:
            return run(x, t, caps, pad)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not is_compiled(model):
                raise
            problem = f"{type(error).__name__}: {reason(error)}"[:200]
        plain_blocks(model)
        log(f"torch.compile does not work here, drawing without ({problem})")
        return run(x, t, caps, pad)

    return predict


class Adapters:
    """LoRA files on a model, one set of them after the other, even if its blocks are compiled.

    Compiled code may silently ignore hooks that are added later, and keep sampling the bare base. Therefore each Linear
    gets a wrapper, a different type and thus recompiled once, and later files only replace the values in it.
    """

    def __init__(self, model: nn.Module, options: EngineOptions, predict: Predict) -> None:
        self.model, self.options, self.predict = model, options, predict
        self._slots: dict[str, _Adapted] = {}
        # The base alone is drawn with a LoRA of zeros in the shape of the default recipe: the files of most characters
        # then need no further compilation, which takes as long as seven pictures.
        network = Network()
        linears = {name: model.get_submodule(name) for name in target_modules(model, network.modules)}
        self._blank: Shapes = {
            name: (torch.Size((network.rank, one.in_features)), torch.Size((one.out_features, network.rank)))
            for name, one in linears.items()
        }
        self._primed: set[Any] = set()

    @contextlib.contextmanager
    def applied(self, parts: Sequence[Part]) -> Iterator[None]:
        """Inside the block, the model has LoRA files applied, each at its strength; without any it is the base alone.

        Raises:
            UserError: a file does not fit the model.
        """
        if not is_compiled(self.model):
            self.remove()  # left from before compilation failed
            with load_stack(self.model, parts) if parts else contextlib.nullcontext():
                yield
            return
        if not parts:
            self._make(self._blank)
            self._prime()
            yield
            return
        adapters = in_order([(read_adapter(path), strength) for path, strength in parts])
        if not all(is_plain(found) for adapter, _ in adapters for found in adapter.modules.values()):
            # Not a sum of two outputs: rare enough to run without compiled blocks.
            self.remove()
            plain_blocks(self.model)
            try:
                with load_stack(self.model, parts):
                    yield
            finally:
                compile_blocks(self.model, self.options.cudnn_attention)
            return
        try:
            self._fill(adapters)
            self._prime()
            yield
        finally:
            for slot in self._slots.values():
                slot.down.zero_()  # multiplying by zero would keep infinities of a file as NaN
                slot.up.zero_()

    @torch.no_grad()
    def _fill(self, adapters: Sequence[tuple[AdapterFile, float]]) -> None:
        like = {"device": self.model.x_pad_token.device, "dtype": self.model.all_x_embedder["2-1"].weight.dtype}
        parts = {
            name: side_by_side([one for one in adapters if name in one[0].modules], name, **like)
            for name in dict.fromkeys(name for adapter, _ in adapters for name in adapter.modules)
        }
        shapes = {name: (down.shape, up.shape) for name, (down, up) in parts.items()}
        if shapes != self._shapes():
            self.remove()
            for adapter, _ in adapters:
                load_into(self.model, adapter.path).remove()  # raises a clear error if the file does not fit
        self._make(shapes)
        for name, (down, up) in parts.items():
            self._slots[name].down.copy_(down)
            self._slots[name].up.copy_(up)

    def _make(self, shapes: Shapes) -> None:
        """Wrap Linears for matrices of these shapes. New ones have no effect; any that fit already stay as they are."""
        if shapes == self._shapes():
            return
        self.remove()
        dtype = self.model.all_x_embedder["2-1"].weight.dtype  # that of weights that are never quantized
        for name, (down, up) in shapes.items():
            self._slots[name] = _Adapted(self.model.get_submodule(name), down, up, dtype)
            self.model.set_submodule(name, self._slots[name])

    def _shapes(self) -> Shapes:
        return {name: (slot.down.shape, slot.up.shape) for name, slot in self._slots.items()}

    @torch.no_grad()
    def _prime(self) -> None:
        """Compile for a picture that always has the same size, once for each set of adapted Linears."""
        shapes = frozenset(self._shapes().items())
        if shapes in self._primed:
            return
        config, device = self.model.config, self.model.x_pad_token.device
        side = PATCH * min(PRIMING, *config.axes_lens[1:])
        picture = torch.zeros(1, config.in_channels, side, side, device=device)
        caption = torch.zeros(1, TOKEN_MULTIPLE, config.cap_feat_dim, device=device)
        pad = torch.zeros(1, TOKEN_MULTIPLE, 1, dtype=torch.bool, device=device)
        self.predict(picture, torch.zeros(1, device=device), caption, pad)
        self._primed.add(shapes)

    def remove(self) -> None:
        """Take the last LoRA off the model."""
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
