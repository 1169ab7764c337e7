"""Third-party adapters: merging a training adapter permanently, loading LoRAs for sampling.

A merge that changes nothing is an error, because two trainers have silently shipped exactly that bug.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.kernels.linears import QuantizedLinear
from charloom.lora.files import AdapterFile, kronecker, read_adapter
from charloom.lora.modules import shape_of


@dataclass(frozen=True)
class MergeReport:
    """What a merge did: modules changed, Frobenius norm of the total change, rank, and the file's SHA-256."""

    modules: int
    delta_norm: float
    rank: int | None
    sha256: str
    names: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """Plain values for a JSON record."""
        return {**asdict(self), "names": list(self.names)}


class Merge:
    """Adds an adapter to weights one by one: ``W + B A alpha / rank`` in fp32, cast back once.

    ``model`` only says which weights there are; it may be on the meta device.

    Raises:
        UserError: unknown keys, modules that the model lacks, wrong shapes, or quantized weights.
    """

    def __init__(self, model: nn.Module, path: Path) -> None:
        self.path, self.adapter = path, read_adapter(path)
        self._linears = _match(model, self.adapter)
        for module, linear in self._linears.items():
            if _is_quantised(linear):
                raise UserError(f"{path}: {module} of the base is quantized; use full-precision weights")
        self._squares: dict[str, float] = {}

    @torch.no_grad()
    def merged(self, name: str, weight: Tensor) -> Tensor:
        """``weight``, which the model calls ``name``, with its part of the adapter added."""
        module = name.removesuffix(".weight")
        if module == name or module not in self._linears:
            return weight
        before = weight.float()
        after = self.adapter.apply(module, weight)
        self._squares[module] = float((after - before).double().square().sum())
        return after.to(weight.dtype)

    def report(self) -> MergeReport:
        """What was done.

        Raises:
            UserError: the norm of the change is zero, or some weight was never seen.
        """
        if unseen := [module for module in self._linears if module not in self._squares]:
            raise UserError(f"{self.path}: {unseen[0]} of the base was not read; get the base's files again")
        norm = math.sqrt(sum(self._squares[module] for module in self._linears))
        if not norm > 0 or not math.isfinite(norm):
            raise UserError(
                f"{self.path}: merging it changes the weights by {norm}: the file is empty or broken, get it again"
            )
        ranks = {self.adapter.rank(module) for module in self._linears}
        return MergeReport(
            len(self._linears),
            norm,
            ranks.pop() if len(ranks) == 1 else None,
            file_digest(self.path),
            tuple(sorted(self._linears)),
        )


@torch.no_grad()
def merge(model: nn.Module, path: Path) -> MergeReport:
    """Add an adapter to the weights of ``model`` in place; see :class:`Merge`.

    Raises:
        UserError: as :class:`Merge`, or a change of norm zero.
    """
    adding = Merge(model, path)
    for name, parameter in model.named_parameters():
        changed = adding.merged(name, parameter)
        if changed is not parameter:
            parameter.copy_(changed)
    return adding.report()


def _match(model: nn.Module, adapter: AdapterFile) -> dict[str, nn.Linear]:
    """The Linear for each module of the adapter, after checking shapes."""
    named = dict(model.named_modules())
    missing = [module for module in adapter.modules if not isinstance(named.get(module), nn.Linear)]
    if missing:
        raise UserError(
            f"{adapter.path}: {len(missing)} of {len(adapter.modules)} modules do not exist in the base, "
            f"e.g. {missing[0]}: it belongs to another model; take one made for this base"
        )
    linears = {module: named[module] for module in adapter.modules}
    for module, linear in linears.items():
        shape = shape_of(adapter.modules[module])
        # The stored shape of quantized weights differs.
        own = (linear.out_features, linear.in_features)
        if shape != own:
            raise UserError(
                f"{adapter.path}: {module} is made for a weight of {shape}, the base has {own}: "
                "it belongs to another model; take one made for this base"
            )
    return linears


def _is_quantised(linear: nn.Linear) -> bool:
    return not linear.weight.is_floating_point() or linear.weight.element_size() < 2


class LoadedLora:
    """A LoRA applied to a model; :meth:`remove` (or leaving the ``with`` block) restores the weights exactly."""

    def __init__(self, originals: dict[nn.Linear, Tensor], hooks: list, modules: int) -> None:
        self._originals = originals
        self._hooks = hooks
        self.modules = modules

    @torch.no_grad()
    def remove(self) -> None:
        """Remove the LoRA. Idempotent."""
        for linear, weight in self._originals.items():
            linear.weight.data = weight
        for hook in self._hooks:
            hook.remove()
        self._originals, self._hooks = {}, []

    def __enter__(self) -> LoadedLora:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()


Part = tuple[Path, float]
"""A LoRA file and its strength; 1 is full, 0 nothing."""


def load_into(model: nn.Module, path: Path, strength: float = 1.0) -> LoadedLora:
    """Apply one LoRA file to a stock transformer at ``strength``, for sampling; see :func:`load_stack`."""
    return load_stack(model, [(path, strength)])


