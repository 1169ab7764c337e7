"""A client of ComfyUI's HTTP interface: queue a workflow, wait for it, fetch its pictures. Standard library only.

``POST /prompt`` takes ``{"prompt": <API format>, "client_id": …}`` and returns ``prompt_id``, or 400 with
``node_errors``; ``GET /history/<prompt_id>`` is empty until the workflow has ended; ``GET /view`` returns a file.
Nothing that a server sends is trusted: sizes are limited, and names never become paths here.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from charloom.config import addresses
from charloom.core.errors import UserError

PATIENCE = 30.0
"""Seconds to wait for the next byte of an answer,"""
LONGEST = 300.0
"""and for all of it."""
POLL = 0.5
LARGEST = 2**28
"""Bytes of a single answer; a picture of 4096 x 4096 has 50 MB at most."""
BUSY = (429, 502, 503, 504)
"""Statuses of a proxy whose server is too busy or still starting."""


class Unavailable(UserError):
    """The server does not answer, or is too busy: the same request may succeed later."""


class Server:
    """A ComfyUI server at ``url``; ``where`` is the option that sets the address, ``patience`` the one for the timeout.

    Raises:
        UserError: the address is not one of http or https.
    """

    def __init__(self, url: str, where: str = "--server", patience: str = "--timeout") -> None:
        self.where, self.patience = where, patience
        url = url if "://" in url else f"http://{url}"
        if addresses.holds_secret(url):
            raise UserError(f"{where}: holds a password or a key, which would end up in logs; take it out")
        try:
            parts = urllib.parse.urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid:
            raise UserError(f"{where} {url}: is not an address; give one like http://127.0.0.1:8188")
        self.url = url.rstrip("/")
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        handlers = [urllib.request.ProxyHandler({})] if local else []
        self._open = urllib.request.build_opener(*handlers).open

    def upload(self, name: str, picture: bytes) -> str:
        """Upload a PNG called ``name`` as an input; returns its name for LoadImage.

        An input of the same name is replaced, so derive the name from the picture's digest.

        Raises:
            UserError: the server is down or does not accept it.
        """
        mark = uuid.uuid4().hex
        parts = (
            f'--{mark}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: image/png\r\n\r\n"
        )
        body = parts.encode() + picture + f"\r\n--{mark}--\r\n".encode()
        status, data = self._ask("/upload/image", body, f"multipart/form-data; boundary={mark}")
        if status != 200:
            raise UserError(f"{self.url}: accepts no picture (status {status}), unlike ComfyUI; correct {self.where}")
        answer = self._object(data, "/upload/image")
        stored, folder = answer.get("name"), answer.get("subfolder") or ""
        if not isinstance(stored, str) or not stored or not isinstance(folder, str):
            raise UserError(f"{self.url}: does not name the uploaded picture, unlike ComfyUI; correct {self.where}")
        return f"{folder}/{stored}" if folder else stored

    def queue(self, workflow: Mapping[str, Any]) -> str:
        """Queue a workflow in API format; returns its ``prompt_id``.

        Raises:
            UserError: the server is down or refuses the workflow; its own message is quoted.
        """
        body = json.dumps({"prompt": workflow, "client_id": str(uuid.uuid4())}).encode()
        status, data = self._ask("/prompt", body)
        answer = self._object(data, "/prompt")
        if status != 200 or answer.get("node_errors"):
            raise UserError(self._refusal(workflow, answer, status))
        number = answer.get("prompt_id")
        if not isinstance(number, str) or not number:
            raise UserError(f"{self.url}: answers without a prompt_id, unlike ComfyUI; correct {self.where}")
        return number

    def wait(self, number: str, timeout: float) -> dict[str, Any]:
        """Wait for a queued workflow; returns its outputs, by node.

        Raises:
            UserError: it failed, was interrupted, or took longer than ``timeout`` seconds; then the server continues.
        """
        end = time.monotonic() + timeout
        while True:
            status, data = self._ask(f"/history/{urllib.parse.quote(number, safe='')}")
            if status != 200:
                raise UserError(
                    f"{self.url}: answers /history with status {status}, unlike ComfyUI; correct {self.where}"
                )
            entry = self._object(data, "/history").get(number)
            if isinstance(entry, dict):
                state = entry.get("status")
                state = state if isinstance(state, dict) else {}
                if state.get("status_str") == "error":
                    raise UserError(
                        f"{self.url}: the workflow failed ({_failure(state.get('messages'))}); see ComfyUI's window"
                    )
                if state.get("completed", True):
                    outputs = entry.get("outputs")
                    return outputs if isinstance(outputs, dict) else {}
            if time.monotonic() >= end:
                raise UserError(
                    f"{self.url}: is not done after {timeout:g} s; it continues with {_line(number)}; see "
                    f"ComfyUI's window, or wait longer with {self.patience}"
                )
            time.sleep(min(POLL, max(0.0, end - time.monotonic())))

    def pictures(self, outputs: Mapping[str, Any]) -> Iterator[bytes]:
        """Fetch the files of the pictures that a workflow saved, in the order of its nodes.

        Raises:
            UserError: there is none, or the server does not send it.
        """
        entries = [
            image
            for _, node in sorted(_pairs(outputs), key=lambda pair: (len(pair[0]), pair[0]))
            for image in _list(node.get("images"))
            if isinstance(image, dict) and isinstance(image.get("filename"), str) and image.get("type") == "output"
        ]
        if not entries:
            raise UserError(f"{self.url}: the workflow ended without a picture; see ComfyUI's window")
        for image in entries:
            query = {key: str(image.get(key, "")) for key in ("filename", "subfolder", "type")}
            status, data = self._ask(f"/view?{urllib.parse.urlencode(query)}")
            if status != 200:
                raise UserError(
                    f"{self.url}: does not send its picture {image['filename']!r} (status {status}); "
                    "see ComfyUI's window"
                )
            yield data

    def _ask(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind} if body else {})
        try:
            try:
                with self._open(request, timeout=PATIENCE) as answer:
                    return answer.status, self._read(answer)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code in BUSY:
                        raise Unavailable(f"{self.url}: answers {error.code}; try again later") from None
                    return error.code, self._read(error)
        except urllib.error.URLError as error:
            why = "no answer in time" if isinstance(error.reason, TimeoutError) else f"{error.reason}"
            raise Unavailable(
                f"{self.url}: cannot be reached ({why}); start ComfyUI, or correct {self.where}"
            ) from None
        except TimeoutError:
            raise Unavailable(f"{self.url}: gives no answer within {PATIENCE:g} s; try again") from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            what = " ".join(str(error).split())[:100] or type(error).__name__
            raise UserError(f"{self.url}: does not answer as ComfyUI does ({what}); correct {self.where}") from None

    def _read(self, answer: Any) -> bytes:
        end, data = time.monotonic() + LONGEST, bytearray()
        while block := answer.read1(2**16):
            data += block
            if len(data) > LARGEST:
                raise UserError(
                    f"{self.url}: answers with more than {LARGEST // 2**20} MB, unlike ComfyUI; correct {self.where}"
                )
            if time.monotonic() > end:
                raise TimeoutError
        return bytes(data)

    def _object(self, data: bytes, path: str) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise UserError(f"{self.url}: answers {path} with no JSON, unlike ComfyUI; correct {self.where}")
        return value

    def _refusal(self, workflow: Mapping[str, Any], answer: Mapping[str, Any], status: int) -> str:
        """The error for a workflow that was not queued, in one line."""
        for number, found in _pairs(answer.get("node_errors")):
            node = workflow.get(number, {})
            kind, inputs = node.get("class_type", "?"), node.get("inputs", {})
            for error in _list(found.get("errors")):
                if not isinstance(error, dict):
                    continue
                extra = error.get("extra_info")
                name = extra.get("input_name") if isinstance(extra, dict) else None
                if error.get("type") == "value_not_in_list" and isinstance(name, str) and name in _FOLDERS:
                    file = inputs.get(name)
                    return f"{self.url}: has no {file}; put it into ComfyUI/models/{_FOLDERS[name]} on that machine"
                words = _line(f"{error.get('message', '')} {error.get('details', '')}")
                return f"{self.url}: refuses the workflow at {kind} (node {number}): {words}"
        error = answer.get("error")
        words = error.get("message", "") if isinstance(error, dict) else error if isinstance(error, str) else ""
        return f"{self.url}: refuses the workflow (status {status}){f': {_line(words)}' if words else ''}"


_FOLDERS = {
    "lora_name": "loras",
    "unet_name": "diffusion_models",
    "clip_name": "text_encoders",
    "vae_name": "vae",
}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _line(text: str) -> str:
    """A text from a server on one line, without control characters."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())[:300]


def _pairs(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """The items of what should be an object of objects."""
    return [(key, part) for key, part in value.items() if isinstance(part, dict)] if isinstance(value, dict) else []


def _failure(messages: Any) -> str:
    """The reason for a workflow's failure, from its history."""
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, list) and len(message) == 2 and isinstance(message[1], dict):
            kind, about = message
            if kind == "execution_error":
                words = _line(str(about.get("exception_message", "")))
                return f"{_line(str(about.get('node_type', 'a node')))}: {words or 'no reason given'}"
            if kind == "execution_interrupted":
                return "it was interrupted there"
    return "no reason given; see ComfyUI's window"
