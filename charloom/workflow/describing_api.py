"""A captioner behind an OpenAI-compatible API (``POST <base_url>/chat/completions``), which most model servers offer.

Nothing that a server sends is trusted: answers are limited in size and time, redirects are not followed because they
could leak the key, and the key appears in no message.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from charloom.config.addresses import is_local
from charloom.core import pictures, words
from charloom.core.errors import UserError

EDGE = 1024
"""Pixels to which the longer edge of a picture is reduced before it is sent."""
AT_ONCE = 4
"""Requests that are under way at a time."""
TRIES = 5
REFUSALS = ("moderation", "content_policy", "content_filter", "safety")
"""Words in an answer with status 403 that is about the picture, not about the key."""
PATIENCE = 60.0
"""Seconds to wait for the next byte of an answer."""
LONGEST = 180.0
"""Seconds until an answer must be whole."""
LARGEST = 2**20
"""Bytes of an answer."""
PAUSE = 2.0
"""Seconds before the second try; doubled each time, and more if the server says so, up to :data:`LONGEST_PAUSE`."""
LONGEST_PAUSE = 60.0


class _Later(Exception):
    """The server is busy or temporarily broken; ``seconds`` is how long it asks us to wait."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


class Api:
    """An API that describes pictures.

    Raises:
        UserError: httpx is not installed, or the key for a remote server is missing.
    """

    def __init__(
        self, settings: Mapping[str, Any], log: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise UserError("captions.captioner: an API needs httpx: pip install 'charloom[caption]'") from None
        self.url = f"{settings['base_url'].rstrip('/')}/chat/completions"
        self.model, self.longest = settings["model"], settings["longest"]
        self._log, self._sleep = log, sleep
        self._key = os.environ.get(settings["key"], "").strip()
        local = is_local(self.url)
        if not self._key and not local:
            raise UserError(f"{settings['key']}: is not set; put the key of the API into this environment variable")
        if self._key and not (self._key.isascii() and self._key.isprintable() and " " not in self._key):
            raise UserError(f"{settings['key']}: contains spaces or characters that no API key has; set it again")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(
            timeout=httpx.Timeout(PATIENCE, connect=30.0),
            headers={"Accept-Encoding": "identity", **headers},
            follow_redirects=False,
            trust_env=not local,  # no proxy stands between this machine and itself
        )

    def __call__(self, images: Iterable[Path], prompt: str) -> Iterator[tuple[Path, str | UserError]]:
        """Ask for several at a time; yields each as it arrives. An error that is not about one picture ends all."""
        waiting, running = iter(images), {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                while True:
                    for path in waiting:
                        running[pool.submit(self._one, path, prompt)] = path
                        if len(running) >= AT_ONCE:
                            break
                    if not running:
                        return
                    done: set[Future[str]] = wait(running, return_when=FIRST_COMPLETED).done
                    for future in done:
                        path = running.pop(future)
                        try:
                            yield path, future.result()
                        except _Refused as error:
                            yield path, UserError(str(error))
            finally:
                pool.shutdown(cancel_futures=True)

    def _one(self, path: Path, prompt: str) -> str:
        try:
            body = self._request(path, prompt)
        except UserError as error:
            raise _Refused(str(error)) from None
        for attempt in range(1, TRIES + 1):
            try:
                return self._asked(body, path)
            except _Later as error:
                if attempt == TRIES:
                    raise _Refused(
                        f"{path.name}: {error}, {TRIES} times; run again later, what has arrived is kept"
                    ) from None
                pause = min(max(error.seconds, PAUSE * 2 ** (attempt - 1)), LONGEST_PAUSE)
                self._log(f"{path.name}: {error}; asking again in {pause:.0f} s")
                self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _request(self, path: Path, prompt: str) -> dict[str, Any]:
        image = pictures.read(path, pictures.MADE_HERE).image
        image.thumbnail((EDGE, EDGE), reducing_gap=2.0)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        data = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": data}}]
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "max_tokens": self.longest, "temperature": 0}

    def _asked(self, body: dict[str, Any], path: Path) -> str:
        import httpx

        end, parts, size = time.monotonic() + LONGEST, [], 0
        try:
            with self._client.stream("POST", self.url, json=body) as response:
                for part in response.iter_raw():
                    parts.append(part)
                    size += len(part)
                    if size > LARGEST:
                        raise _Refused(f"{path.name}: the server's answer is larger than any caption")
                    if time.monotonic() > end:
                        raise _Later(f"no whole answer within {LONGEST:.0f} s")
        except httpx.TimeoutException:
            raise _Later("no answer in time") from None
        except httpx.HTTPError as error:
            raise _Later(f"the server cannot be reached ({self._hidden(error) or type(error).__name__})") from None
        return self._text(response, b"".join(parts), path)

    def _text(self, response: Any, data: bytes, path: Path) -> str:
        status = response.status_code
        if status == 429 or status >= 500:
            raise _Later(
                f"the server says {status} ({self._said(data)})", _seconds(response.headers.get("retry-after"))
            )
        refused = status == 403 and any(sign in data[:LARGEST].decode("utf-8", "replace").lower() for sign in REFUSALS)
        if (status in (401, 403, 404) and not refused) or 300 <= status < 400:
            what = {401: "refuses the key", 403: "refuses the key", 404: "knows no such model or address"}
            remedy = "check captions.captioner and the environment variable of the key"
            raise UserError(
                f"{self.url}: {what.get(status, 'points elsewhere')} ({status}, {self._said(data)}); {remedy}"
            )
        if status != 200:
            raise _Refused(f"{path.name}: refused ({status}, {self._said(data)}); write its caption yourself")
        try:
            choice = json.loads(data)["choices"][0]
            text = choice["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _Later("the server's answer is not one of a chat") from None
        if isinstance(text, list):  # some servers answer in parts
            text = " ".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
        if not isinstance(text, str) or not words.tidy(text):
            refusal = choice["message"].get("refusal") or choice.get("finish_reason") or "no text"
            raise _Refused(
                f"{path.name}: the model does not describe it ({self._hidden(refusal)}); write its caption yourself"
            )
        return words.tidy("".join(sign for sign in text if sign.isprintable() or sign.isspace()))

    def _said(self, data: bytes) -> str:
        """The server's own words about an error, on one line."""
        try:
            error = json.loads(data)["error"]
            return self._hidden(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._hidden(data[:200].decode("utf-8", "replace")) or "no words"

    def _hidden(self, text: object) -> str:
        """Foreign text on one line, without the key and without control characters."""
        line = "".join(sign for sign in words.tidy(str(text)) if sign.isprintable())
        return (line.replace(self._key, "…") if self._key else line)[:200]


class _Refused(Exception):
    """This picture gets no text, but others may."""


def _seconds(value: str | None) -> float:
    """A ``Retry-After`` in seconds; dates are not looked at."""
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        return 0.0
