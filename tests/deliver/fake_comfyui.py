"""A server that speaks ComfyUI's documented protocol, well or badly."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

NUMBER = "1234-abcd"


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 120, 40)).save(out, "PNG")
    return out.getvalue()


class Fake:
    """``loras`` are those that it has; ``mood`` is how it answers; ``asked`` is what came, by path."""

    def __init__(self, loras: tuple[str, ...] = ("mara.safetensors",), mood: str = "well") -> None:
        self.loras, self.mood = loras, mood
        self.asked: list[tuple[str, Any]] = []
        self.polls = 0
        self.url = ""

    def queue(self, body: dict[str, Any]) -> tuple[int, Any]:
        for number, node in body["prompt"].items():
            if node["class_type"] == "LoraLoaderModelOnly" and node["inputs"]["lora_name"] not in self.loras:
                extra = {"input_name": "lora_name", "received_value": node["inputs"]["lora_name"]}
                error = {
                    "type": "value_not_in_list",
                    "message": "Value not in list",
                    "details": "…",
                    "extra_info": extra,
                }
                found = {number: {"errors": [error], "class_type": node["class_type"], "dependent_outputs": ["9"]}}
                return 400, {"error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed "
                                       "validation"}, "node_errors": found}  # fmt: skip
            if node["class_type"] == "KSampler" and node["inputs"]["steps"] > 10_000:
                error = {"type": "value_bigger_than_max", "message": "Value bigger than max", "details": "steps",
                         "extra_info": {"input_name": "steps"}}  # fmt: skip
                return 400, {"error": {"message": "Prompt outputs failed validation"},
                             "node_errors": {number: {"errors": [error]}}}  # fmt: skip
        return 200, {"prompt_id": NUMBER, "number": 1, "node_errors": {}}

    def history(self) -> tuple[int, Any]:
        self.polls += 1
        if self.mood == "slow" or self.polls < 2:
            return 200, {}
        if self.mood == "fails":
            about = {"node_type": "KSampler", "exception_message": "CUDA out\nof memory"}
            messages = [["execution_start", {}], ["execution_error", about]]
            return 200, {
                NUMBER: {"status": {"status_str": "error", "completed": False, "messages": messages}, "outputs": {}}
            }
        images = [{"filename": "mara_1.png", "subfolder": "a b", "type": "output"}]
        temporary = [{"filename": "preview.png", "subfolder": "", "type": "temp"}]
        outputs = {"11": {"images": [] if self.mood == "empty" else images}, "10": {"images": temporary}}
        return 200, {
            NUMBER: {"status": {"status_str": "success", "completed": True, "messages": []}, "outputs": outputs}
        }


def _handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, data: Any) -> None:
            body = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.asked.append((self.path, body))
            if fake.mood == "nonsense":
                self.answer(200, b"<html>router login</html>")
            elif fake.mood == "stalls":
                time.sleep(1.5)
            elif fake.mood == "no http":
                self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
            elif fake.mood == "odd":
                self.answer(500, ["what"])
            else:
                self.answer(*fake.queue(body))

        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            fake.asked.append((parts.path, dict(urllib.parse.parse_qsl(parts.query))))
            if parts.path == f"/history/{NUMBER}":
                self.answer(*fake.history())
            elif parts.path == "/view" and fake.mood != "lost":
                self.answer(200, b"GIF89a nothing" if fake.mood == "no picture" else png())
            else:
                self.answer(404, b"not found")

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@contextlib.contextmanager
def running(fake: Fake) -> Iterator[Fake]:
    """The server on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
