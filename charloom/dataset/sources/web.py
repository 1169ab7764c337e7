"""HTTP for API clients: every answer is limited in time and size, and the key stays secret.

The official clients depend on ``httpx2`` and accept a client of it, which this module makes.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from charloom.core.errors import UserError
from charloom.dataset.sources.orders import Again, Wrong

LARGEST = 96 * 2**20
"""Bytes of one answer; a picture of 4096 x 4096 in base64 has 70 MB at most."""
_DEADLINE = "charloom-deadline"


class Secret:
    """An API key from the environment; :meth:`hide` removes it from any text."""

    def __init__(self, variable: str, *, needed: bool = True) -> None:
        """Raises :class:`UserError` if the variable is not set, or holds what cannot be a key."""
        value = os.environ.get(variable, "").strip()
        if not value and needed:
            raise UserError(f"{variable}: is not set; put your API key into this environment variable")
        if value and not re.fullmatch(r"[!-~]+", value):
            # Clients would quote the value in their errors.
            raise UserError(f"{variable}: contains spaces or characters that no API key has; set it again")
        self.value = value or "none"
        self.variable = variable

    def hide(self, text: object, longest: int = 200) -> str:
        """``text`` on one line, without the key and without control characters."""
        line = "".join(sign for sign in " ".join(str(text).split()) if sign.isprintable())
        if len(self.value) >= 8:
            for form in (self.value, quote(self.value, safe="")):
                line = line.replace(form, "…")
        return line[:longest]


class TooLarge(Exception):
    """An answer beyond :data:`LARGEST`."""


class TooSlow(Exception):
    """An answer that was not complete in time."""


def client(seconds: float) -> Any:
    """An ``httpx2.Client`` whose answers are complete within ``seconds``, uncompressed, at most :data:`LARGEST` bytes.

    Proxies of the environment are used as usual; redirects are not followed: they could take the key elsewhere.
    """
    import httpx2

    def asked(request: httpx2.Request) -> None:
        request.extensions[_DEADLINE] = time.monotonic() + seconds

    def answered(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise TooLarge("a packed answer, of any size")
        end = response.request.extensions.get(_DEADLINE, time.monotonic() + seconds)
        response.stream = _limited(httpx2.SyncByteStream)(response.stream, end)

    return httpx2.Client(
        timeout=httpx2.Timeout(seconds, connect=min(seconds, 30.0)),
        headers={"Accept-Encoding": "identity"},
        event_hooks={"request": [asked], "response": [answered]},
        follow_redirects=False,
    )


def _limited(base: type) -> Any:
    class Limited(base):  # type: ignore[misc]
        """A stream that raises an error if it is too long or too slow."""

        def __init__(self, stream: Any, end: float) -> None:
            self.stream, self.end = stream, end

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for block in self.stream:
                size += len(block)
                if size > LARGEST:
                    raise TooLarge(f"more than {LARGEST // 2**20} MB")
                if time.monotonic() > self.end:
                    raise TooSlow("drips")
                yield block

        def close(self) -> None:
            self.stream.close()

    return Limited


def judged(error: BaseException, secret: Secret, where: str, seconds: float) -> Exception:
    """Translate an error of a client into one of ours; raise it ``from None``, because the original may hold the key.

    ``where`` is the key of the settings to correct if the server cannot be reached.
    """
    chain = [one for one in (error, error.__cause__, error.__context__) if one is not None]
    kinds = {base.__name__ for one in chain for base in type(one).__mro__}
    if "TooLarge" in kinds:
        return UserError(f"{where}: the server answers with more than {LARGEST // 2**20} MB; correct base_url")
    if "TooSlow" in kinds or "ReadTimeout" in kinds:
        return Again(f"no complete answer within {seconds:g} s", charged=True)
    if kinds & {"ConnectError", "ConnectTimeout", "UnsupportedProtocol"}:
        return Again(f"{where}: the server cannot be reached")
    if kinds & {"TransportError", "TimeoutException"}:
        return Again("the answer was cut off", charged=True)
    if kinds & {"JSONDecodeError", "ValidationError", "UnicodeDecodeError", "APIResponseValidationError"}:
        return Wrong("the answer is not in the API's format")
    if kinds & {"TypeError", "AttributeError", "LookupError", "ValueError", "RecursionError"}:
        # The clients do not check the shape of an answer.
        return Wrong(f"the answer is not in the API's format ({type(error).__name__}: {secret.hide(error, 80)})")
    return RuntimeError(f"{type(error).__name__}: {secret.hide(error, 500)}")


def refusal_of(status: int, words: str, secret: Secret, where: str, wait: str | None = None) -> Exception:
    """Translate an answer with an error status into an exception; ``wait`` is its header Retry-After."""
    said = secret.hide(words)
    if status in (408, 409, 425, 429) or status >= 500:
        if "insufficient_quota" in words:  # waiting does not help; a limit per minute is "rate_limit_exceeded"
            return UserError(
                f"{secret.variable}: the account has no credit left ({said}); buy some, what has arrived is kept"
            )
        return Again(f"the server answers {status}", _seconds(wait))
    if status in (401, 403):
        return UserError(f"{secret.variable}: is not accepted ({status}: {said}); check the key and what it may do")
    if status == 404:
        return UserError(f"{where}: there is no such model or address ({said}); correct model or base_url")
    return UserError(f"{where}: the request is not accepted ({status}: {said}); change what it names")


def _seconds(header: str | None) -> float | None:
    try:
        found = float(header or "")
    except ValueError:
        return None
    return found if 0 <= found < 1e6 else None