@torch.no_grad()
def load_stack(model: nn.Module, parts: Sequence[Part]) -> LoadedLora:
    """Apply LoRA files to a stock transformer, each at a strength of its own, for sampling.

    Every weight changes by the sum of the changes of each file alone, as with diffusers' ``set_adapters``. The
    order of ``parts`` makes no difference, not even in the last bit (:func:`in_order`).

    fp32 weights are replaced by merged copies and the originals kept. With lower precision a merge would round the
    change away, and copies of large weights would not fit: there, a plain LoRA is added to the output of its Linear.
    DoRA and LoKr are merged, except on quantized weights, where they are added to the output as well. Further files can
    be loaded on top; remove them in reverse order.

    Raises:
        UserError: as :func:`merge`, but a LoRA of norm zero is allowed (as at step 0), and so are weights that were
            quantized by charloom.
    """
    adapters = in_order([(read_adapter(path), strength) for path, strength in parts])
    linears: dict[str, nn.Linear] = {}
    for adapter, _ in adapters:
        linears |= _match(model, adapter)
    originals: dict[nn.Linear, Tensor] = {}
    hooks = []
    for module, linear in linears.items():
        own = [(adapter, strength) for adapter, strength in adapters if module in adapter.modules]
        if isinstance(linear, QuantizedLinear):
            hooks.append(linear.register_forward_hook(_beside(own, module, linear, _working_dtype(model))))
            continue
        if _is_quantised(linear):
            where = own[0][0].path
            raise UserError(
                f"{where}: {module} of the base is quantized in a way that charloom does not know; "
                "name full-precision weights"
            )
        exact = linear.weight.dtype == torch.float32
        beside = [not exact and is_plain(adapter.modules[module]) for adapter, _ in own]
        merged = [one for one, is_beside in zip(own, beside, strict=True) if not is_beside]
        if merged:
            originals[linear] = weight = linear.weight.data
            (first, strength), *others = merged
            changed = first.apply(module, weight, strength)
            for adapter, strength in others:
                changed = changed + adapter.change(module, weight, strength)
            linear.weight.data = changed.to(weight.dtype)
        if added := [one for one, is_beside in zip(own, beside, strict=True) if is_beside]:
            like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
            hooks.append(linear.register_forward_hook(_adder(*side_by_side(added, module, **like))))
    return LoadedLora(originals, hooks, len(linears))


def in_order(adapters: Sequence[tuple[AdapterFile, float]]) -> list[tuple[AdapterFile, float]]:
    """Adapters with their strengths, in an order that depends on their tensors alone: sums are not associative."""
    if len(adapters) < 2:
        return list(adapters)
    return sorted(adapters, key=lambda one: (one[0].identity(), one[1]))


def is_plain(parts: Mapping[str, Tensor]) -> bool:
    """Whether a module is a plain LoRA, whose change is a product of two matrices and does not depend on the weight."""
    return "lora_A" in parts and "dora_scale" not in parts


def side_by_side(
    adapters: Sequence[tuple[AdapterFile, float]], module: str, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``down`` (ranks, in) and ``up`` (out, ranks) of a module's plain LoRAs; scales and strengths are in ``up``."""
    down = [adapter.modules[module]["lora_A"].to(device, dtype) for adapter, _ in adapters]
    up = [
        (adapter.modules[module]["lora_B"].float() * (adapter.scale(module) * strength)).to(device, dtype)
        for adapter, strength in adapters
    ]
    return torch.cat(down), torch.cat(up, dim=1)


def _adder(down: Tensor, up: Tensor):
    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(inputs[0].to(down.dtype), down), up)

    return add


def _beside(adapters: Sequence[tuple[AdapterFile, float]], module: str, linear: QuantizedLinear, dtype: torch.dtype):
    """A hook that adds adapters of any kind to the output of a quantized Linear; factors are kept in ``dtype``."""
    changes = [(_output_change(adapter, module, linear, dtype), strength) for adapter, strength in adapters]

    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, total = inputs[0].to(dtype), output
        for change, strength in changes:
            total = total + strength * change(x, output).to(output.dtype)
        return total

    return add


def _output_change(
    adapter: AdapterFile, module: str, linear: QuantizedLinear, dtype: torch.dtype
) -> Callable[[Tensor, Tensor], Tensor]:
    """What an adapter at full strength adds, from a Linear's input and its output without any adapter."""
    parts, device = adapter.modules[module], linear.weight.device
    plain = "lora_A" in parts
    a, b = (parts["lora_A"].float(), parts["lora_B"].float()) if plain else adapter.factors(module)
    a, b = a.to(device, dtype), (b * adapter.scale(module)).to(device, dtype)
    stretch = None
    if "dora_scale" in parts:
        changed = linear.dense() + adapter.delta(module).to(device)
        stretch = (parts["dora_scale"].float().to(device).flatten() / changed.norm(dim=1)).to(dtype)

    def change(x: Tensor, output: Tensor) -> Tensor:
        added = F.linear(F.linear(x, a), b) if plain else kronecker(x, a, b)
        if stretch is not None:
            bare = output if linear.bias is None else output - linear.bias
            added = (added + bare) * stretch - bare
        return added

    return change


def _working_dtype(model: nn.Module) -> torch.dtype:
    """The dtype that a model with quantized weights computes in: that of its other weights."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point() and p.element_size() > 1)
