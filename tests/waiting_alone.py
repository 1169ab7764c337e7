"""Coroutines in a thread of their own: a browser's tests leave an event loop running in the main one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def finished_alone(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What ``coroutine`` returns or raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
