"""A server that speaks as much of OpenAI's chat interface as captions need, with the moods of real ones."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Answer = Callable[[int, dict[str, Any]], tuple[int, Any, dict[str, str]]]
"""From the number of the request (from 0) and its body to status, body and headers. None as a body hangs up."""


def said(text: Any) -> dict[str, Any]:
    """The body of an answer."""
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


class Chat:
    """What the server has seen: bodies, headers, and pictures."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.bodies, self.headers, self.pictures = answer, [], [], []
        self.lock = threading.Lock()
        self.url = ""


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[Chat]:
    """A server on this machine; ``answer`` says what it does."""
    chat = Chat(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            url = next(p["image_url"]["url"] for p in body["messages"][0]["content"] if p["type"] == "image_url")
            picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
            with chat.lock:
                number = len(chat.bodies)
                chat.bodies.append(body)
                chat.headers.append(dict(self.headers))
                chat.pictures.append(picture.size)
            status, made, headers = chat.answer(number, body)
            if made is None:
                self.close_connection = True
                return
            data = made if isinstance(made, bytes) else json.dumps(made).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def slow(seconds: float) -> None:
    """For an answer that takes its time."""
    time.sleep(seconds)
