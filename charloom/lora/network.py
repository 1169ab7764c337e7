"""Settings of the adapter: type, rank, alpha, modules."""

from __future__ import annotations

from dataclasses import dataclass

from charloom.config.knobs import setting_field


@dataclass(frozen=True)
class Network:
    """The adapter. ``modules`` is a preset or a list of regular expressions matched against module names."""

    type: str = setting_field("network.type")
    rank: int = setting_field("network.rank")
    alpha: float = setting_field("network.alpha")
    modules: str | tuple[str, ...] = setting_field("network.modules")
    dropout: float = setting_field("network.dropout")
    lokr_factor: int = setting_field("network.lokr_factor")
