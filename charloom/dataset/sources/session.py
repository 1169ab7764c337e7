"""Gets pictures from a generator: each is stored on arrival, counted against the budget, and never asked for again.

Temporary failures are retried after growing pauses, refusals in a fresh chat.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from charloom.core import files, pictures, words
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset.sources.orders import KIND, Again, Artist, Order, Refused, Wrong
from charloom.dataset.sources.purchases import BOUGHT, FAILED, LOST, REFUSED, STOPPED, Budget, Purchases

SMALLEST = 32
"""Pictures with an edge below this (pixels) are thumbnails or placeholders."""
ROOM = 2**26
"""Free bytes on the disk needed before a picture is asked for: one that cannot be stored would be paid for twice."""
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Patience:
    """How often one picture is asked for.

    After n failures the pause is ``first`` · 2ⁿ⁻¹ seconds, at most ``longest``, times a random factor from 0.5 to 1, so
    that several users of one key do not return at the same time.
    """

    tries: int = 7
    """Failures in a row before the server is left alone;"""
    refusals: int = 4
    """refusals of one picture, and"""
    wrong: int = 3
    """unusable answers that are charged for, before the next picture is tried."""
    first: float = 2.0
    longest: float = 60.0

    def pause(self, failures: int, wait: float | None = None) -> float:
        """Seconds to wait after so many failures in a row; at least what the server asks for, up to 10 minutes."""
        grown = min(self.longest, self.first * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
        return max(grown, min(wait or 0.0, 600.0))


@dataclass
class Session:
    """Where pictures go, what they may cost, and the log. ``artist`` opens the generator when a picture is missing."""

    store: Store
    purchases: Purchases
    log: Callable[[str], None]
    artist: Callable[[], Artist]
    budget: Budget = Budget()
    patience: Patience = Patience()
    pause: Callable[[float], None] = time.sleep
    _artist: Artist | None = field(default=None, repr=False)

    def get(self, orders: Sequence[Order]) -> dict[str, str]:
        """Get every picture that is not stored; returns, by name, why some could not be had.

        Raises:
            UserError: no further picture can be had; those that arrived are stored.
        """
        missing = [one for one in orders if not self.store.has(KIND, one.key, ".png")]
        # Otherwise the jobs that waited for this one would all retry as often, one after the other.
        if missing and (why := self.purchases.stopped()):
            raise UserError(why)
        for reference in {one.reference for one in missing if one.reference}:
            pictures.read(reference, pictures.MADE_HERE)  # do not pay for pictures drawn after a damaged reference
        failed: dict[str, str] = {}
        for number, order in enumerate(missing, 1):
            if why := self.purchases.given_up(order.key):
                failed[order.name] = why
                continue
            try:
                self._get(order, [one.name for one in missing[number - 1 :] if one.name not in failed])
            except _GivenUp as error:
                failed[order.name] = str(error)
                self.purchases.note(FAILED, order.name, order.key, why=str(error))
                self.log(f"{order.name}: {error}")
                continue
            except UserError as error:
                self.purchases.note(STOPPED, order.name, order.key, why=str(error))
                raise
            cost = f", {self.purchases.money:.2f} spent" if self.budget.price else ""
            self.log(f"{order.name}: there ({number} of {len(missing)}{cost})")
        return failed

    def _get(self, order: Order, names: list[str]) -> None:
        failures = refusals = wrong = 0
        price = self.budget.price
        while True:
            self._afford(names)
            files.need_room(self.store.root, ROOM)
            try:
                data = self._opened().draw(order)
            except Refused as error:
                refusals += 1
                self.purchases.note(REFUSED, order.name, order.key, why=str(error))
                if refusals >= self.patience.refusals:
                    raise _GivenUp(f"is refused ({error}); put it into other words, or draw it elsewhere") from None
                self.log(f"{order.name}: refused ({error}); asking again in a fresh chat")
                self._opened().fresh()
                continue
            except Again as error:
                failures += 1
                if error.charged:
                    self.purchases.note(LOST, order.name, order.key, price, str(error))
                    wrong += 1
                if failures >= self.patience.tries or wrong >= self.patience.wrong:
                    raise UserError(
                        f"{order.name}: no picture after {failures} tries ({error}); "
                        "run again later, what has arrived is kept"
                    ) from None
                seconds = self.patience.pause(failures, error.wait)
                self.log(f"{order.name}: {error}; again in {seconds:.0f} s")
                self.pause(seconds)
                continue
            except Wrong as error:
                self.purchases.note(LOST, order.name, order.key, price, str(error))
                wrong += 1
                self._wrong(order, wrong, str(error))
                continue
            # Counted before it is checked: it was charged for in any case.
            self.purchases.note(BOUGHT, order.name, order.key, price)
            failures = 0
            try:
                self._keep(order, data)
            except Wrong as error:
                wrong += 1
                self._wrong(order, wrong, str(error))
                continue
            return

    def _afford(self, names: list[str]) -> None:
        if self.purchases.affordable(self.budget) == 0:
            listed = words.listed(names, 3)
            spent = f"{self.purchases.pictures} pictures"
            spent += f" and {self.purchases.money:.2f} of money" if self.purchases.money else ""
            raise UserError(
                f"images.budget: is spent ({spent}) before {listed}; raise it to go on, what has arrived is kept"
            )

    def _wrong(self, order: Order, times: int, why: str) -> None:
        if times >= self.patience.wrong:
            raise _GivenUp(f"no usable picture arrived ({why}); check the settings of the generator")
        self.log(f"{order.name}: {why}; asking again")
        self._opened().fresh()

    def _opened(self) -> Artist:
        if self._artist is None:
            self._artist = self.artist()
        return self._artist

    def _keep(self, order: Order, data: bytes) -> None:
        """Store a picture: a PNG as it is, anything else converted.

        Raises:
            Wrong: it is damaged, a placeholder, or the reference itself.
        """
        with _file(data) as path:
            try:
                picture = pictures.read(path, "")
            except UserError as error:
                why = str(error).removeprefix(f"{path}: ").rstrip("; ")
                raise Wrong(f"the {len(data)} bytes of the answer are not a picture: it {why}") from None
            image = picture.image
            if min(image.size) < SMALLEST:
                raise Wrong(f"the picture has only {image.width}x{image.height} pixels")
            if len(set(image.resize((16, 16)).tobytes())) == 1:
                raise Wrong("the picture is blank")
            if order.reference and image.tobytes() == pictures.read(order.reference).image.tobytes():
                raise Wrong("the answer is the reference itself")
        with self.store.put(KIND, order.key, ".png") as entry:
            if data.startswith(PNG):
                entry.write_bytes(data)
            else:
                pictures.save_png(picture, entry)


class _GivenUp(Exception):
    """This picture cannot be had, but others may."""


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="charloom-") as folder:
        path = Path(folder, "answer")
        path.write_bytes(data)
        yield path
