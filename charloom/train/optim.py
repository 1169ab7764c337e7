"""Optimizers and learning rates.

The optimizers come from well-maintained libraries, wrapped in one interface: built by name, with their state as a flat
dictionary of tensors plus plain numbers, so that it can be stored without pickle and restored exactly. The learning
rate is a pure function of the step.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from charloom.config import packages
from charloom.core.errors import UserError
from charloom.train.settings import Optimisation

ADAM_EPS = 1e-6
"""ai-toolkit's epsilon; torch's default of 1e-8 would amplify updates of nearly unused LoRA rows."""


def build(
    settings: Optimisation, parameters: Mapping[str, nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer of the recipe over named parameters.

    ``adamw8bit`` (bitsandbytes) needs CUDA and becomes plain AdamW elsewhere, with one warning.

    Raises:
        UserError: a missing library, with the command that installs it.
    """
    values = list(parameters.values())
    lr, decay = settings.lr, settings.weight_decay
    name = settings.optimizer
    if name == "adamw8bit" and device.type != "cuda":
        warnings.warn("optimizer adamw8bit needs a CUDA GPU: training with plain adamw instead", stacklevel=2)
        name = "adamw"
    if name == "adamw":
        fused = device.type == "cuda"
        return torch.optim.AdamW(values, lr=lr, weight_decay=decay, eps=ADAM_EPS, foreach=not fused, fused=fused)
    if name == "adamw8bit":
        adamw8bit = _library("bitsandbytes.optim", "AdamW8bit", name)
        # It launches a kernel per tensor, and an adapter has hundreds.
        return _without_waiting(adamw8bit)([flatten(values)], lr=lr, weight_decay=decay, eps=ADAM_EPS)
    if name == "adafactor":
        adafactor = _library("transformers.optimization", "Adafactor", name)
        return adafactor(
            values, lr=lr, weight_decay=decay, scale_parameter=False, relative_step=False, warmup_init=False
        )
    if name == "prodigy":
        prodigy = _library("prodigyopt", "Prodigy", name)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
            return prodigy(values, lr=lr, weight_decay=decay, eps=ADAM_EPS)
    if name == "lion":
        lion = _library("lion_pytorch", "Lion", name)
        return lion(values, lr=lr, weight_decay=decay)
    raise ValueError(f"unknown optimizer {name!r}")


def _without_waiting(library: Any) -> Callable[..., torch.optim.Optimizer]:
    """A subclass of a bitsandbytes optimizer without the wait after each parameter, which only paged ones need."""

    class Optimizer(library):  # type: ignore[misc]
        initialized: bool

        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            if not self.initialized:
                self.check_overrides()
                self.to_gpu()
                self.initialized = True
            for i, group in enumerate(self.param_groups):
                for j, parameter in enumerate(group["params"]):
                    if parameter.grad is None:
                        continue
                    if not self.state[parameter]:
                        self.init_state(group, parameter, i, j)
                    self.update_step(group, parameter, i, j)

    return Optimizer


FLAT = "flat"
FLAT_ALIGNMENT = 256
"""Elements per block of bitsandbytes' quantized state; alignment keeps blocks from spanning two tensors."""


@torch.no_grad()
def flatten(parameters: list[nn.Parameter]) -> nn.Parameter:
    """One flat parameter; all ``parameters`` and their gradients become views of it.

    For elementwise optimizers. The gaps between tensors stay zero.
    """
    starts, end = [], 0
    for parameter in parameters:
        starts.append(end)
        end += -(-parameter.numel() // FLAT_ALIGNMENT) * FLAT_ALIGNMENT
    flat = nn.Parameter(torch.zeros(end, dtype=parameters[0].dtype, device=parameters[0].device))
    flat.grad = torch.zeros_like(flat)
    for parameter, start in zip(parameters, starts, strict=True):
        place = slice(start, start + parameter.numel())
        flat.data[place] = parameter.data.flatten()
        if parameter.grad is not None:
            flat.grad[place] = parameter.grad.flatten()
        parameter.data = flat.data[place].view(parameter.shape)
        parameter.grad = flat.grad[place].view(parameter.shape)
    return flat


def _library(module: str, attribute: str, name: str) -> Callable[..., torch.optim.Optimizer]:
    try:
        found: Callable[..., torch.optim.Optimizer] = getattr(__import__(module, fromlist=[attribute]), attribute)
        return found
    except ImportError:
        package = packages.OPTIMIZERS.get(name, module.partition(".")[0])
        raise UserError(
            f"recipe key train.optimizer is {name}, which needs the package {package}: pip install {package}"
        ) from None


def state_bytes(settings: Optimisation, parameters: list[nn.Parameter]) -> int:
    """Estimated bytes of the optimizer's state."""
    each = {"adamw8bit": 2.1, "adamw": 8, "lion": 4, "prodigy": 16, "adafactor": 0.1}[settings.optimizer]
    return int(each * sum(p.numel() for p in parameters))


def allocated_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the state tensors that an optimizer has allocated so far."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


def learning_rate(settings: Optimisation, step: int) -> float:
    """Learning rate of update ``step`` (from 1): linear warm-up, then constant or decaying towards 0.

    The last update still has a rate above 0. ``linear`` is 1 - p and ``cosine`` (1 + cos(pi p)) / 2, where p is
    the fraction of the steps after the warm-up that is done.
    """
    warmup = settings.warmup_steps
    if step <= warmup:
        return settings.lr * step / warmup
    progress = (step - 1 - warmup) / max(settings.steps - warmup, 1)
    if settings.lr_scheduler == "constant":
        return settings.lr
    if settings.lr_scheduler == "linear":
        return settings.lr * max(1.0 - progress, 0.0)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def state_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors called ``<parameter>|<entry>`` and plain values for a JSON header.

    ``names`` are the parameters' names in the order in which the optimizer got them. Entries of the parameter group
    that change during training (such as Prodigy's estimates) are among the plain values. The state of a flattened
    parameter is named ``flat``.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {"state": {}, "group": {}}
    (group,) = optimizer.param_groups
    for name, parameter in _named(group["params"], names).items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}|{entry}"] = value.detach().cpu().clone()
            else:
                values["state"].setdefault(name, {})[entry] = _json(value, entry)
    for entry, value in group.items():
        if isinstance(value, Tensor):
            tensors[f"|{entry}"] = value.detach().cpu().clone()
        elif entry not in ("params", "lr") and isinstance(value, bool | int | float) and math.isfinite(value):
            values["group"][entry] = value  # a value that is not finite is a limit set in the constructor
    return tensors, values


def _named(parameters: list[Tensor], names: list[str]) -> dict[str, Tensor]:
    flat = len(parameters) == 1 != len(names)
    return dict(zip([FLAT] if flat else names, parameters, strict=True))


def _json(value: Any, entry: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"optimizer entry {entry} of type {type(value).__name__} cannot be stored")


def restore(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Restore exactly what :func:`state_tensors` returned.

    ``load_state_dict`` is avoided: it casts state to the dtype of its parameter.
    """
    (group,) = optimizer.param_groups
    parameters = _named(group["params"], names)
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, entry = key.rsplit("|", 1)
        if not name:
            group[entry] = tensor.clone()
            continue
        # Step counters of torch's optimizers are on the CPU unless fused; everything else is on the parameter's device.
        counter = entry == "step" and not group.get("fused")
        device = torch.device("cpu") if counter else parameters[name].device
        optimizer.state[parameters[name]][entry] = tensor.to(device, copy=True)
    for name, entries in values["state"].items():
        optimizer.state[parameters[name]].update(entries)
    group.update(values["group"])
