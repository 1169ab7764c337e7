"""Addresses of servers in the user's files: none may hold a secret, which would end up in logs, keys and bundles."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
"""Names of environment variables for API keys. A key itself hardly ever looks like this."""


def is_local(address: str) -> bool:
    """Whether an address is on this machine or in its own network, where nothing is charged for."""
    try:
        host = urlsplit(address).hostname or ""
        return host == "localhost" or host.endswith((".localhost", ".local")) or ip_address(host).is_private
    except ValueError:
        return False


def holds_secret(address: str) -> bool:
    """Whether an address has a user or a query (``https://user:key@host``, ``…?key=…``)."""
    authority = re.split(r"[/\\]", address.split("://", 1)[-1], maxsplit=1)[0]
    return "@" in authority or "?" in address


def mistake(address: str) -> str:
    """What is wrong with the address of an API that gets a key; nothing if it is well. Does not repeat the address."""
    if holds_secret(address):
        return "holds a password or a key; remove it, and pass the key in an environment variable"
    if not re.match(r"https?://[^/\s]+(/\S*)?$", address):
        return "is not an address; write one that begins with https://"
    if address.startswith("http://") and not is_local(address):
        return "would send the key unencrypted; use https://, or a server in your own network"
    return ""


def variable_mistake(name: str) -> str:
    """What is wrong with the name of a key's environment variable; it may be the key itself, so it is not repeated."""
    if VARIABLE.fullmatch(name):
        return ""
    return "must be the name of an environment variable in capitals, never the key itself"
