"""Python's garbage collector, kept away from what is not garbage. Standard library only.

Loading torch, diffusers and PEFT makes 400,000 objects, and the collector walks through all of them again and again:
a fifth of the time that loading takes, in each process that computes.
"""

from __future__ import annotations

import gc

SELDOM = 1000
"""Collections of middle-aged objects for each of all objects; 10 by Python's default."""


def while_loading() -> None:
    """Collect young objects as always, old ones hardly ever."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, SELDOM)


def loaded() -> None:
    """Collect as usual again, but look no more at what is there by now: libraries."""
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 10)
