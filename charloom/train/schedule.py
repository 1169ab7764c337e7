"""Which image each training sample shows, and at which resolution.

An *epoch* shows every image once (or ``repeats`` times). An image cycles through its resolutions from epoch to epoch,
so that after as many epochs as it has resolutions (a *round*) it was trained once at each: the visit counts of two
pairs (image, resolution) never differ by more than one. Regularization images have their own epochs.

A forward pass takes images of one shape, so the samples of a step should share a resolution. Therefore images change
their resolution in groups of one step's size, and a step takes images of one resolution as long as the epoch has enough
of them. Only if an epoch is not a multiple of a step, a few steps are mixed.

The plan is a function of the seed and the step number, computed by dealing out epochs from the first one. Independent
of files and tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from charloom.core import randomness

Visit = tuple[int, int]
"""(item, resolution)"""


class Deck:
    """The images of one kind, dealt out epoch by epoch.

    ``order`` holds item numbers, each as often as it appears in an epoch; ``resolutions`` are those of each item;
    ``group`` is the number of images per step.
    """

    def __init__(
        self, purpose: str, seed: int, order: Sequence[int], resolutions: Sequence[Sequence[int]], group: int
    ) -> None:
        self.purpose, self.seed, self.order, self.group = purpose, seed, order, group
        self._alike: dict[tuple[int, ...], list[int]] = {}
        for place, item in enumerate(order):
            self._alike.setdefault(tuple(resolutions[item]), []).append(place)
        self._epoch = 0
        self.left: dict[int, list[int]] = {}
        """Items still to be shown in this epoch, by resolution; the last one comes next."""

    def has(self, resolution: int) -> int:
        """How many images of the epoch are left at a resolution."""
        return len(self.left.get(resolution, ()))

    def deal(self) -> None:
        """Start a new epoch if the current one is used up."""
        if any(self.left.values()):
            return
        at = {}
        for index, (sizes, places) in enumerate(self._alike.items()):
            turn, step = divmod(self._epoch, len(sizes))
            who = randomness.permutation(self.seed, f"{self.purpose}-sizes", len(places), turn, index)
            which = randomness.permutation(self.seed, f"{self.purpose}-resolution", len(sizes), turn, index)
            for rank, chosen in enumerate(who):
                at[places[chosen]] = sizes[which[(rank // self.group + step) % len(sizes)]]
        self.left = {}
        for place in randomness.permutation(self.seed, self.purpose, len(self.order), self._epoch):
            self.left.setdefault(at[int(place)], []).append(self.order[int(place)])
        self._epoch += 1

    def take(self, count: int, wanted: int) -> list[Visit]:
        """The next ``count`` visits, at the resolution ``wanted`` as long as there are images left for it."""
        taken: list[Visit] = []
        while len(taken) < count:
            self.deal()
            resolution = wanted if self.has(wanted) else max(self.left, key=self.has)
            images = self.left[resolution]
            while images and len(taken) < count:
                taken.append((images.pop(), resolution))
        return taken


class Schedule:
    """The visits of every step of a run.

    ``order`` and ``regularization`` are item numbers, each as often as it appears in an epoch; with regularization
    items, every second sample shows one. ``resolutions`` are those of each item, ``draws`` is the number of samples per
    step.
    """

    def __init__(
        self,
        seed: int,
        order: Sequence[int],
        regularization: Sequence[int],
        resolutions: Sequence[Sequence[int]],
        draws: int,
    ) -> None:
        self._seed, self._resolutions, self._draws = seed, resolutions, draws
        self._orders = [("order", order), *([("order-reg", regularization)] if regularization else [])]
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        group = max(1, self._draws // len(self._orders))
        self._decks = [Deck(name, self._seed, order, self._resolutions, group) for name, order in self._orders]
        self._step = 0
        self._visits: list[Visit] = []

    def visits(self, step: int) -> list[Visit]:
        """What the samples of update ``step`` (from 1) show, in order. May be called from several threads."""
        with self._lock:
            if step < self._step:
                self._begin()
            while self._step < step:
                self._visits = self._next(self._step * self._draws)
                self._step += 1
            return self._visits

    def _next(self, first: int) -> list[Visit]:
        """The visits of one step, whose first sample has number ``first``; samples alternate between the decks."""
        turns = [(first + place) % len(self._decks) for place in range(self._draws)]
        needed = {self._decks[turn]: turns.count(turn) for turn in turns}
        for deck in needed:
            deck.deal()
        # The resolution that most of the step's images can have; in a tie, the one with most images left.
        resolution = max(
            dict.fromkeys(r for deck in needed for r in deck.left),
            key=lambda r: (sum(min(deck.has(r), n) for deck, n in needed.items()), sum(deck.has(r) for deck in needed)),
        )
        taken = {deck: iter(deck.take(count, resolution)) for deck, count in needed.items()}
        return [next(taken[self._decks[turn]]) for turn in turns]
