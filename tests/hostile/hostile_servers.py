"""A server on this machine that answers whatever it is told to, without reading what it is asked."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

ENDLESS = b"@endless "
"""Begins an answer whose head is followed by 10 GB."""
SIZE = 10 * 2**30
_BLOCK = b" " * 2**20


class Liar:
    """``sent`` is how many bytes somebody took of one answer, at most."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.sent = answer, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._serve, daemon=True)]
        self.threads[0].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.threads.append(threading.Thread(target=self._talk, args=(connection,), daemon=True))
                self.threads[-1].start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(20)
            connection.recv(2**16)
            data = self.answer
            if data.startswith(ENDLESS):
                connection.sendall(data.removeprefix(ENDLESS))
                for number in range(SIZE // len(_BLOCK)):
                    connection.sendall(_BLOCK)
                    self.sent = max(self.sent, number * len(_BLOCK))
                return
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**20):  # or the answer is lost with what was not read
                pass


@contextlib.contextmanager
def lying(answer: bytes) -> Iterator[Liar]:
    liar = Liar(answer)
    try:
        yield liar
    finally:
        liar.socket.close()


def reply(body: object, status: str = "200 OK", **headers: str) -> bytes:
    """An answer of HTTP; a body that is no bytes as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8", "surrogatepass")
    usual = {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in {**usual, **headers}.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1", "replace") + data


def answers(texts: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Answers that no API gives."""
    large = str(SIZE)
    yield "10 GB", ENDLESS + reply(b"", Content_Length=large)
    yield "10 GB without a length", ENDLESS + reply(b"", Content_Length="")
    yield "10 GB of an error", ENDLESS + reply(b"", "500 Internal Server Error", Content_Length=large)
    yield "10 GB of a header", ENDLESS + b"HTTP/1.1 200 OK\r\nX: "
    yield "10 GB of a status", ENDLESS + b"HTTP/1.1 200 "
    yield "10 GB in one chunk", ENDLESS + reply(b"", Content_Length="", Transfer_Encoding="chunked") + b"280000000\r\n"
    yield "nothing", b""
    yield "no HTTP", b"\x16\x03\x01\x02\x00\x01" * 50
    yield "HTTP/0.9", b"hello"
    yield "no status", b"HTTP/1.1 \r\n\r\n"
    yield "odd status", b"HTTP/1.1 999 \x1b[2J\r\n\r\n"
    yield "1,000 headers", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"
    yield "page", reply(b"<html><script>alert(1)</script></html>", Content_Type="text/html")
    yield "redirect", reply(b"", "302 Found", Location="file:///etc/passwd")
    yield "redirect in a circle", reply(b"", "307 Temporary Redirect", Location="/")
    yield "shorter than it says", reply(b"{}", Content_Length="1000")
    yield "negative length", reply(b"{}", Content_Length="-1")
    yield "two lengths", reply(b"{}", Content_Length="2\r\nContent-Length: 9")
    yield "bad chunk", reply(b"zz\r\n{}\r\n", Content_Length="", Transfer_Encoding="chunked")
    for kind in ("gzip", "deflate", "br", "zstd", "nonsense"):
        yield f"packed as {kind}", reply(b"\x1f\x8b" + b"x" * 100, Content_Encoding=kind)
    yield "deep JSON", reply(b"[" * 100_000)
    yield "deep object", reply(b'{"a":' * 50_000)
    yield "long number", reply(b'{"data": ' + b"9" * 10_000 + b"}")
    yield "NaN", reply(b'{"data": NaN, "choices": Infinity}')
    yield "not UTF-8", reply(b'{"data": "\xff\xfe"}')
    for value in (None, True, 1, [], {}, [[]], [None], "x", {"x": []}):
        keys = ("data", "choices", "candidates", "prompt_id", "error", "node_errors", "status", "outputs")
        yield f"all {value!r}", reply(dict.fromkeys(keys, value))
        yield f"only {value!r}", reply(value)
    for text in texts:
        if len(text) > 1000:
            continue
        chat = {"choices": [{"message": {"content": text}, "finish_reason": text}], "prompt_id": text}
        yield f"says {text[:12]!r}", reply({**chat, "data": [{"b64_json": text, "url": text}]})
        yield f"refuses with {text[:12]!r}", reply({"error": {"message": text, "code": text}}, "400 Bad Request")
        yield f"fails with {text[:12]!r}", reply({"error": text}, "503 Busy", Retry_After="1e999")
