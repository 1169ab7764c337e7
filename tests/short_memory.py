"""A GPU that is too small, played on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def failing(function: Callable[..., Any], fits: Callable[..., bool], calls: list[Any]) -> Callable[..., Any]:
    """``function`` on a GPU whose memory only holds what ``fits``; ``calls`` collects whether it did."""

    def called(*arguments: Any, **named: Any) -> Any:
        calls.append(fits(*arguments))
        if not calls[-1]:
            raise torch.OutOfMemoryError("fake: out of memory")
        return function(*arguments, **named)

    return called
