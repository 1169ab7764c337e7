"""Servers that speak the APIs of image generators, well or badly, over real HTTP."""

from __future__ import annotations

import base64
import contextlib
import email.parser
import email.policy
import io
import json
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

KEY = "sk-very-secret-0123456789"
FALSE_REFUSAL = "I can help with images of people, but I can't depict some public figures."


def png(seed: int = 0, size: tuple[int, int] = (96, 96)) -> bytes:
    """A picture with something to see, another for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return encoded(Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def of_prompt(prompt: str, attempt: int) -> bytes:
    """A picture of its own for each prompt and time that it is asked for."""
    return png(zlib.crc32(prompt.encode()) + attempt)


@dataclass
class Asked:
    """One request: the prompt, the pictures that came with it, what else it said."""

    path: str
    prompt: str
    pictures: list[bytes]
    headers: dict[str, str]
    body: Any
    turns: int = 1
    """Prompts of the chat so far, with this one."""


@dataclass
class Fake:
    """``moods`` are how the next requests are answered, one each; all further ones well. ``draw`` makes pictures."""

    moods: list[Any] = field(default_factory=list)
    draw: Callable[[str, int], bytes] = of_prompt
    asked: list[Asked] = field(default_factory=list)
    sent: dict[int, bytes] = field(default_factory=dict)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def picture(self, asked: Asked) -> bytes:
        return self.draw(asked.prompt, sum(one.prompt == asked.prompt for one in self.asked) - 1)


class _Handler(BaseHTTPRequestHandler):
    fake: Fake
    retry_after = "0.01"

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        usual = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in {**usual, **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with self.fake.lock:
            asked = self.read(data)
            self.fake.asked.append(asked)
            mood = self.fake.moods.pop(0) if self.fake.moods else "well"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.behave(mood, asked)

    def known(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def read(self, data: bytes) -> Asked:
        raise NotImplementedError

    def with_picture(self, picture: bytes) -> Any:
        raise NotImplementedError

    def refusal(self) -> tuple[int, Any]:
        raise NotImplementedError

    def error(self, status: int, words: str) -> Any:
        raise NotImplementedError

    def behave(self, mood: Any, asked: Asked) -> None:
        good = self.fake.picture(asked)
        if isinstance(mood, int):
            self.answer(
                mood, self.error(mood, f"no: {KEY}"), **({"Retry_After": self.retry_after} if mood == 429 else {})
            )
        elif isinstance(mood, bytes):
            self.answer(200, self.with_picture(mood))
        elif mood == "well":
            self.answer(200, self.with_picture(good))
        elif mood == "refused":
            self.answer(*self.refusal())
        elif mood == "page":
            self.answer(200, b"<html>router login</html>", Content_Type="text/html")
        elif mood == "garbage":
            self.answer(200, b'{"candidates": 7, "data": "x')
        elif mood == "odd":
            self.answer(200, {"candidates": [], "data": []})
        elif mood == "shape":
            self.answer(200, dict.fromkeys(("candidates", "data"), 1))
        elif mood == "stalls":
            time.sleep(0.6)
        elif mood == "drips":
            body = json.dumps(self.with_picture(good)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for start in range(200):
                self.wfile.write(body[start : start + 1])
                self.wfile.flush()
                time.sleep(0.05)
        elif mood == "cut":
            body = json.dumps(self.with_picture(good)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif mood == "endless":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(10 * 2**30))
            self.end_headers()
            for _ in range(10 * 2**14):
                self.wfile.write(b" " * 2**16)
        elif mood == "packed":
            self.answer(200, zlib.compress(b" " * 2**20), Content_Encoding="deflate")
        else:
            raise AssertionError(mood)


class Gemini(_Handler):
    def read(self, data: bytes) -> Asked:
        body = json.loads(data)
        turns = [turn for turn in body["contents"] if turn["role"] == "user"]
        parts = turns[-1]["parts"]
        texts = [part["text"] for part in parts if "text" in part]
        given = [base64.urlsafe_b64decode(part["inlineData"]["data"]) for part in parts if "inlineData" in part]
        return Asked(self.path, " ".join(texts), given, self.known(), body, len(turns))

    def with_picture(self, picture: bytes) -> Any:
        packed = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(picture).decode()}}
        parts = [{"text": "Here she is."}, packed]
        return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}

    def refusal(self) -> tuple[int, Any]:
        words = {"role": "model", "parts": [{"text": FALSE_REFUSAL}]}
        return 200, {"candidates": [{"content": words, "finishReason": "STOP"}]}

    def error(self, status: int, words: str) -> Any:
        return {"error": {"code": status, "message": words, "status": "UNHAPPY"}}


def form_of(kind: str, data: bytes) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    """The fields and the files (name, content) of a form."""
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + data)
    fields, files = {}, {}
    for part in form.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if part.get_filename():
            files[name] = (part.get_filename(), content)
        else:
            fields[name] = content.decode()
    return fields, files


class OpenAI(_Handler):
    def read(self, data: bytes) -> Asked:
        kind = self.headers["Content-Type"]
        if kind == "application/json":
            body = json.loads(data)
            return Asked(self.path, body["prompt"], [], self.known(), body)
        body, files = form_of(kind, data)
        return Asked(self.path, body["prompt"], [content for _, content in files.values()], self.known(), body)

    def with_picture(self, picture: bytes) -> Any:
        return {"created": 1, "data": [{"b64_json": base64.b64encode(picture).decode()}]}

    def refusal(self) -> tuple[int, Any]:
        return 400, {"error": {"code": "moderation_blocked", "message": "rejected by the safety system", "type": "x"}}

    def error(self, status: int, words: str) -> Any:
        return {"error": {"code": "unhappy", "message": words, "type": "x"}}


class ComfyUI(_Handler):
    """Takes uploads and workflows, whose prompt is that of their CLIPTextEncode; what is queued is done at once."""

    uploads: dict[str, bytes] = {}

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/upload/image":
            _, files = form_of(self.headers["Content-Type"], data)
            name, content = files["image"]
            type(self).uploads = {**self.uploads, name: content}
            self.answer(200, {"name": name, "subfolder": "from charloom", "type": "input"})
            return
        workflow = json.loads(data)["prompt"]
        inputs = {node["class_type"]: node["inputs"] for node in workflow.values()}
        given = inputs["LoadImage"]["image"].removeprefix("from charloom/")
        with self.fake.lock:
            asked = Asked(self.path, inputs["CLIPTextEncode"]["text"], [self.uploads[given]], self.known(), workflow)
            self.fake.asked.append(asked)
            mood = self.fake.moods.pop(0) if self.fake.moods else "well"
        if isinstance(mood, int):
            type(self).uploads = {}  # as if it was started again
            self.answer(mood, {"error": "busy"})
        elif mood == "refused":
            found = {"type": "value_not_in_list", "extra_info": {"input_name": "unet_name"}}
            self.answer(400, {"node_errors": {"1": {"errors": [found]}}})
        elif mood == "stalls":
            time.sleep(0.6)
        else:
            number = len(self.fake.asked) - 1
            # Before the answer: it is asked for the moment its number is known.
            self.fake.sent[number] = mood if isinstance(mood, bytes) else self.fake.picture(asked)
            self.answer(200, {"prompt_id": f"{number}-{mood if isinstance(mood, str) else 'bytes'}"})

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        if parts.path.startswith("/history/"):
            number = parts.path.removeprefix("/history/")
            index, _, mood = number.partition("-")
            if mood == "slow":
                self.answer(200, {})
                return
            state = {"status_str": "error" if mood == "fails" else "success", "completed": True, "messages": []}
            image = {"filename": f"{index}.png", "subfolder": "", "type": "output"}
            self.answer(200, {number: {"status": state, "outputs": {"9": {"images": [image]}}}})
        elif parts.path == "/view":
            name = dict(urllib.parse.parse_qsl(parts.query))["filename"]
            self.answer(200, self.fake.sent[int(name.partition(".")[0])], Content_Type="image/png")
        else:
            self.answer(404, b"not found")


@contextlib.contextmanager
def running(handler: type[_Handler], fake: Fake) -> Iterator[Fake]:
    """The server on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"fake": fake}))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
