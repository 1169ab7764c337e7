"""Starts the server of the live page, reachable from this machine only."""

from __future__ import annotations

import socket
from pathlib import Path

from charloom.config import schema
from charloom.core import garbage
from charloom.core.errors import UserError

HOST = "127.0.0.1"
PORT = 8642
INSTALL = "charloom watch needs Starlette, uvicorn and ruamel.yaml: pip install 'charloom[watch]'"


def missing() -> str | None:
    """What to install, in one line; None if everything is there."""
    from importlib.util import find_spec

    try:
        there = all(find_spec(name) for name in ("starlette", "uvicorn", "ruamel.yaml"))
    except ModuleNotFoundError:  # no ruamel at all
        there = False
    return None if there else INSTALL


def bound(port: int | None) -> socket.socket:
    """A socket on ``port``; if that is None, on the usual port or any free one.

    Raises:
        UserError: ``port`` is taken.
    """
    for wanted in [port] if port is not None else [PORT, 0]:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((HOST, wanted))
            found.listen()  # before this another process could take the same port
        except (OSError, OverflowError) as error:
            found.close()
            if port is not None:
                raise UserError(f"port {port} cannot be used ({error}); choose another with --port") from None
        else:
            return found
    raise UserError("no port is free on 127.0.0.1; choose one with --port")


def serve(root: Path, name: str | None, port: int | None) -> None:
    """Serve the live page of ``root`` until Ctrl+C.

    Raises:
        UserError: something is not installed, there is no such character, or the port is taken.
    """
    if line := missing():
        raise UserError(line)
    import uvicorn

    from charloom.watch.app import Server

    listener = bound(port)
    server = Server(root, listener.getsockname()[1])
    if name is not None and name not in (names := server.watcher.names()):
        listener.close()
        raise UserError(f"there is no config/characters/{name}.yaml; {schema.meant(name, names)}")
    print(f"http://{HOST}:{server.port}/{f'c/{name}' if name else ''}  (stop with Ctrl+C)", flush=True)
    config = uvicorn.Config(server.app(), log_level="warning", lifespan="off", server_header=False,
                            timeout_graceful_shutdown=1)  # fmt: skip

    class Uvicorn(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            server.close()  # ends the streams of events, which would outlive the grace period
            await super().shutdown(sockets)

    garbage.loaded()  # the server may run for days
    Uvicorn(config).run(sockets=[listener])
