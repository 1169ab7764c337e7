"""Keeps Python's garbage collector away from what is not garbage. Standard library only.

Loading torch, diffusers and PEFT creates 400,000 objects, and the collector walks through all of them again and again:
a fifth of the loading time, in each process that computes.
"""

from __future__ import annotations

import gc

SELDOM = 1000
"""Collections of the middle generation per full collection; Python's default is 10."""


def while_loading() -> None:
    """Collect young objects as usual, old ones hardly ever."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, SELDOM)


def loaded() -> None:
    """Collect as usual again, but never look at what exists by now: libraries."""
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 10)
