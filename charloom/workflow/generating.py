"""Gets all generated pictures of a character, and decides which attempt at each picture counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.canonical import digest, file_digest
from charloom.core.contents import remembered
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset.sources.orders import KIND, Order
from charloom.workflow.likeness import Checker, Likeness


@dataclass(frozen=True)
class Settled:
    """The picture that a shot gets: the attempt, and its likeness to the reference."""

    order: Order
    likeness: Likeness | None


class Batch:
    """The pictures of one character.

    Args:
        wanted: by shot, what :func:`charloom.workflow.picture_slices.wanted` gives.
        reference: the reference picture; None if this is about the reference itself.
        content: digest of a local model, part of every key.
        checker: opens the check against the reference; called when the first picture has to be compared.
    """

    def __init__(
        self,
        wanted: dict[str, dict[str, Any]],
        reference: Path | None,
        store: Store,
        checker: Callable[[], Checker],
        content: str | None = None,
    ) -> None:
        self.wanted, self.reference, self.store = wanted, reference, store
        self._sha = file_digest(reference) if reference else None
        self._open, self._checker = checker, None
        self._content = {"content": content} if content else {}
        self._given_up: set[str] = set()

    def orders(self, name: str) -> list[Order]:
        """The attempts at one picture in their order; the first one counts if nothing is wrong with it."""
        given = self.wanted[name]
        first = given.get("first", 0)
        settings = {**given["picture"], **self._content}
        tries = range(first, first + 1 + given.get("retry", 0))
        return [Order(name, settings, attempt, self.reference, self._sha) for attempt in tries]

    def settled(self, name: str) -> Settled | Order:
        """The picture of a shot, or the attempt that is needed first.

        The picture is the first attempt that is not far from the reference; if all are, or no further attempt succeeds,
        the one most like it.
        """
        tried = []
        for order in self.orders(name):
            path = self.store.path(KIND, order.key, ".png")
            if not self.store.has(KIND, order.key, ".png"):
                if tried and name in self._given_up:
                    break
                return order
            likeness = self._likeness(path) if "identity" in self.wanted[name] else None
            if likeness is None or not likeness.far:
                return Settled(order, likeness)
            tried.append(Settled(order, likeness))
        return max(tried, key=lambda one: one.likeness.similarity if one.likeness else 0.0)

    def get(self, first: str, buy: Callable[[list[Order]], dict[str, str]], log: Callable[[str], None]) -> None:
        """Get what is missing of every picture, ``first`` before the others, until each is settled.

        ``buy`` gets orders and returns, by name, why some failed. Those are reported at the end, when all others are
        there.

        Raises:
            UserError: ``first`` failed; with a line for every failure.
        """
        failed: dict[str, str] = {}
        names = [first, *(name for name in self.wanted if name != first)]
        while missing := [one for n in names if n not in failed and isinstance(one := self.settled(n), Order)]:
            again = [order.name for order in missing if order.attempt > self.wanted[order.name].get("first", 0)]
            if again:
                log(f"far from the reference: {', '.join(again)}; asking again")
            try:
                refused = buy(missing)
                self._given_up |= set(refused)
                failed |= {name: why for name, why in refused.items() if isinstance(self.settled(name), Order)}
                for name in refused.keys() - failed.keys():
                    log(f"{name}: no further attempt ({refused[name]}); the nearest of those before is taken")
            except UserError as error:
                if isinstance(self.settled(first), Order):
                    raise
                log(f"the other pictures have to wait: {error}")
                break
        if why := getattr(self._checker, "why", ""):
            log(why)
        lines = [f"{name}: {failed[name]}" for name in names if name in failed]
        if first in failed:
            raise UserError.several(lines)
        for line in lines:
            log(f"left out: {line}")

    def _likeness(self, path: Path) -> Likeness | None:
        if self._checker is None:
            self._checker = self._open()
        (found,) = self._checker.measure([path])
        return found


def record(settled: Settled, path: Path) -> dict[str, Any]:
    """How a picture came about, as plain values; ``path`` is where it is."""
    settings = {key: value for key, value in settled.order.settings.items() if key != "recipe"}
    return {
        **settings,
        "key": settled.order.key,
        "attempt": settled.order.attempt,
        "sha256": file_digest(path),
        "reference": settled.order.reference_sha256,
        "identity": settled.likeness.record() if settled.likeness else None,
    }


def content_of_model(folder: Path, store: Store, log: Callable[[str], None]) -> str:
    """A digest of a pipeline in a folder."""
    from charloom.dataset.sources.diffusers import files_of

    return digest({p.relative_to(folder).as_posix(): remembered(p, store, tell=log) for p in files_of(folder)})


def write(settled: Settled | Order, store: Store, output: Path, path: Path | None) -> bool:
    """Put a picture and its record in place; False if the picture is missing or damaged and has to be requested."""
    if not isinstance(settled, Settled) or not store.fetch(KIND, settled.order.key, ".png", output):
        return False
    if path:
        files.write_json(path, record(settled, output))
    return True
