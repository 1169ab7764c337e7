"""The engine: makes a stock transformer with an adapter fast and small by a few independent transformations.

On a GPU only, in this order; most have a switch in :class:`~charloom.engine.options.EngineOptions`:

1. float8 weights are multiplied on the GPU's fp8 units (:mod:`charloom.kernels.quantize`);
2. Linears that share an input are fused into one matrix product, and so are the modulations of all blocks (with swapped
   blocks only if ``deterministic``) (:mod:`charloom.engine.fuse`); queries and keys are normalized and rotated in one
   kernel (:mod:`charloom.kernels.rotary`);
3. blocks are compiled (:mod:`charloom.engine.compile`). With ``deterministic``, attention accumulates its gradients in
   a fixed order (:mod:`charloom.kernels.attention`) and the compiler chooses by rules instead of timings, so that the
   same run gives the same bytes;
4. the weights of some blocks live in main memory if the budget demands it (:mod:`charloom.engine.swap`);
5. as many blocks as the budget demands recompute their activations (:mod:`charloom.engine.recompute`) from what waits
   in main memory (:mod:`charloom.engine.offload`);
6. forward and backward pass are recorded as one CUDA graph per shape (:mod:`charloom.engine.graphs`).

:mod:`charloom.engine.fitting` finds out how much of 4 and 5 is needed. Whatever does not work on a machine (no
compiler, a failing capture) is left out with one log line, and a step that runs out of memory is retried with a lower
budget. The engine is independent of optimizers and data sets.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from charloom.core.errors import UserError
from charloom.engine import compile as compiling
from charloom.engine import fuse as fusing
from charloom.engine import graphs, memory
from charloom.engine.fitting import Fitting
from charloom.engine.inputs import Inputs, tokens_of
from charloom.engine.options import EngineOptions
from charloom.engine.recompute import Recompute
from charloom.engine.swap import Swap, move, spread
from charloom.engine.versions import versions
from charloom.kernels import attention as attentions
from charloom.kernels import quantize
from charloom.kernels.low_rank import missing
from charloom.lora.attach import Adapter
from charloom.zimage import forward

GRAPH_LIMIT = 32
"""Shapes beyond this many run without a graph: recording one costs seconds and some memory."""
FAILED = "does not work"
"""Recorded in :meth:`Engine.facts` for a part that was wanted and did not work."""
SWAP_STEP = 6
"""Blocks that move to main memory at a time when memory runs out and it is unknown how many are needed."""

Loss = Callable[[Callable[..., Tensor], Inputs], tuple[Tensor, Tensor]]
Log = Callable[[str], None]
"""Takes one line for the user."""


def is_gpu(device: torch.device) -> bool:
    """Whether the transformations apply on ``device``."""
    return device.type == "cuda"


class Engine:
    """Runs the adapted ``model`` on ``device``.

    Args:
        model: a stock transformer with ``adapter`` attached; it is modified until :meth:`remove`.
        adapter: the trained adapter.
        loss: ``loss(predict, inputs)`` returns the loss to differentiate and the plain loss per sample (B,).
        device: where it runs.
        options: budget and switches.
        reserve: bytes that others (the optimizer) will allocate later.
        largest: tokens of the largest batch, summed over all of its forward passes; None if unknown.
        log: takes one line for the user.
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
        log: Log = print,
    ) -> None:
        self.model, self.adapter, self.loss, self.device, self.log = model, adapter, loss, device, log
        self.options = options or EngineOptions()
        self.cuda = is_gpu(device)
        self.compiled = self.cuda and self.options.compile
        # Dropout in a block that recomputes needs the generator's state, which no graph can save.
        self.graphed = self.cuda and self.options.graphs and not adapter.network.dropout
        self.swap: Swap | None = None
        self.recompute: Recompute | None = None
        self._recorded: dict[Any, graphs.Recorded] = {}
        self._pool: Any = None
        self._recording = self._started = False
        self._random = bool(adapter.network.dropout)
        self._generators = [device] if self._random and device.type == "cuda" else []  # beside the CPU's
        self.attention: str | None = None
        self._attends = self.cuda
        self.before_restart: Callable[[], None] = lambda: None
        """Called before weights move, so that others release references to their memory."""
        self.when_settled: Callable[[], None] = lambda: None
        """Called once the first batch is done: by then memory is divided up, and most code compiled."""
        self.fitting = Fitting(model, adapter, device, self.options, reserve, largest, log)
        forward.prepare(model)
        if self.cuda:
            if self.device.type == "cuda" and (lacks := missing(self.device)):
                log(f"engine: Triton does not work here ({lacks}); rotations and adapters are slower")
            self._transform()
            for parameter in self._parameters:
                parameter.grad = torch.zeros_like(parameter)

    # -- transformations -------------------------------------------------------------------------------------

    def _transform(self, swapped: int = 0) -> None:
        model, blocks = self.model, list(self.model.layers)
        quantize.set_mode(model, quantize.best_mode(self.device) if self.options.fp8_units else "dequantize")
        swapped = max(swapped, self.fitting.swapped_at_least())
        if self.options.fuse:
            fusing.fuse(compiling.blocks_of(model))
        fixed = self.options.deterministic
        # One modulation per block sums in a different order; swapped and resident blocks must give the same bytes.
        batched = self.options.fuse and (fixed or not swapped) and fusing.can_batch_modulations(blocks)
        if batched and fixed:
            model.__dict__["modulations"] = fusing.Modulations(blocks, self.device)
        self.attention = self._best_attention()
        if self.attention:
            room = attentions.ROOM if swapped or not self.fitting.roomy() else attentions.MUCH_ROOM
            attentions.install(compiling.blocks_of(model), self.attention, fixed, room)
        if self.compiled:
            compiling.compile_blocks(model, self.options.cudnn_attention)
            compiling.choose_by_rule(fixed)
            # In fp32 there is no cast after the sum, so the torch 2.11 bug in mixed_order_reductions would bite: off.
            compiling.mixed_order_reductions(batched and blocks[0].attention_norm1.weight.dtype != torch.float32)
        if swapped:
            self.swap = Swap([blocks[i] for i in spread(len(blocks), swapped)], self.device)
        for block in compiling.blocks_of(model):
            if next(block.parameters()).device != self.device:
                move(block, self.device)
        model.to(self.device)
        if not swapped and self.fitting.roomy():
            for block in blocks:  # not the refiners: hardly any recipe adapts them, so no gradient needs the copies
                quantize.keep_transposed(block)
        if batched and not fixed:
            model.__dict__["modulations"] = fusing.Modulations(blocks)
        self.recompute = Recompute(blocks, random=bool(self.adapter.network.dropout))
        self.fitting.use(self.recompute, self.swap, self.attention)
        torch.cuda.empty_cache()  # fused weights were copied, which leaves gaps too small for anything else

    def _best_attention(self) -> str | None:
        """The kind of attention whose output can be kept; None for PyTorch's choice."""
        if self.device.type != "cuda" or not self._attends:
            return None
        attention, fixed = self.model.layers[0].attention, self.options.deterministic
        head_dim = attention.to_out[0].in_features // attention.heads
        dtype = self.model.layers[0].attention_norm1.weight.dtype
        kind = attentions.best_kind(self.device, dtype, head_dim, fixed, self.options.cudnn_attention)
        if kind is None and fixed:
            self.log("engine: no attention kernel here sums in a fixed order: repeated runs may give other bytes")
        return kind

    def remove(self) -> None:
        """Undo the transformations; the model runs as before."""
        if not self.cuda:
            return
        self.drop_graphs()
        self.recompute.remove()
        if self.swap:
            self.swap.remove()
            self.swap = None
        compiling.plain_blocks(self.model)
        attentions.remove(compiling.blocks_of(self.model))
        if batched := self.model.__dict__.pop("modulations", None):
            batched.remove()
        quantize.drop_transposed(self.model)
        self.fitting.use(None, None, None)

    def _restart(self, swapped: int = 0) -> None:
        self.before_restart()
        self.remove()
        self._transform(swapped)

    # -- running ---------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, t: Tensor, caps: Tensor, pad: Tensor) -> Tensor:
        """Raw output (B, C, h, w) of the adapted model, like :func:`charloom.zimage.forward.forward`."""
        with compiling.attention(self.cuda and self.options.cudnn_attention):
            return forward.forward(self.model, x, t, caps, pad)

    def zero_grad(self) -> None:
        """Begin an optimizer step: set the accumulated gradients to zero."""
        self._started = False
        if self.cuda:  # recorded graphs write to these very tensors
            torch._foreach_zero_([p.grad for p in self._parameters])
            return
        for parameter in self._parameters:
            parameter.grad = None

    def accumulate(self, inputs: Inputs) -> Tensor:
        """Add the gradients of a batch to the adapter's; returns the plain loss of each sample (B,).

        Raises:
            UserError: GPU memory does not suffice even with every measure to save it.
        """
        if not self.cuda:
            return self._plain(inputs)
        key = graphs.shape_key(inputs.tensors)
        # A new shape is tried out first, and anything but a recorded graph may run out of memory.
        before = self._copied_gradients() if self._started and key not in self._recorded else None
        self._started = True
        while True:
            try:
                # A failed attempt draws random numbers as well.
                with torch.random.fork_rng(self._generators, self._random, device_type="cuda"):
                    losses = self._accumulate(key, inputs, before)
                break
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
        settled, self.when_settled = self.when_settled, lambda: None
        settled()
        return losses

    def make_room(self, needed: int) -> None:
        """Free ``needed`` bytes of the budget between two steps; graphs that it drops are recorded again when used.

        Raises:
            torch.OutOfMemoryError: the budget has no such room.
        """
        if not self.cuda:
            return
        torch.cuda.empty_cache()
        allowed = memory.budget(self.options.limit, self.device)
        if self._recorded and torch.cuda.memory_reserved(self.device) + needed > allowed:
            self.drop_graphs()
        if (short := torch.cuda.memory_allocated(self.device) + needed - allowed) > 0:
            raise torch.OutOfMemoryError(f"{short / memory.GIB:.1f} GiB more than may be used")

    def facts(self) -> dict[str, Any]:
        """What the bytes of a run depend on besides its settings: the GPU, versions, and what did not work here.

        How much is recomputed or lives in main memory does not change a bit.
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
        offload = self.recompute.offload if self.recompute else None
        copies = [one for one in (self.swap, offload) if one]
        for one in copies:
            one.forget()
        try:
            # Around the backward pass too: recomputation must choose the same kernels.
            with compiling.attention(self.cuda and self.options.cudnn_attention):
                total, reported = self.loss(self.predict, inputs)
                self._backward(total)
        except BaseException:
            for one in copies:
                with contextlib.suppress(RuntimeError):  # from a broken capture; the first error says more
                    one.join()
                one.forget()
            raise
        for one in copies:
            one.join()
        return reported

    def _backward(self, total: Tensor) -> None:
        """Add the gradients of ``total`` to the parameters'."""
        if not self.cuda:
            total.backward()
            return
        # One fused addition instead of one per parameter (hundreds).
        parameters = self._parameters
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        pairs = [(p.grad, gradient) for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
        # One non-contiguous gradient makes _foreach_add_ fall back to a loop.
        torch._foreach_add_([own for own, _ in pairs], [gradient.contiguous() for _, gradient in pairs])

    def _accumulate(self, key: Any, inputs: Inputs, before: list[Tensor] | None) -> Tensor:
        if key not in self.fitting.kept:
            with torch.random.fork_rng(self._generators, device_type="cuda"):
                if self._recorded and self.fitting.crowded(key):
                    self.drop_graphs()
                self.fitting.measure(key, inputs, self._plain)
            self._reset_gradients(before)
        self.fitting.apply(key)
        if not self.graphed or (key not in self._recorded and len(self._recorded) >= GRAPH_LIMIT):
            return self._plain(inputs)
        if key not in self._recorded:
            largest = max(map(tokens_of, self._recorded), default=math.inf)
            if tokens_of(key) > largest and self.fitting.crowded(key):
                self.drop_graphs()  # graphs recorded after the largest reuse its pool; before it, they add up
            self._record(key, inputs)
        return self._recorded[key](*inputs.tensors)[0].clone()

    def _copied_gradients(self) -> list[Tensor]:
        with contextlib.suppress(torch.OutOfMemoryError):
            return [p.grad.clone() for p in self._parameters]
        self.drop_graphs()
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
                self._pool = None  # no graph holds it, so it cannot be reused
            raise
        self._recording = False

    def drop_graphs(self) -> None:
        """Free the memory of recorded graphs between two steps; each is recorded again when needed."""
        self._recorded.clear()
        self._pool = None
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()

    # -- when something goes wrong ---------------------------------------------------------------------------

    def _step_down(self, key: Any) -> None:
        """Out of memory: first drop all recorded graphs, then keep fewer activations, then swap more blocks.

        Graphs hold their memory, and a trial of another shape needs as much again. If a trial measured how many blocks
        must move to main memory, exactly these do and nothing else is tried.
        """
        missing = self.fitting.missing()
        if self._recorded and not missing:
            self.drop_graphs()
            self.fitting.dropped(key)
        elif not missing and self.fitting.lower(key):
            pass
        elif self.fitting.can_swap:
            blocks = len(self.model.layers)
            self._restart(min(self.fitting.swapped + (missing or SWAP_STEP), blocks))
            self.log(f"engine: out of GPU memory; {self.fitting.swapped} of {blocks} blocks live in main memory now")
        else:
            raise UserError(
                "the GPU's memory does not suffice even with every block in main memory: lower data.resolutions or "
                "train.batch_size, set quantization.transformer: nf4, or close other programs on the GPU"
            )

    def _fall_back(self, error: Exception) -> None:
        """Leave out the part that failed, with one log line; raises ``error`` if no part is to blame."""
        attends = self.attention is not None and not self.options.deterministic
        if not (self._recording or self.compiled or attends):
            raise error
        error.__traceback__ = error.__context__ = error.__cause__ = None  # they keep the tensors of the step alive
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
        if self._recording:
            self._recording = self.graphed = False
            self.drop_graphs()
            self.log(f"engine: CUDA graphs do not work here, continuing without ({reason})")
        elif self.compiled:
            self.compiled = False
            # A failed compilation may leave Dynamo active for what checkpointing recomputes.
            torch.compiler.set_stance("force_eager")
            self._restart(self.fitting.swapped)
            self.log(f"engine: torch.compile does not work here, continuing without ({reason})")
        else:
            self._attends = False
            self._restart(self.fitting.swapped)
            self.log(f"engine: the chosen attention does not work here, continuing with PyTorch's ({reason})")
