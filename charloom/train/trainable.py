"""What an update changes: the adapter's parameters, the state of their optimizer and their running mean (EMA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from charloom.lora.attach import Adapter
from charloom.train import optim
from charloom.train.ranks import Ranks, Sums
from charloom.train.settings import Optimisation
from charloom.train.state import State


class Trainable:
    """The parameters of ``adapter``, by name and in one order, and all that is kept for them.

    The optimizer comes with :meth:`begin`: the engine is built before it, and asks :meth:`reserve` how much memory to
    leave. ``sums`` adds up the gradients of several ranks; None for a single process.
    """

    def __init__(self, adapter: Adapter, settings: Optimisation, ranks: Ranks) -> None:
        self.names, self.parameters = list(adapter.parameters), list(adapter.parameters.values())
        self.sums: Sums | None = None
        self._adapter, self._settings, self._ranks = adapter, settings, ranks
        self._optimizer: torch.optim.Optimizer | None = None
        self._ema: list[Tensor] = []

    def begin(self, device: torch.device) -> None:
        """Build the optimizer, and start the running mean at the parameters as they are."""
        self._optimizer = optim.build(self._settings, self._adapter.parameters, device)
        self.sums = self._ranks.sums(self.parameters)
        self._ema = [p.detach().clone() for p in self.parameters] if self._settings.ema else []

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer over all parameters."""
        assert self._optimizer is not None, "begin() builds it"
        return self._optimizer

    def reserve(self) -> int:
        """Bytes that the optimizer and the sums have not allocated yet, but will."""
        expected = optim.state_bytes(self._settings, self.parameters)
        exchange = 0 if self.sums else self._ranks.room(self.parameters)
        return exchange + max(0, expected - (optim.allocated_bytes(self._optimizer) if self._optimizer else 0))

    def update(self, lr: float) -> None:
        """One step of the optimizer, with the gradients that the parameters hold."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()

    def average(self) -> None:
        """Move the running mean towards the parameters."""
        if self._ema and self._settings.ema:
            torch._foreach_lerp_(self._ema, [p.detach() for p in self.parameters], 1.0 - self._settings.ema)

    def exported(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the running mean if there is one, else the parameters."""
        return dict(zip(self.names, self._ema or self.parameters, strict=True))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copies of everything on the CPU, as the tensors of a state, and the optimizer's plain values."""
        here: dict[str, Tensor] = {f"adapter|{name}": p for name, p in zip(self.names, self.parameters, strict=True)}
        if self._ema:
            here |= {f"ema|{name}": p for name, p in zip(self.names, self._ema, strict=True)}
        tensors = {name: p.detach().cpu().clone() for name, p in here.items()}
        entries, values = optim.state_tensors(self.optimizer, self.names)
        return tensors | {f"optimizer|{name}": tensor for name, tensor in entries.items()}, values

    @torch.no_grad()
    def restore(self, earlier: State) -> None:
        """Become exactly what :meth:`state` has returned."""
        for index, name in enumerate(self.names):
            self.parameters[index].copy_(earlier.tensors[f"adapter|{name}"])
            if self._ema:
                self._ema[index].copy_(earlier.tensors[f"ema|{name}"])
        entries = {k.removeprefix("optimizer|"): v for k, v in earlier.tensors.items() if k.startswith("optimizer|")}
        optim.restore(self.optimizer, self.names, entries, earlier.values["optimizer"])
