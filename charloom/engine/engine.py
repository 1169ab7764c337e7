"""The engine: a stock transformer with an adapter, made fast and small by a few independent transformations.

In this order, each with an off switch in :class:`~charloom.engine.options.EngineOptions`, and none on the CPU:

1. float8 weights are multiplied on the card's fp8 units (:mod:`charloom.kernels.quantize`);
2. Linears with one input become one product, and so do the modulations of all blocks, unless some of these live in
   main memory (:mod:`charloom.engine.fuse`);
   queries and keys are normalised and rotated in one pass (:mod:`charloom.kernels.rotary`);
3. attention adds its gradients in a fixed order, and every block is compiled by rules instead of by the clock, so that
   the same run gives the same bytes (:mod:`charloom.kernels.attention`, :mod:`charloom.engine.compile`);
4. the weights of some blocks live in main memory, if the budget demands it (:mod:`charloom.engine.swap`);
5. blocks recompute their activations, as many as the budget demands (:mod:`charloom.engine.recompute`);
6. forward and backward pass are recorded as one CUDA graph for each shape (:mod:`charloom.engine.graphs`).

What does not work on a machine (a compiler that is missing, a capture that fails) is left out with one line, and a
step that runs out of memory is repeated with less of it. The engine knows neither optimisers nor data sets.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from charloom.core.errors import UserError
from charloom.engine import compile as compiling
from charloom.engine import fuse as fusing
from charloom.engine import graphs, memory
from charloom.engine.inputs import Inputs, Term
from charloom.engine.options import EngineOptions
from charloom.engine.recompute import Recompute
from charloom.engine.swap import SLOTS, Swap, move, size_of, spread
from charloom.kernels import attention as attentions
from charloom.kernels import quantize
from charloom.kernels.low_rank import kernels_work
from charloom.lora.attach import Adapter
from charloom.zimage import forward

GRAPH_LIMIT = 32
"""Shapes beyond this many run without a graph: recording one costs seconds and some memory."""
FAILED = "does not work"
"""Recorded of a part that was wanted and did not work."""
COMPARED = 256
"""Tokens of the comparison of a compiled block with an uncompiled one."""
ALIKE = 0.97
"""Least cosine of their results; float8 rounds a few numbers another way."""
SWAP_STEP = 6
"""Blocks that move to main memory at a time when memory runs out and nobody knows how much is missing."""
TRANSPOSE_WORTH = 0.85
"""Transposed copies of the weights are kept if even the largest shape then recomputes no more than the rest."""

TYPICAL_PATCHES, TYPICAL_CAPTION = 32, 96
"""A side of the picture (512 pixels) and tokens of the caption that blocks are compiled for first."""

Loss = Callable[[Callable[..., Tensor], Inputs], tuple[Tensor, Tensor]]
Tell = Callable[[str], None]


def is_gpu(device: torch.device) -> bool:
    """Whether the transformations apply on ``device``."""
    return device.type == "cuda"


class Engine:
    """Runs the adapted ``model`` on ``device``.

    ``loss(predict, inputs)`` gives the loss to differentiate and what is to be reported of it, one number a sample.
    ``reserve()`` is what others (the optimiser) will allocate later, in bytes. ``largest`` is the most tokens
    that a batch will have, in all passes together. ``tell`` takes one line for whatever the user should know.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        loss: Loss,
        device: torch.device,
        options: EngineOptions | None = None,
        *,
        reserve: Callable[[], int] = int,
        largest: int | None = None,
        tell: Tell = print,
    ) -> None:
        self.model, self.adapter, self.loss, self.device, self.tell = model, adapter, loss, device, tell
        self.options = options or EngineOptions()
        self.reserve, self.largest = reserve, largest
        self.cuda = is_gpu(device)
        self.compiled = self.cuda and self.options.compile
        # Dropout in a block that recomputes needs the generator's state, which no graph can save.
        self.graphed = self.cuda and self.options.graphs and not adapter.network.dropout
        self.swap: Swap | None = None
        self.recompute: Recompute | None = None
        self.kept: dict[Any, int] = {}
        self.results: dict[Any, int] = {}
        self._recorded: dict[Any, graphs.Recorded] = {}
        self._pool: Any = None
        self._drops: dict[Any, int] = {}
        self.peak = self.reserved = self.trial = 0
        self._recording = False
        self._started = False
        self._compared = False
        self._missing = 0
        self._primed: set[Any] = set()
        self._random = bool(adapter.network.dropout) and device.type == "cuda"
        self.attention: str | None = None
        forward.prepare(model)
        if self.cuda:
            if self.device.type == "cuda" and not kernels_work(self.device):
                tell("engine: Triton does not work here (it needs a C compiler); rotations and adapters take longer")
            self._transform()
            for parameter in self._parameters:
                parameter.grad = torch.zeros_like(parameter)

    # -- transformations -------------------------------------------------------------------------------------

    def _transform(self, swapped: int = 0) -> None:
        model, blocks = self.model, list(self.model.layers)
        quantize.set_mode(model, quantize.best_mode(self.device) if self.options.fp8_units else "dequantize")
        swapped = max(swapped, self._swapped_at_least())
        if self.options.fuse:
            fusing.fuse(compiling.blocks_of(model))
        fixed = self.options.deterministic
        # Modulated one by one, swapped blocks would add up in another order than resident ones.
        at_once = self.options.fuse and (fixed or not swapped) and fusing.modulated_alike(blocks)
        if at_once and fixed:
            model.__dict__["modulations"] = fusing.Modulations(blocks, self.device)
        self.attention = self._best_attention()
        if self.attention:
            room = attentions.ROOM if swapped or not self._roomy() else attentions.MUCH_ROOM
            attentions.install(compiling.blocks_of(model), self.attention, fixed, room)
        if self.compiled:
            compiling.compile_blocks(model, self.options.cudnn_attention)
            compiling.chosen_by_rule(fixed)
            # In fp32 nothing is left to be computed with such a sum: there is no cast.
            compiling.sums_along(at_once and blocks[0].attention_norm1.weight.dtype != torch.float32)
        if swapped:
            self.swap = Swap([blocks[i] for i in spread(len(blocks), swapped)], self.device)
        for block in compiling.blocks_of(model):
            if next(block.parameters()).device != self.device:
                move(block, self.device)
        model.to(self.device)
        if not swapped and self._roomy():
            for block in blocks:  # the refiners pass no gradient on
                quantize.keep_transposed(block)
        if at_once and not fixed:
            model.__dict__["modulations"] = fusing.Modulations(blocks)
        self.recompute = Recompute(blocks, random=bool(self.adapter.network.dropout))
        torch.cuda.empty_cache()  # what was fused has moved and left holes in which nothing of a block fits

    def _best_attention(self) -> str | None:
        """The kind of attention with a fixed order of sums; None for PyTorch's choice."""
        if self.device.type != "cuda" or not self.options.deterministic:
            return None
        attention = self.model.layers[0].attention
        head_dim = attention.to_out[0].in_features // attention.heads
        dtype = self.model.layers[0].attention_norm1.weight.dtype
        kind = attentions.best_kind(self.device, dtype, head_dim, True, self.options.cudnn_attention)
        if kind is None:
            self.tell("engine: no attention here adds in a fixed order: the same run may give other bytes another time")
        return kind

    def _fixed(self) -> int:
        """Bytes of all weights, of the adapter with its gradients, and of what others will allocate."""
        weights = sum(map(size_of, compiling.blocks_of(self.model)))
        if at_once := self.model.__dict__.get("modulations"):
            weights += at_once.weight.nbytes
        return weights + sum(8 * p.numel() for p in self._parameters) + self.reserve()

    def _swapped_at_least(self) -> int:
        """How many blocks must be swapped before anything was measured, by the recipe or by the budget."""
        blocks = list(self.model.layers)
        wanted = len(blocks) // 2 if self.options.layer_offloading else 0
        room = memory.budget(self.options.limit, self.device) - memory.UNSEEN
        # Activations need some room as well; how much exactly is measured later.
        each = (memory.WORKING_BYTES + 2 * len(blocks)) * self.model.config.dim
        least = self._fixed() + max(3 * size_of(blocks[0]), each * (self.largest or 0))
        return max(wanted, memory.blocks_to_swap(room, least, size_of(blocks[0]), SLOTS, len(blocks)))

    def _roomy(self) -> bool:
        """Whether transposed copies of float8 weights fit, and leave room for most activations."""
        if self.largest is None or not self.options.fp8_units:
            return False
        needed = 2 * self._fixed() + int(TRANSPOSE_WORTH * self._activations(self.largest))
        return needed <= memory.budget(self.options.limit, self.device)

    def _activations(self, tokens: int) -> int:
        """About what all blocks keep of so many tokens, in bytes."""
        return memory.ACTIVATION_BYTES * self.model.config.dim * tokens * len(self.model.layers)

    def _crowded(self, key: Any) -> bool:
        """Whether recordings stand in the way of a shape."""
        torch.cuda.empty_cache()  # what nobody uses is in nobody's way
        return memory.crowded(self.options.limit, self.device, self._activations(_tokens(key)))

    def remove(self) -> None:
        """Undo the transformations; the model runs as before."""
        if not self.cuda:
            return
        self._drop_graphs()
        self.recompute.remove()
        if self.swap:
            self.swap.remove()
            self.swap = None
        compiling.plain_blocks(self.model)
        attentions.remove(compiling.blocks_of(self.model))
        if at_once := self.model.__dict__.pop("modulations", None):
            at_once.remove()
        quantize.drop_transposed(self.model)
        self.kept.clear()
        self.results.clear()

    def _begin_again(self, swapped: int = 0) -> None:
        self.remove()
        self._transform(swapped)

    # -- running ---------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
        """Raw output (B, C, h, w) of the adapted model, as :func:`charloom.zimage.forward.forward_masked`."""
        with compiling.attention(self.cuda and self.options.cudnn_attention):
            return forward.forward_masked(self.model, x, t, caps, pad)

    def zero_grad(self) -> None:
        """Begin a step: no gradient has been accumulated."""
        self._started = False
        if self.cuda:  # recordings write to these very tensors
            torch._foreach_zero_([p.grad for p in self._parameters])
            return
        for parameter in self._parameters:
            parameter.grad = None

    def accumulate(self, inputs: Inputs) -> Tensor:
        """Add the gradients of a batch to the adapter's; returns the plain loss of each sample (B,).

        Raises:
            UserError: the GPU's memory does not suffice although everything is done to save it.
        """
        if not self.cuda:
            return self._plain(inputs)
        key = graphs.shape_key(inputs.tensors)
        steady = key in self._recorded
        # A new shape is tried out before it counts, and anything but a recording may run out of memory.
        before = self._copied_gradients() if self._started and not steady else None
        self._started = True
        # What is tried out draws random numbers as well.
        state = torch.cuda.get_rng_state(self.device) if self._random else None
        while True:
            if state is not None:
                torch.cuda.set_rng_state(state, self.device)
            try:
                return self._accumulate(key, inputs, before)
            except torch.OutOfMemoryError:
                self._recording, problem = False, None
            except UserError:
                raise
            except Exception as error:
                problem = error
            if problem is None:
                self._step_down(key)
            else:
                self._fall_back(problem)
            self._reset_gradients(before)

    def facts(self) -> dict[str, Any]:
        """What the bytes of a run depend on beside its settings: the card, versions, and what did not work here.

        How much is recomputed or lives in main memory changes no bit.
        """
        return {
            **versions(self.device),
            "attention": self.attention or "any",
            "compile": self.compiled or (FAILED if self.cuda and self.options.compile else False),
            "float8": self.cuda and self.options.fp8_units and quantize.best_mode(self.device),
            "fuse": self.cuda and self.options.fuse,
            "deterministic": not self.cuda or self.options.deterministic,
        }

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return list(self.adapter.parameters.values())

    def _plain(self, inputs: Inputs) -> Tensor:
        if self.swap:
            self.swap.forget()
        try:
            # Around the backward pass as well: what is recomputed there must choose the same kernels.
            with compiling.attention(self.cuda and self.options.cudnn_attention):
                total, reported = self.loss(self.predict, inputs)
                self._backward(total)
        except BaseException:
            if self.swap:
                with contextlib.suppress(RuntimeError):  # of a broken recording; the first error tells more
                    self.swap.join()
            raise
        if self.swap:
            self.swap.join()
        return reported

    def _backward(self, total: Tensor) -> None:
        """Add the gradients of ``total`` to the parameters'."""
        if not self.cuda:
            total.backward()
            return
        # All at once instead of an addition for each of some hundred parameters.
        parameters = self._parameters
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        pairs = [(p.grad, gradient) for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
        # One that lies in another order would have all added one by one.
        torch._foreach_add_([own for own, _ in pairs], [gradient.contiguous() for _, gradient in pairs])

    def _accumulate(self, key: Any, inputs: Inputs, before: list[Tensor] | None) -> Tensor:
        if key not in self.kept:
            with torch.random.fork_rng([self.device] if self._random else [], device_type="cuda"):
                self._fit(key, inputs)
            self._reset_gradients(before)
        self.recompute.keep(self.kept[key])
        self.recompute.keep_results(self.results.get(key, 0))
        if not self.graphed or (key not in self._recorded and len(self._recorded) >= GRAPH_LIMIT):
            return self._plain(inputs)
        if key not in self._recorded:
            largest = max(map(_tokens, self._recorded), default=math.inf)
            if _tokens(key) > largest and self._crowded(key):
                self._drop_graphs()  # what comes after the largest fits into its memory; the other way they add up
            self._record(key, inputs)
        return self._recorded[key](*inputs.tensors)[0].clone()

    def _copied_gradients(self) -> list[Tensor]:
        try:
            return [p.grad.clone() for p in self._parameters]
        except torch.OutOfMemoryError:
            pass
        self._drop_graphs()
        return [p.grad.clone() for p in self._parameters]

    @torch.no_grad()
    def _reset_gradients(self, before: list[Tensor] | None) -> None:
        gradients = [p.grad for p in self._parameters]
        if before is None:
            torch._foreach_zero_(gradients)
        else:
            torch._foreach_copy_(gradients, before)

    def _record(self, key: Any, inputs: Inputs) -> None:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._recording = True
        try:
            self._recorded[key] = graphs.Recorded(
                lambda *tensors: (self._plain(inputs.filled(tensors)),), inputs.tensors, self._pool
            )
        except Exception:
            if not self._recorded:
                self._pool = None  # nobody holds it, so it cannot be taken again
            raise
        self._recording = False

    # -- memory ----------------------------------------------------------------------------------------------

    def _fit(self, key: Any, inputs: Inputs) -> None:
        """Measure a shape and settle how many blocks keep their activations."""
        if self._recorded and self._crowded(key):
            self._drop_graphs()
        allowed, blocks = memory.budget(self.options.limit, self.device), len(self.model.layers)
        limit = allowed - memory.UNSEEN
        self.recompute.keep(0)
        self.recompute.keep_results(0)
        self._prime(inputs)
        seen: list[tuple] = []

        def look(_: nn.Module, arguments: tuple) -> None:
            if not seen:
                seen.append(arguments)

        hook = self.model.layers[-1].register_forward_pre_hook(look)
        try:
            graphs.warm_up(lambda: self._plain(inputs))  # compiles
        finally:
            hook.remove()
        # Nothing may hold on to the arguments of a block, which hold a graph, while memory is measured.
        arguments = seen.pop()
        if compiling.is_compiled(self.model):
            self._compare(*arguments)
        kept, boundary = (0, 0) if self.swap else self._block_bytes(arguments)
        result = attentions.bytes_of(arguments[0], self.model.layers[0].attention.heads)
        del arguments
        peak = self._peak(inputs)
        if peak > limit and self._can_swap():
            each, slots = size_of(self.model.layers[0]), 0 if self.swap else SLOTS
            self._missing = memory.blocks_to_swap(limit, peak, each, slots, blocks)
            raise torch.OutOfMemoryError(f"{peak / memory.GIB:.2f} GiB at {allowed / memory.GIB:.2f} GiB")
        keep = results = 0
        if not self.swap:
            if self.attention:
                results, peak = self._search_results(inputs, limit, peak, result)
            keep = self._search(inputs, limit, peak, kept, boundary + result * bool(results))
        self.kept[key], self.results[key] = keep, results
        size = "x".join(str(side * 8) for side in reversed(inputs.x0.shape[-2:]))
        if peak > limit:
            self.tell(
                f"engine: {size} needs {peak / memory.GIB:.1f} GiB of GPU memory although every block lives in main "
                f"memory, more than the {allowed / memory.GIB:.1f} GiB that may be taken; trying all the same"
            )
        self.tell(
            f"engine: {size}, {inputs.caps.shape[1]} caption tokens: {blocks - keep} of {blocks} blocks recompute"
            + (f", {min(results, blocks - keep)} of them all but their attention" if results and keep < blocks else "")
            + (f", {self._swapped} live in main memory" if self.swap else "")
        )

    def _prime(self, inputs: Inputs) -> None:
        """Compile for a batch that is always of the same size.

        Code for sizes that vary still depends on the first size that was seen, and a run that goes on in the middle
        sees another one first.
        """
        first = typical(inputs, self.model.config.axes_lens)
        key = graphs.shape_key(first.tensors)
        if self.options.deterministic and compiling.is_compiled(self.model) and key not in self._primed:
            graphs.warm_up(lambda: self._plain(first))
            self._primed.add(key)

    def _compare(self, hidden: Tensor, mask: Tensor | None, rotations: Tensor, *others: Any) -> None:
        """Compare a compiled block with the same uncompiled, once, on a few tokens.

        Raises:
            RuntimeError: they do not give the same.
        """
        resident = [block for block in self.model.layers if not (self.swap and block in self.swap.blocks)]
        if self._compared or self.adapter.network.dropout or not resident:
            return
        # Copies: to a compiler, parts of something larger are of another kind.
        few, turns = hidden[:, :COMPARED].clone(), rotations[:, :, :COMPARED].clone()
        found: list[float] = []

        def compare() -> None:
            with compiling.attention(self.options.cudnn_attention):
                found.append(compiling.likeness(resident[-1], few, mask, turns, *others))

        graphs.warm_up(compare)
        if not found[0] > ALIKE:
            raise RuntimeError(f"compiled blocks give something else than uncompiled ones, cosine {found[0]:.3f}")
        self._compared = True

    def _search_results(self, inputs: Inputs, limit: int, peak: int, result: int) -> tuple[int, int]:
        """How many blocks keep the ``result`` bytes of their attention within ``limit``, and the peak with them.

        They come first, for nothing else takes as long to compute for each byte.
        """
        each = result * (1 + len(inputs.terms))
        count = max(0, min(len(self.model.layers), (limit - peak) // each))
        while count:
            self.recompute.keep_results(count)
            try:
                used = self._peak(inputs)
            except torch.OutOfMemoryError:
                used = limit + each
            if used <= limit:
                return count, used
            count = max(0, count - math.ceil((used - limit) / each))
        self.recompute.keep_results(0)
        return 0, peak

    def _search(self, inputs: Inputs, limit: int, peak: int, kept: int, boundary: int) -> int:
        """The largest number of blocks that keep their activations within ``limit``, by trying.

        ``peak`` is what a step takes when all recompute; a block keeps ``kept`` bytes, ``boundary`` in any case.
        """
        blocks, passes = len(self.model.layers), 1 + len(inputs.terms)
        extra = max(passes * (kept - boundary), 1)
        # One more than the sum says: the first takes the place of the activations that are recomputed.
        keep = min(blocks, memory.blocks_to_keep(limit, peak, passes * kept, passes * boundary, blocks) + 1)
        growing = True
        while keep:
            self.recompute.keep(keep)
            try:
                used = self._peak(inputs)
            except torch.OutOfMemoryError:
                used = limit + extra
            if used <= limit:
                more = min(blocks - keep, (limit - used) // extra) if growing else 0
                if not more:
                    break
                keep += more
                continue
            growing = False
            seen = max(extra, (used - peak) // max(keep - 1, 1))
            keep = max(0, keep + (limit - used) // seen)  # rounded down: at least one less
        return keep

    def _peak(self, inputs: Inputs) -> int:
        """Bytes allocated at most in one step, with what others will allocate later."""
        self.note_peak()
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            graphs.warm_up(lambda: self._plain(inputs))
        finally:
            used = torch.cuda.max_memory_allocated(self.device)
            self.trial = max(self.trial, used)
            torch.cuda.reset_peak_memory_stats(self.device)
        return used + self.reserve()

    def note_peak(self) -> None:
        """Bring ``peak`` and ``reserved`` up to date: bytes at most since the beginning, but for trials of how much
        fits, which may go beyond the budget; ``trial`` is what those have taken. They reset torch's own numbers."""
        self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device))
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved(self.device))

    def _block_bytes(self, arguments: tuple) -> tuple[int, int]:
        """Bytes that one block keeps for its backward pass, its output included, and bytes of that output."""
        hidden, *others = arguments
        hidden = hidden.detach().requires_grad_()
        # What has a gradient in training has one here: a block keeps something for it, and is another to a compiler.
        others = [compiling.apart(a)[1] if isinstance(a, Tensor) and a.requires_grad else a for a in others]
        sizes = []

        def one() -> None:
            before = torch.cuda.memory_allocated(self.device)
            with compiling.attention(self.options.cudnn_attention):
                out = self.recompute.inner(-1)(hidden, *others)
            sizes.extend((torch.cuda.memory_allocated(self.device) - before, out.numel() * out.element_size()))

        graphs.warm_up(one)
        return sizes[0], sizes[1]

    def _drop_graphs(self) -> None:
        self._recorded.clear()
        self._pool = None
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()

    @property
    def _swapped(self) -> int:
        """How many blocks live in main memory."""
        return len(self.swap.blocks) if self.swap else 0

    def _can_swap(self) -> bool:
        return self._swapped < len(self.model.layers)

    def _step_down(self, key: Any) -> None:
        """Out of memory: record all shapes anew, then keep fewer activations, then swap more blocks, and say so.

        Recordings hold their memory, and trying out another shape takes as much again. If it was measured how many
        blocks are missing, as many are swapped and nothing else is tried.
        """
        kept, (missing, self._missing) = self.kept.get(key, 0), (self._missing, 0)
        if self._recorded and not missing:
            self._drop_graphs()
            self._drops[key] = self._drops.get(key, 0) + 1
            if self._drops[key] > 1 and kept:  # it will not fit beside the others the next time either
                self.kept[key] = kept - 1
        elif kept and not missing:
            self.kept[key] = kept // 2
            self.tell(f"engine: out of GPU memory; {kept // 2} instead of {kept} blocks keep their activations")
        elif self.results.get(key) and not missing:
            self.results[key] //= 2
            self.tell("engine: out of GPU memory; fewer blocks keep the result of their attention")
        elif self._can_swap():
            blocks = len(self.model.layers)
            self._begin_again(min(self._swapped + (missing or SWAP_STEP), blocks))
            self.tell(f"engine: out of GPU memory; {self._swapped} of {blocks} blocks live in main memory now")
        else:
            raise UserError(
                "the GPU's memory does not suffice even with every block in main memory: lower data.resolutions or "
                "train.batch_size, set quantization.transformer: nf4, or close other programs on the GPU"
            )

    def _fall_back(self, error: Exception) -> None:
        """Leave out what does not work here, with one line; raises what nothing can be done about."""
        if not (self._recording or self.compiled):
            raise error
        error.__traceback__ = error.__context__ = error.__cause__ = None  # they hold the tensors of the step
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
        if self._recording:
            self._recording = self.graphed = False
            self._drop_graphs()
            self.tell(f"engine: CUDA graphs do not work here, training on without ({reason})")
        else:
            self.compiled = False
            # A failed compilation may leave the tracer switched on for whatever checkpointing computes again.
            torch.compiler.set_stance("force_eager")
            self._begin_again(self._swapped)
            self.tell(f"engine: torch.compile does not work here, training on without ({reason})")


def versions(device: torch.device) -> dict[str, str]:
    """The device, and versions of what computes on it."""
    found = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        found |= {"device": torch.cuda.get_device_name(device), "cudnn": str(torch.backends.cudnn.version())}
        for package in ("triton", "nvidia-cudnn-frontend", "bitsandbytes"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[package] = metadata.version(package)
    return found


def typical(inputs: Inputs, lengths: Sequence[int]) -> Inputs:
    """A batch of zeros of a size that does not depend on that of ``inputs``, but with as many terms; and like it of one
    sample or of more. ``lengths`` are the most positions that the model has on each axis."""
    rows, columns = (min(TYPICAL_PATCHES, length) * forward.PATCH for length in lengths[1:])
    caption = min(TYPICAL_CAPTION, (lengths[0] - 2) // forward.TOKEN_MULTIPLE * forward.TOKEN_MULTIPLE)

    def few(tensor: Tensor, *shape: int) -> Tensor:
        return tensor.new_zeros(min(len(tensor), 2), *shape)

    return Inputs(
        *(few(x, x.shape[1], rows, columns) for x in (inputs.x0, inputs.noise)),
        *(few(x) for x in (inputs.sigma, inputs.weight)),
        few(inputs.caps, caption, inputs.caps.shape[2]),
        few(inputs.pad, caption, 1),
        tuple(
            Term(
                few(term.rows),
                few(term.caps, caption, term.caps.shape[2]),
                few(term.pad, caption, 1),
                term.multiplier,
            )
            for term in inputs.terms
        ),
    )


def _tokens(key: Any) -> int:
    """Tokens of all passes of a shape, to compare shapes by; ``key`` is in the order of ``Inputs.tensors``."""
    batch, _, height, width = key[0]
    image = height * width // forward.PATCH**2
    terms = sum(rows * (image + caption) for (rows,), (_, caption, _) in zip(key[6::3], key[7::3], strict=True))
    return batch * (image + key[4][1]) + terms
