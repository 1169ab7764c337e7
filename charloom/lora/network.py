"""Settings of the adapter: type, rank, alpha, modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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


def unmatched(modules: str | Sequence[str], names: Iterable[str]) -> list[str]:
    """The patterns in ``network.modules`` that match none of ``names``; empty for a preset."""
    named = list(names)
    patterns = () if isinstance(modules, str) else modules
    return [pattern for pattern in patterns if not any(re.search(pattern, name) for name in named)]
