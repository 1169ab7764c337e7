"""A generator of pictures and a captioner behind one address, which answer the same question the same way every time.

``python fault_shop.py FOLDER`` serves. A project is known by the end of its key: ``FOLDER/NAME.jsonl`` has what it
asked for, ``FOLDER/NAME.mood`` how its next answers go, word by word.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import socket
import struct
import sys
import threading
import time
import zlib
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "workflow")]

from fake_chat import said  # noqa: E402
from fake_generators import Gemini, png  # noqa: E402

PICTURE, CAPTION = "picture", "raw-caption"
"""What is asked for, by the kind of its entry in the store."""
HELD = 0.6
"""Seconds that the mood ``late`` takes: long enough to kill whoever waits."""


class Shop(Gemini):
    """Takes what Gemini takes, and what a chat of OpenAI takes."""

    folder: Path
    lock = threading.Lock()

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers.get("x-goog-api-key") or self.headers["Authorization"]
        name = key.rpartition("-")[2]
        if self.path.endswith("/chat/completions"):
            kind, (question, answer) = CAPTION, self.described(json.loads(data))
        else:
            prompt = self.read(data).prompt
            kind, question, answer = PICTURE, prompt, self.with_picture(png(zlib.crc32(prompt.encode())))
        with self.lock:
            with open(self.folder / f"{name}.jsonl", "a") as file:
                file.write(json.dumps([kind, question]) + "\n")
            mood = self.mood(name)
        with contextlib.suppress(OSError):
            self.reply(mood, json.dumps(answer).encode())

    def described(self, body: dict[str, Any]) -> tuple[str, Any]:
        url = next(part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url")
        question = hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest()
        return question, said(f"A woman laughing in room {int(question[:4], 16)}, wearing a red scarf")

    def mood(self, name: str) -> str:
        path = self.folder / f"{name}.mood"
        first, *others = path.read_text().split() if path.exists() else ["well"]
        path.write_text(" ".join(others or ["well"]))
        return first

    def reply(self, mood: str, body: bytes) -> None:
        if mood.isdigit():
            self.answer(int(mood), b"not now")
        elif mood == "gone":
            self.close_connection = True
        elif mood == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            time.sleep(HELD if mood == "late" else 0.02)
            self.answer(200, body)


def asked(folder: Path, name: str, kind: str) -> list[str]:
    """What a project has asked for, in order."""
    with contextlib.suppress(FileNotFoundError):
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        return [question for one, question in lines if one == kind]
    return []


def _loopback() -> None:
    """Switch it on, which it is not in a namespace of its own."""
    with contextlib.suppress(PermissionError), socket.socket() as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def main() -> None:
    folder = Path(sys.argv[1])
    _loopback()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Shop,), {"folder": folder}))
    (folder / "url.new").write_text(f"http://127.0.0.1:{server.server_address[1]}")
    (folder / "url.new").rename(folder / "url")
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
