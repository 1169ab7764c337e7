"""Get one generated picture of a character; if it is not stored, get all of its pictures that are missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from charloom.core.errors import cli
from charloom.dataset import sources
from charloom.dataset.lint import on_likeness
from charloom.dataset.sources import purchases
from charloom.dataset.sources.session import Session
from charloom.workflow import generating, jobs, likeness
from charloom.workflow.arguments import path, value


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("--name", required=True, help="name of the shot, or reference")
    parser.add_argument("--reference", type=path, help="the reference picture; null for the reference itself")
    parser.add_argument(
        "--siblings", type=value, default=[], help="what to get on a miss: [shot, settings] of each, JSON"
    )
    parser.add_argument("--how", type=value, required=True, help="addresses, prices and what may be spent, JSON")
    parser.add_argument("--judge", type=value, help="the instruments that compare faces, JSON")
    parser.add_argument("--purchases", type=Path, required=True, help="file in which answers are counted")
    parser.add_argument("--record", type=path, help="file to write how the picture came about to")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "pictures")
    name, store, how = arguments.name, arguments.store, arguments.how
    source = arguments.settings["picture"]["source"]

    def device() -> Any:
        return jobs.torch_device(arguments.device, arguments.threads, how["limit"])

    content = None
    if source == "diffusers" and os.path.isdir(folder := os.path.expanduser(how["model"])):
        content = generating.content_of_model(Path(folder), store, log)
    batch = generating.Batch(
        {**dict(arguments.siblings), name: arguments.settings},
        arguments.reference,
        store,
        lambda: likeness.open_checker(
            arguments.reference, arguments.settings["identity"], arguments.judge, store, arguments.device
        ),
        content,
    )

    def artist() -> Any:
        more = {"device": str(device()), "log": log} if source == "diffusers" else {}
        return sources.get(source).open({**how, **more})

    found = batch.settled(name)
    if not generating.write(found, store, arguments.output, arguments.record):
        # One process at a time asks for a character's pictures, and counts what they cost.
        with store.lock(f"pictures-{arguments.purchases.stem}"):
            counted = purchases.Purchases(arguments.purchases)
            session = Session(store, counted, log, artist, purchases.Budget(**how["budget"]))
            batch.get(name, session.get, log)
        found = batch.settled(name)
        if not generating.write(found, store, arguments.output, arguments.record):
            raise RuntimeError(f"nothing was stored for {name}")
    assert isinstance(found, generating.Settled)
    if hit := on_likeness.hit(name, generating.record(found, arguments.output)):
        log(f"{name}: {hit.what}; {hit.remedy}")


if __name__ == "__main__":
    cli(main)
