"""Fitting a training step into the memory budget: estimates before anything has run, then trials of each shape.

The result is how many blocks of the model live in main memory, how many of the others keep their activations, and how
many of those that recompute keep at least the output of their attention. Changing the model accordingly is up to
:class:`charloom.engine.engine.Engine`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from charloom.engine import borrow, graphs, memory
from charloom.engine import compile as compiling
from charloom.engine.inputs import Inputs, hardly_larger, tokens_of, typical
from charloom.engine.offload import SLACK, Offload, spare
from charloom.engine.options import EngineOptions
from charloom.engine.recompute import Recompute
from charloom.engine.swap import SLOTS, Swap, size_of
from charloom.kernels import attention as attentions
from charloom.lora.attach import Adapter

COMPARED = 256
"""Tokens on which a compiled block is compared with an uncompiled one."""
ALIKE = 0.97
"""Lowest acceptable cosine between their results; compiled code rounds a few float8 values differently."""
TRANSPOSE_WORTH = 0.85
"""Transposed copies of the weights are kept only if this share of the largest shape's activations still fits."""


class Fitting:
    """What is known about the memory use of ``model`` on ``device``.

    Args:
        model: the transformer with its adapter.
        adapter: the trained adapter.
        device: the GPU.
        options: budget and switches.
        reserve: bytes that others (the optimizer) will allocate later.
        largest: tokens of the largest batch, summed over all of its forward passes; None if unknown.
        log: takes one line.

    Attributes:
        kept: blocks that keep their activations, by shape.
        results: additional blocks that keep the output of their attention, by shape.
        offloads: shapes at which both that output and the input of blocks that recompute wait in main memory.
        peak: most bytes allocated so far, trials excluded: those may exceed the budget.
        reserved: most bytes reserved so far.
        trial: most bytes allocated in a trial.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        device: torch.device,
        options: EngineOptions,
        reserve: Callable[[], int],
        largest: int | None,
        log: Callable[[str], None],
    ) -> None:
        self.model, self.adapter, self.device, self.options = model, adapter, device, options
        self.reserve, self.largest, self.log = reserve, largest, log
        self.recompute: Recompute | None = None
        self.swap: Swap | None = None
        self.attention: str | None = None
        self.kept: dict[Any, int] = {}
        self.results: dict[Any, int] = {}
        self.offloads: set[Any] = set()
        self.peak = self.reserved = self.trial = 0
        self._tried: list[Any] = []
        self._drops: dict[Any, int] = {}
        self._compared = False
        self._missing = 0
        self._offload: Offload | None = None
        self._may_offload = options.offload
        self._primed: set[Any] = set()

    def use(self, recompute: Recompute | None, swap: Swap | None, attention: str | None) -> None:
        """Take note of how the model runs from now on; earlier measurements no longer apply."""
        self.recompute, self.swap, self.attention = recompute, swap, attention
        self._close()
        self.kept.clear()
        self.results.clear()
        self.offloads.clear()
        self._tried.clear()

    def apply(self, key: Any) -> None:
        """Set up the blocks as found for the shape ``key``."""
        self.recompute.keep(self.kept[key])
        self.recompute.keep_results(self.results.get(key, 0))
        self.recompute.offload = self._offload if key in self.offloads else None

    # -- estimates -------------------------------------------------------------------------------------------

    def fixed(self) -> int:
        """Bytes of all weights, of the adapter with its gradients, and of what others will allocate."""
        return self._weights() + sum(8 * p.numel() for p in self.adapter.parameters.values()) + self.reserve()

    def _weights(self) -> int:
        modulations = self.model.__dict__.get("modulations")
        return sum(map(size_of, compiling.blocks_of(self.model))) + (modulations.weight.nbytes if modulations else 0)

    def _outputs(self, tokens: int) -> int:
        """Bytes of the outputs of all blocks for so many tokens; their attentions' outputs take as much."""
        each = self.model.config.dim * self.model.layers[0].attention_norm1.weight.element_size()
        return len(self.model.layers) * each * tokens

    def swapped_at_least(self) -> int:
        """Blocks that must live in main memory from the start, by the recipe or by the budget."""
        blocks = list(self.model.layers)
        wanted = len(blocks) // 2 if self.options.layer_offloading else 0
        room = memory.budget(self.options.limit, self.device) - memory.UNSEEN
        # Activations need some room as well; how much exactly is measured later.
        largest = self.largest or 0
        working, outputs = memory.WORKING_BYTES * self.model.config.dim * largest, self._outputs(largest)
        if largest and not wanted and self.fixed() + working <= room and 2 * outputs + SLACK <= self._spare():
            return 0
        least = self.fixed() + max(3 * size_of(blocks[0]), working + outputs)
        return max(wanted, memory.blocks_to_swap(room, least, size_of(blocks[0]), SLOTS, len(blocks)))

    def roomy(self) -> bool:
        """Whether transposed copies of float8 weights fit, and leave room for most activations."""
        if self.largest is None or not self.options.fp8_units:
            return False
        needed = 2 * self.fixed() + int(TRANSPOSE_WORTH * self._activations(self.largest))
        return needed <= memory.budget(self.options.limit, self.device)

    def crowded(self, key: Any) -> bool:
        """Whether the memory of recorded graphs leaves too little for a trial of the shape ``key``."""
        torch.cuda.empty_cache()  # release cached blocks first
        return memory.crowded(self.options.limit, self.device, self._activations(tokens_of(key)))

    def _activations(self, tokens: int) -> int:
        """Estimate of the bytes that all blocks keep for so many tokens."""
        return memory.ACTIVATION_BYTES * self.model.config.dim * tokens * len(self.model.layers)

    # -- trials ----------------------------------------------------------------------------------------------

    def measure(self, key: Any, inputs: Inputs, run: Callable[[Inputs], object]) -> None:
        """Try out the shape ``key`` of ``inputs`` and set :attr:`kept` and :attr:`results` for it.

        ``run`` does a forward and a backward pass and may be called any number of times.

        Raises:
            torch.OutOfMemoryError: more blocks must live in main memory; :meth:`missing` says how many.
            RuntimeError: compiled blocks give other results than uncompiled ones.
        """
        step, passes = functools.partial(run, inputs), 1 + len(inputs.terms)
        # Trials take seconds, and pictures of many shapes have about as many tokens.
        if (like := hardly_larger(key, self._tried)) is not None:
            self.kept[key], self.results[key] = self.kept[like], self.results[like]
            if like in self.offloads:
                self.offloads.add(key)
            self.apply(key)
            try:
                graphs.warm_up(step)
                return self._say(key, inputs)
            except torch.OutOfMemoryError:
                del self.kept[key]
                self.offloads.discard(key)
        allowed, blocks = memory.budget(self.options.limit, self.device), len(self.model.layers)
        limit = allowed - memory.UNSEEN
        self.recompute.keep(0)
        self.recompute.offload = offload = self._offload_for(tokens_of(key))
        self.recompute.keep_results(results := blocks if offload and self.attention else 0)
        self._prime(inputs, run)
        seen: list[tuple] = []

        def look(_: nn.Module, arguments: tuple) -> None:
            if not seen:
                seen.append(arguments)

        hook = self.model.layers[-1].register_forward_pre_hook(look)
        try:
            graphs.warm_up(step)  # compiles
        finally:
            hook.remove()
        # Nothing may hold on to the arguments of a block, which hold an autograd graph, while memory is measured.
        arguments = seen.pop()
        if compiling.is_compiled(self.model):
            self._compare(*arguments)
        kept, boundary = (0, 0) if self.swap else self._block_bytes(arguments)
        result = attentions.bytes_of(arguments[0], self.model.layers[0].attention.heads)
        del arguments
        peak = self._peak(step)
        if peak > limit and self.can_swap:
            each, slots = size_of(self.model.layers[0]), 0 if self.swap else SLOTS
            # Nothing else waits in main memory then.
            back = self._outputs(tokens_of(key)) if offload else 0
            self._missing = memory.blocks_to_swap(limit, peak + back, each, slots, blocks)
            raise torch.OutOfMemoryError(f"{peak / memory.GIB:.2f} GiB at {allowed / memory.GIB:.2f} GiB")
        keep = 0
        if not self.swap:
            if self.attention and not offload:
                results, peak = self._search_results(step, passes, limit, peak, result)
            here = 0 if offload else boundary + result * bool(results)
            keep = self._search(step, passes, limit, peak, kept, here)
        if offload and keep < blocks:
            self.offloads.add(key)
        elif not self.offloads:
            self._close()
        self.kept[key], self.results[key] = keep, results
        self._tried.append(key)
        if peak > limit:
            self.log(
                f"engine: {inputs.size} needs {peak / memory.GIB:.1f} GiB of GPU memory even with every block in main "
                f"memory, more than the {allowed / memory.GIB:.1f} GiB that may be used; trying anyway"
            )
        self._say(key, inputs)

    def _say(self, key: Any, inputs: Inputs) -> None:
        blocks, results = len(self.model.layers), self.results[key]
        again = blocks - self.kept[key]
        self.log(
            f"engine: {inputs.size}, {inputs.caps.shape[1]} caption tokens: {again} of {blocks} blocks recompute"
            + (" from main memory" if key in self.offloads else "")
            + (f", {min(results, again)} of them all but their attention" if results and again else "")
            + (f", {self.swapped} live in main memory" if self.swap else "")
        )

    def note_peak(self) -> None:
        """Update :attr:`peak` and :attr:`reserved`. To be called before torch's own peaks are reset, as trials do."""
        self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device))
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved(self.device))

    def _prime(self, inputs: Inputs, run: Callable[[Inputs], object]) -> None:
        """Compile for a batch that always has the same size.

        Code for dynamic sizes still depends on the first size seen, and a resumed run sees another one first.
        """
        first = typical(inputs, self.model.config.axes_lens)
        key = graphs.shape_key(first.tensors)
        if self.options.deterministic and compiling.is_compiled(self.model) and key not in self._primed:
            graphs.warm_up(functools.partial(run, first))
            self._primed.add(key)

    def _compare(self, hidden: Tensor, mask: Tensor | None, rotations: Tensor, *others: Any) -> None:
        """Compare a compiled block with the same block uncompiled, once, on a few tokens.

        Raises:
            RuntimeError: their results differ.
        """
        resident = [block for block in self.model.layers if not (self.swap and block in self.swap.blocks)]
        if self._compared or self.adapter.network.dropout or not resident:
            return
        # Copies, because Dynamo would compile once more for views.
        few, turns = hidden[:, :COMPARED].clone(), rotations[:, :, :COMPARED].clone()
        found: list[float] = []

        def compare() -> None:
            with compiling.attention(self.options.cudnn_attention):
                found.append(compiling.likeness(resident[-1], few, mask, turns, *others))

        graphs.warm_up(compare)
        if not found[0] > ALIKE:
            raise RuntimeError(f"compiled blocks give other results than uncompiled ones, cosine {found[0]:.3f}")
        self._compared = True

    def _spare(self) -> int:
        """Bytes of main memory that activations may use; space for two copies of the weights is left for previews."""
        left = max(0, 2 * self._weights() - borrow.held()) + borrow.SPARE
        return spare(left) if self._may_offload else 0

    def _offload_for(self, tokens: int) -> Offload | None:
        """Main memory for the inputs and attention outputs of all blocks at so many tokens; None if too little."""
        needed, most = (2 * self._outputs(count) + SLACK for count in (tokens, max(tokens, self.largest or 0)))
        if self.swap or self.roomy():  # the copies of swapped blocks need the bus; or hardly anything recomputes
            return None
        if self._offload is None and needed <= (room := self._spare()):
            made = Offload(self.device, min(most, room))
            self._offload, self._may_offload = (made, True) if made.usable else (None, False)
        return self._offload if self._offload and needed <= self._offload.buffer.nbytes else None

    def _close(self) -> None:
        """Give main memory back."""
        if self._offload:
            self._offload.close()
            self._offload = None

    def _search_results(
        self, step: Callable[[], object], passes: int, limit: int, peak: int, result: int
    ) -> tuple[int, int]:
        """How many blocks can keep their attention's output, ``result`` bytes, within ``limit``; and the peak then.

        These come first: nothing else takes as long to recompute per byte.
        """
        each = result * passes
        count = max(0, min(len(self.model.layers), (limit - peak) // each))
        while count:
            self.recompute.keep_results(count)
            try:
                used = self._peak(step)
            except torch.OutOfMemoryError:
                used = limit + each
            if used <= limit:
                return count, used
            count = max(0, count - math.ceil((used - limit) / each))
        self.recompute.keep_results(0)
        return 0, peak

    def _search(self, step: Callable[[], object], passes: int, limit: int, peak: int, kept: int, boundary: int) -> int:
        """The largest number of blocks that can keep their activations within ``limit``, found by trials.

        ``peak`` is the peak of a step in which all blocks recompute; a block keeps ``kept`` bytes, ``boundary`` of
        them in any case.
        """
        blocks = len(self.model.layers)
        extra = max(passes * (kept - boundary), 1)
        # One more than calculated: the first takes the place of the activations being recomputed.
        keep = min(blocks, memory.blocks_to_keep(limit, peak, passes * kept, passes * boundary, blocks) + 1)
        growing = True
        while keep:
            self.recompute.keep(keep)
            try:
                used = self._peak(step)
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

    def _peak(self, step: Callable[[], object]) -> int:
        """Peak bytes allocated in one step, plus what others will allocate later."""
        self.note_peak()
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            graphs.warm_up(step)
        finally:
            used = torch.cuda.max_memory_allocated(self.device)
            self.trial = max(self.trial, used)
            torch.cuda.reset_peak_memory_stats(self.device)
        return used + self.reserve()

    def _block_bytes(self, arguments: tuple) -> tuple[int, int]:
        """Bytes that one block keeps for its backward pass, its output included, and bytes of that output."""
        hidden, *others = arguments
        hidden = hidden.detach().requires_grad_()
        # Keep requires_grad as in training: it changes what a block saves and how it is compiled.
        others = [compiling.like_input(a)[1] if isinstance(a, Tensor) and a.requires_grad else a for a in others]
        sizes = []

        def one() -> None:
            before = torch.cuda.memory_allocated(self.device)
            with compiling.attention(self.options.cudnn_attention):
                out = self.recompute.inner(-1)(hidden, *others)
            sizes.extend((torch.cuda.memory_allocated(self.device) - before, out.numel() * out.element_size()))

        graphs.warm_up(one)
        return sizes[0], sizes[1]

    # -- less memory -----------------------------------------------------------------------------------------

    @property
    def swapped(self) -> int:
        """How many blocks live in main memory."""
        return len(self.swap.blocks) if self.swap else 0

    @property
    def can_swap(self) -> bool:
        """Whether more blocks can move to main memory."""
        return self.swapped < len(self.model.layers)

    def missing(self) -> int:
        """How many more blocks the last trial wants in main memory, 0 if unknown; reset by this call."""
        missing, self._missing = self._missing, 0
        return missing

    def dropped(self, key: Any) -> None:
        """Take note that recorded graphs were dropped because a step of shape ``key`` ran out of memory."""
        kept = self.kept.get(key, 0)
        self._drops[key] = self._drops.get(key, 0) + 1
        if self._drops[key] > 1 and kept:  # it will not fit beside the others next time either
            self.kept[key] = kept - 1

    def lower(self, key: Any) -> bool:
        """Let fewer blocks keep activations at shape ``key``, and say so; False if none keeps any."""
        if kept := self.kept.get(key, 0):
            self.kept[key] = kept // 2
            self.log(f"engine: out of GPU memory; {kept // 2} instead of {kept} blocks keep their activations")
        elif self.results.get(key) and key not in self.offloads:
            self.results[key] //= 2
            self.log("engine: out of GPU memory; fewer blocks keep the output of their attention")
        else:
            return False
        return True
