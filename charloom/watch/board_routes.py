"""The routes of the data set's board on the live page's server: the page, its pictures, and changes.

A change names a picture of a character, never a path, and says what its author has seen. Requests have already passed
:mod:`charloom.watch.guard`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from charloom.config.character import Character
from charloom.core.errors import UserError
from charloom.dataset import caption_files, picture_files
from charloom.watch import board, leaving_out, stream, thumbnails
from charloom.watch.looking import Looks
from charloom.workflow import board as data_set

if TYPE_CHECKING:
    from charloom.watch.app import Server

LARGEST = 64_000
"""Most bytes of a request about captions or names."""
UPLOAD = 128 * 2**20
"""Most bytes of an uploaded picture."""
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
"""Headers for thumbnails, whose address changes with the picture."""
NEVER = {"cache-control": "no-store"}
"""Headers for the placeholder of an unreadable picture, which may be readable the next time."""
IDLE = 5
"""The pause between two reads of the board, in multiples of the time of a read, so that huge folders cost little."""


class Refused(Exception):
    """A request that is refused, with a status and a line."""

    def __init__(self, status: int, text: str, **more: Any) -> None:
        super().__init__(text)
        self.reply = JSONResponse({"ok": False, "text": text, **more}, status)


class BoardRoutes:
    """The routes below ``/board/``, using the watcher and the lock of a :class:`charloom.watch.app.Server`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.looks = Looks(server.watcher.root)
        self._known: dict[str, tuple[float, float, str]] = {}
        self._checking = asyncio.Semaphore(1)
        self._shrinking = asyncio.Semaphore(2)

    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("/c/{name}/board", self.page),
            Route("/board/{name}/state", self.state),
            Route("/board/{name}/events", self.events),
            Route("/board/{name}/picture", self.picture),
            Route("/board/{name}/history", self.history),
            Route("/board/{name}/caption", self.caption, methods=["POST"]),
            Route("/board/{name}/proposal", self.proposal, methods=["POST"]),
            Route("/board/{name}/exclude", self.exclude, methods=["POST"]),
            Route("/board/{name}/tick", self.tick, methods=["POST"]),
            Route("/board/{name}/check", self.check, methods=["POST"]),
            Route("/board/{name}/put", self.put, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        return await self.server.show("board.html.j2", request.path_params["name"])

    async def state(self, request: Request) -> Response:
        return Response(await self._snapshot(request.path_params["name"]), media_type="application/json")

    async def events(self, request: Request) -> Response:
        """Server-sent events with the state, whenever it has changed."""
        name, server = request.path_params["name"], self.server
        return stream.changes(request, server.closing, lambda: self._snapshot(name), server.pause, IDLE)

    async def _snapshot(self, name: str) -> str:
        """The state as JSON on one line, shared by pages that ask at the same time."""
        loop = asyncio.get_running_loop()
        async with self.server.lock:
            known = self._known.get(name)
            if known and loop.time() - known[0] < max(self.server.pause, known[1]) * 0.9:
                return known[2]
            began = loop.time()
            text = await run_in_threadpool(self._read, name)
            self._known[name] = (loop.time(), loop.time() - began, text)
            return text

    def _read(self, name: str) -> str:
        watcher = self.server.watcher
        people, broken, problem = watcher.config()
        character = people.get(name)
        if character is None:
            line = (broken.get(name) or [problem or "there is no such character"])[0]
            return json.dumps({"kind": "board", "name": name, "title": name, "problem": line})
        made = board.read(character, watcher.root)
        look = self.looks.of(character, watcher.base_of(character), watcher.store_of(character), made.fingerprint)
        return json.dumps({**made.record(look), "problem": problem}, default=str)

    async def picture(self, request: Request) -> Response:
        """A small or a larger copy of a picture."""
        name, size = request.query_params.get("picture", ""), request.query_params.get("size", "small")
        try:
            if size not in thumbnails.EDGES:
                raise UserError("there is no such size; take one that the page offers")
            character = await self._character(request)
            path = await run_in_threadpool(self._file, character, name)
        except (Refused, UserError):
            path = None
        if path is None:
            return PlainTextResponse("there is no such picture\n", 404)
        async with self._shrinking:
            store = self.server.watcher.store_of(character)
            data, kind = await run_in_threadpool(thumbnails.thumbnail, path, size, store)
        kept = NEVER if data == thumbnails.NONE else FOREVER
        return Response(data, media_type=kind, headers={**kept, "content-security-policy": "default-src 'none'"})

    def _file(self, character: Character, name: str) -> Path | None:
        known(character, name)
        return data_set.file_of(character, name, self.server.watcher.root)

    async def history(self, request: Request) -> Response:
        """Former texts of a caption, newest first."""
        try:
            character = await self._character(request)
            name = known(character, request.query_params.get("picture", ""))
        except (Refused, UserError):
            return JSONResponse([], 404)
        found = await run_in_threadpool(caption_files.history, character, name, self.server.watcher.root)
        lines = [{"time": str(one.get("time", "")), "by": str(one.get("by", "")), "text": text}
                 for one in reversed(found) if isinstance(text := one.get("before"), str)]  # fmt: skip
        return JSONResponse(lines[:30])

    async def caption(self, request: Request) -> Response:
        """``{"picture", "text", "seen"}``: the caption becomes the user's own."""

        def write(character: Character, asked: dict[str, Any]) -> str:
            name, text, seen = texts(asked, "picture", "text", "seen")
            root = self.server.watcher.root
            path = data_set.write(character, known(character, name), text, by="you", seen=seen, root=root)
            return f"{name}: saved as {path}"

        return await self._changed(request, write)

    async def proposal(self, request: Request) -> Response:
        """``{"picture", "proposal", "take", "seen"}``: accept the proposed caption, or keep the present one."""

        def settle(character: Character, asked: dict[str, Any]) -> str:
            name, text, seen = texts(asked, "picture", "proposal", "seen")
            take, look, root = asked.get("take") is True, self.looks.known(character.id), self.server.watcher.root
            if look is None or look.review is None:
                raise UserError(f"{name}: there is no proposal; load the page again")
            data_set.settle(character, look.review, known(character, name), text, take=take, seen=seen, root=root)
            return f"{name}: {'the proposal is the caption now' if take else 'the caption stays, as your own'}"

        return await self._changed(request, settle)

    async def exclude(self, request: Request) -> Response:
        """``{"picture", "out"}``: leave the picture out, or bring it back."""

        def leave(character: Character, asked: dict[str, Any]) -> str:
            (name,), out = texts(asked, "picture"), asked.get("out") is True
            path = self.server.watcher.file_of(character.id)
            if path is None or not data_set.has(character, known(character, name)):
                raise UserError(f"there is no picture {name}; load the page again")
            if out and character.shot_names == [name]:
                raise UserError("this is the last picture; leave it, there must be one to train on")
            leaving_out.leave_out(path, [name], out)
            return f"{name}: {'left out, as' if out else 'back; it is no longer left out in'} {path.name}" + (
                " says now; its file stays" if out else ""
            )

        return await self._changed(request, leave)

    async def tick(self, request: Request) -> Response:
        """``{"picture", "on"}``: tick a prompt off, or undo that."""

        def tick(character: Character, asked: dict[str, Any]) -> str:
            (name,) = texts(asked, "picture")
            board.tick(character, name, asked.get("on") is True, self.server.watcher.root)
            return ""

        return await self._changed(request, tick)

    async def check(self, request: Request) -> Response:
        """Check the data set again."""

        def again(character: Character, asked: dict[str, Any]) -> str:
            self.looks.again(character.id)
            return ""

        return await self._changed(request, again)

    async def put(self, request: Request) -> Response:
        """The body is a picture: for the shot ``picture`` (of which ``version`` was seen), or a new one for the folder,
        named like ``file``."""

        async def work() -> str:
            with tempfile.TemporaryDirectory(prefix="charloom-") as folder:
                source = Path(folder, "picture")
                await _received(request, source)
                async with self._checking:  # a large picture takes much memory
                    await run_in_threadpool(picture_files.checked, source)
                    async with self.server.lock:
                        name, asked = request.path_params["name"], request.query_params
                        return await run_in_threadpool(self._put, name, asked, source)

        return await self._answer(work(), mistake=400)

    def _put(self, name: str, asked: Any, source: Path) -> str:
        character = self._now(name)
        if "picture" not in asked:
            return f"{picture_files.add(character, asked.get('file', ''), source).name}: added"
        picture, version = known(character, asked["picture"]), asked.get("version", "")
        path, former = picture_files.put(character, picture, source, expected=version)
        return f"{picture}: {path}" + (f"; the former picture is {former}" if former else "")

    async def _changed(self, request: Request, change: Callable[[Character, dict[str, Any]], str]) -> Response:
        """Answer a request that changes something, while no other change is made."""

        async def work() -> str:
            asked = await _asked(request)
            async with self.server.lock:
                return await run_in_threadpool(lambda: change(self._now(request.path_params["name"]), asked))

        return await self._answer(work())

    async def _answer(self, work: Awaitable[str], mistake: int = 409) -> Response:
        """Answer with what ``work`` has done, or why it could not; ``mistake`` is the status of a user's mistake."""
        try:
            text = await work
        except data_set.Outdated as error:
            words = error.words
            return Refused(409, str(error), current=words.text, seen=words.version).reply
        except picture_files.Changed as error:
            return Refused(409, str(error)).reply
        except UserError as error:
            return Refused(mistake, str(error)).reply
        except Refused as refused:
            return refused.reply
        finally:
            self.forget()
        return JSONResponse({"ok": True, "text": text})

    def forget(self) -> None:
        """Read everything again the next time."""
        self.server.watcher.forget()
        self._known.clear()

    def _now(self, name: str) -> Character:
        """The character, read from its files now."""
        self.server.watcher.forget()
        people, broken, problem = self.server.watcher.config()
        if problem or name not in people:
            raise UserError((broken.get(name) or [problem or "there is no such character"])[0])
        return people[name]

    async def _character(self, request: Request) -> Character:
        async with self.server.lock:
            people, _, _ = await run_in_threadpool(self.server.watcher.config)
        if (found := people.get(request.path_params["name"])) is None:
            raise Refused(404, "there is no such character")
        return found


def known(character: Character, name: str) -> str:
    """Return ``name`` if the character has such a picture.

    Raises:
        UserError: it has not.
    """
    if data_set.has(character, name) or (name == "reference" and data_set.sheet(character)[0]):
        return name
    raise UserError(f"there is no picture {name[:80]!r}; load the page again")


def texts(asked: dict[str, Any], *keys: str) -> list[str]:
    """The values of ``keys`` in a request, all of them texts.

    Raises:
        Refused: one is missing, or is not a text.
    """
    found = [asked.get(key) for key in keys]
    if not all(isinstance(value, str) for value in found):
        raise Refused(400, "the request cannot be read")
    return [str(value) for value in found]


async def _asked(request: Request) -> dict[str, Any]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            raise Refused(413, "the request is too long")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):  # RecursionError for deeply nested brackets
        asked = None
    if not isinstance(asked, dict):
        raise Refused(400, "the request cannot be read")
    return asked


async def _received(request: Request, target: Path) -> None:
    """Write the body of a request into a file, up to the allowed size."""
    most = f"the file is too large; a picture has at most {UPLOAD // 2**20} MB"
    with contextlib.suppress(ValueError):
        if int(request.headers.get("content-length") or 0) > UPLOAD:
            raise Refused(413, most)
    size = 0
    with open(target, "wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > UPLOAD:
                raise Refused(413, most)
            file.write(part)
