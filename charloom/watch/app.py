"""The server of the live page: pages, files of ``results/``, a stream of events, and the choice of a checkpoint."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from charloom.core import last_run
from charloom.core.errors import UserError
from charloom.report.templating import render
from charloom.train import progress
from charloom.watch import choosing, guard, stream
from charloom.watch.board_routes import BoardRoutes
from charloom.watch.state import Watcher

PAUSE = 1.0
"""Seconds between two reads of the files."""
LARGEST = 10_000
"""Most bytes of a request that changes something."""

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    "x-frame-options": "DENY",
}


class Server:
    """The routes, using one :class:`Watcher`. ``port`` is that of the server, ``token`` permits changes."""

    def __init__(self, root: Path, port: int, token: str | None = None, pause: float = PAUSE) -> None:
        self.watcher = Watcher(root)
        self.port = port
        self.token = token or secrets.token_urlsafe(32)
        self.pause = pause
        self.closing = asyncio.Event()
        self.lock = asyncio.Lock()
        self._known: dict[str, tuple[float, str]] = {}
        self.board = BoardRoutes(self)

    def app(self) -> Any:
        """The ASGI application, guarded as a whole."""
        routes = [
            Route("/", self.page),
            Route("/c/{name}", self.page),
            Route("/events", self.events),
            Route("/state", self.state),
            Route("/files/{path:path}", self.file),
            Route("/previews/{name}/{key}", self.preview),
            Route("/choose", self.choose, methods=["POST"]),
            *self.board.routes(),
        ]
        return Guarded(Starlette(routes=routes), self)

    def close(self) -> None:
        """Stop background work, so that the program can end."""
        self.closing.set()
        self.board.looks.stop.set()

    async def page(self, request: Request) -> Response:
        return await self.show("watch.html.j2", request.path_params.get("name", ""))

    async def show(self, template: str, name: str) -> Response:
        """A page with the token of this session, which may load nothing from elsewhere and run only its own scripts."""
        if name and name not in await self._look(self.watcher.names):
            return PlainTextResponse("there is no such character\n", 404)
        nonce = secrets.token_urlsafe(16)
        text = render(template, "charloom.watch", name=name, token=self.token, nonce=nonce)
        policy = (
            f"default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{nonce}'; "
            "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(text, headers={"content-security-policy": policy})

    async def state(self, request: Request) -> Response:
        return Response(await self._snapshot(request.query_params.get("name", "")), media_type="application/json")

    async def events(self, request: Request) -> Response:
        """Server-sent events with the state, whenever it has changed."""
        name = request.query_params.get("name", "")
        return stream.changes(request, self.closing, lambda: self._snapshot(name), self.pause)

    async def _snapshot(self, name: str) -> str:
        """The state as JSON on one line, shared by pages that ask within the same second."""
        loop = asyncio.get_running_loop()
        async with self.lock:
            known = self._known.get(name)
            if known and loop.time() - known[0] < self.pause * 0.9:
                return known[1]
            if name and name not in await run_in_threadpool(self.watcher.names):
                return json.dumps(
                    {
                        "kind": "one",
                        "name": name,
                        "title": name,
                        "problem": "there is no such character; choose one on the page of all",
                    }
                )
            look = (lambda: self.watcher.character(name)) if name else self.watcher.everybody
            text = json.dumps(await run_in_threadpool(look), allow_nan=False, default=str)
            self._known[name] = (loop.time(), text)
            return text

    async def _look(self, question: Callable[[], Any]) -> Any:
        async with self.lock:
            return await run_in_threadpool(question)

    async def file(self, request: Request) -> Response:
        path = await run_in_threadpool(guard.inside, self.watcher.results, request.path_params["path"])
        return self._sent(path) if path else PlainTextResponse("there is no such file in results/\n", 404)

    async def preview(self, request: Request) -> Response:
        """A preview of a running training, which is only in the store."""
        name, key = request.path_params["name"], request.path_params["key"]
        path = await self._look(lambda: self.watcher.preview(name, key))
        return self._sent(path) if path else PlainTextResponse("there is no such preview\n", 404)

    @staticmethod
    def _sent(path: Path) -> Response:
        # A page from the results runs in an origin of its own: it can neither read the token nor make changes.
        policy = "sandbox allow-scripts allow-downloads allow-popups; default-src 'none'; img-src 'self' data:; "
        policy += "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        return FileResponse(path, headers={"content-security-policy": policy})

    async def choose(self, request: Request) -> Response:
        """``{"name", "step", "seen"}``: write ``checkpoint:`` into the character's file."""
        body = await request.body() if int(request.headers.get("content-length") or LARGEST + 1) <= LARGEST else b""
        try:
            asked = json.loads(body)
            name, step, seen = asked["name"], asked["step"], asked["seen"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return JSONResponse({"ok": False, "text": "the request cannot be read"}, 400)
        async with self.lock:
            try:
                text = await run_in_threadpool(self._choose, name, step, seen)
            except UserError as error:
                return JSONResponse({"ok": False, "text": str(error)}, 409)
            finally:
                self.watcher.forget()
                self._known.clear()
        return JSONResponse({"ok": True, "text": text})

    def _choose(self, name: Any, step: Any, seen: Any) -> str:
        people, _, _ = self.watcher.config()
        character, path = people.get(str(name)), self.watcher.file_of(str(name))
        if character is None or path is None:
            raise UserError("there is no such character; choose one on the page of all")
        steps = character.saved_steps
        if step != "auto" and (type(step) is not int or step not in steps):
            raise UserError(f"{step} is not a checkpoint of this run; take one of {', '.join(map(str, steps))}")
        if step == "auto" and character.ship:
            raise UserError(f"{path.name} says ship: {character.ship}; take that line out to let the scores choose")
        # Prepare the whole answer first: once the file is written, nothing may fail.
        again = last_run.again(self.watcher.root, character.id, character.id)
        running = self.watcher.training(character)["state"] == progress.RUNNING
        choosing.choose(path, step, str(seen))
        written = f"checkpoint: {step} written into {path.name}"
        if not running:
            return f"{written}; make the file with: {again}"
        now = "" if step == "auto" else f" (or end it now: charloom ship {name} --checkpoint {step})"
        return f"{written}; when training has ended{now}, make the file with: {again}"


class Guarded:
    """Middleware that refuses the requests to which :func:`guard.refusal` objects."""

    def __init__(self, app: Any, server: Server) -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            why = guard.refusal(scope["method"], headers, self.server.port, self.server.token)
            send = _with_headers(send)
            if why:
                await PlainTextResponse(why + "\n", 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _with_headers(send: Any) -> Any:
    async def wrapped(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            there = {key.lower() for key, _ in message["headers"]}
            more = [(k.encode(), v.encode()) for k, v in ALWAYS.items() if k.encode() not in there]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return wrapped
