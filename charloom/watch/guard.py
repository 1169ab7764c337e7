"""Decides which requests the server of the live page answers.

The page shows and changes files of this machine, and every page that is open in the same browser can send requests to
127.0.0.1. So a request must name this very server as its host (a foreign name that resolves to 127.0.0.1 is DNS
rebinding), must not come from another site, and must carry the token of this session if it changes anything.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path

TOKEN = "x-charloom-token"
"""Header with the token; other sites would need a preflight request to send it, which is refused."""

SHOWN = {".png", ".webp", ".jpg", ".html", ".json", ".jsonl", ".csv", ".txt", ".log", ".tsv", ".safetensors"}
"""Suffixes of files that are served."""


def refusal(method: str, headers: Mapping[str, str], port: int, token: str) -> str | None:
    """Why a request is refused, in one line; None if it is allowed. Header names are lower case."""
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    if headers.get("host", "").lower() not in hosts:
        return "this server answers only to 127.0.0.1"
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{headers['host'].lower()}":
        return "requests from other pages are refused"
    reading = method in ("GET", "HEAD")
    site = headers.get("sec-fetch-site", "none")
    # A link on another site may open the page, but nothing of it may be embedded there.
    if site not in ("same-origin", "none") and not (reading and headers.get("sec-fetch-mode") == "navigate"):
        return "requests from other pages are refused"
    if reading:
        return None
    if origin is None:
        return "a change must come from the page itself"
    if not hmac.compare_digest(headers.get(TOKEN, "").encode(), token.encode()):
        return "the token of this session is missing or old; reload the page"
    return None


def inside(root: Path, path: str) -> Path | None:
    """The file ``path`` below ``root`` if it may be served, else None.

    The real location of the file decides, whatever ``..``, links or absolute paths ``path`` contains.
    """
    if "\0" in path or "\\" in path or ":" in path.partition("/")[0]:
        return None
    parts = path.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        return None
    try:
        home = root.resolve()
        found = home.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None
    if not found.is_relative_to(home) or not found.is_file() or found.suffix.lower() not in SHOWN:
        return None
    return found
