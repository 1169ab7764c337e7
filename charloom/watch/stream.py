"""Sends a state as server-sent events, whenever it has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

SILENCE = 15.0
"""After this many seconds without news something is sent anyway, to notice closed pages."""


def changes(
    request: Request, closing: asyncio.Event, look: Callable[[], Awaitable[str]], pause: float, idle: float = 0.0
) -> Response:
    """Send what ``look`` returns, a line, until ``closing`` is set. Calls are ``pause`` seconds apart, or ``idle``
    times as long as a call takes."""
    return StreamingResponse(_stream(request, closing, look, pause, idle), media_type="text/event-stream")


async def _stream(
    request: Request, closing: asyncio.Event, look: Callable[[], Awaitable[str]], pause: float, idle: float
) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    before, spoke = "", loop.time()
    while not closing.is_set() and not await request.is_disconnected():
        began = loop.time()
        now = await look()
        ended = loop.time()
        if now != before:
            before, spoke = now, ended
            yield f"data: {now}\n\n"
        elif ended - spoke > SILENCE:
            spoke = ended
            yield ": still here\n\n"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), min(max(pause, idle * (ended - began)), SILENCE))
