"""A hub that speaks as much of the documented HTTP interface as an upload needs, well or badly."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_" + "s3cret" * 5


class FakeHub:
    """``repos`` are visibility and files by name; ``mood`` is how it answers; ``asked`` is what came, by path."""

    def __init__(self, repos: dict[str, dict[str, Any]] | None = None, mood: str = "well") -> None:
        self.repos = repos or {}
        self.mood = mood
        self.asked: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.url = ""

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any, dict[str, str]]:
        path = path.partition("?")[0]
        self.asked.append(f"{method} {path}")
        if path.startswith("/upload/"):
            if self.mood == "breaks off" and len(self.blobs) == 1:
                return 500, {"error": "no more"}, {}
            self.blobs[path.removeprefix("/upload/")] = body
            return 200, {}, {}
        if token != TOKEN:
            return 401, {"error": f"Invalid credentials in Authorization header {token}"}, {}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}}, {}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if wanted["organization"] != "me":
                return 403, {"error": f"You don't have the rights to create a model under {wanted['organization']}"}, {}
            private = wanted.get("private", wanted.get("visibility") == "private")
            self.repos[name] = {"private": private, "files": {}}
            return 200, {"url": f"{self.url}/{name}", "name": name}, {}
        if path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return 200, {"errors": [], "warnings": []}, {}
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.of_repo(method, "/".join(parts[2:4]), parts[4:], body)
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.url}/upload/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}, {}
        return 404, {"error": "no such page"}, {}

    def of_repo(self, method: str, name: str, rest: list[str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        if name not in self.repos:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        repo = self.repos[name]
        if method == "GET":
            siblings = [{"rfilename": file} for file in repo["files"]]
            return 200, {"id": name, "modelId": name, "private": repo["private"], "siblings": siblings}, {}
        if rest[0] == "preupload":
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "regular" if f["path"].endswith(".md") else "lfs",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": files}, {}
        if self.mood == "full":
            return 413, {"error": "Private repository storage limit reached"}, {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repo["files"][value["path"]] = self.blobs[value["oid"]]
                assert hashlib.sha256(self.blobs[value["oid"]]).hexdigest() == value["oid"]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}, {}


@contextlib.contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub on a free port of this machine, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self.chunks()
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            status, value, headers = hub.answer(self.command, self.path, body, token)
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {**headers, "Content-Type": "application/json", "Content-Length": len(data)}.items():
                self.send_header(name, str(text))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def chunks(self) -> bytes:
            out = b""
            while size := int(self.rfile.readline().strip(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out

        do_GET = do_POST = do_PUT = do_HEAD = do

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
