"""Settings of the adapter: type, rank, alpha, modules."""

from __future__ import annotations

from dataclasses import dataclass

from charloom.config.knobs import _knob


@dataclass(frozen=True)
class Network:
    """The adapter. ``modules`` is a preset or a list of regular expressions matched against module names."""

    type: str = _knob("network.type")
    rank: int = _knob("network.rank")
    alpha: float = _knob("network.alpha")
    modules: str | tuple[str, ...] = _knob("network.modules")
    dropout: float = _knob("network.dropout")
    lokr_factor: int = _knob("network.lokr_factor")
