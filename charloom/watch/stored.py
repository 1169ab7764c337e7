"""Finds what a training has made so far: its checkpoints and previews, including those in the store.

The trainer stores them as it goes; they become files of the workflow when it has ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.config.base import Base
from charloom.config.character import Character
from charloom.core import files
from charloom.core.errors import UserError
from charloom.core.layout import WORK, Results, results, step_of
from charloom.core.store import Store
from charloom.train import progress
from charloom.workflow import samples, slices, studio

Checkpoints = dict[int, Path]
"""Files by step."""
Pictures = dict[int, dict[str, Path]]
"""Previews by step and the name of their prompt."""


class Stored:
    """Finds them for one character of the workflow in the folder ``root``, repeatedly while it trains."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: tuple[Any, Checkpoints] = (None, {})
        self._previews: samples.Previews | None = None

    def look(self, character: Character, base: Base | None, store: Store) -> tuple[Checkpoints, Pictures]:
        """The checkpoints and the previews that exist; step 0 is the base alone."""
        made = results(character.id, self.root)
        told = progress.read(made.training)
        saved = {step_of(path): path for path in made.checkpoints()}
        drawn = _drawn(made, character.prompt_names)
        if going := told if told and told.goes_on else None:
            # What the run before has left is no preview of this one.
            drawn = {step: {n: p for n, p in there.items() if going.is_new(p)} for step, there in drawn.items()}
        lock = files.read_mapping(self.root / WORK.lock(base.name)) if base else {}
        if lock:
            try:
                saved = self._checkpoints(made, character, store, lock)
                for step, pictures in self._pictures(made, character, store, lock, saved, bool(going)).items():
                    drawn[step] = drawn.get(step, {}) | pictures if going else pictures | drawn.get(step, {})
            except (OSError, ValueError, KeyError, TypeError, UserError):
                pass  # a file is broken or being replaced: show what is among the results
        newest, pictures = _newest(made, character.prompt_names)
        if newest > max(drawn, default=-1):
            drawn[newest] = pictures
        # Other steps are of a run with other settings, or rows that were asked for by hand.
        own = {0, *character.saved_steps, newest, told.saved if told else 0}
        return saved, {step: pictures for step, pictures in drawn.items() if pictures and step in own}

    def _checkpoints(self, made: Results, character: Character, store: Store, lock: dict[str, Any]) -> Checkpoints:
        told = progress.read(made.training)
        # The key of a run includes the digest of the LoRA that it starts from, too slow for every second.
        state = (told and (told.started, told.saved), made.checkpoints(), slices.train(character), store.root, lock)
        if state != self._known[0]:
            self._known = state, studio.checkpoints(character, store, lock, self.root)
        return {step: path for step, path in self._known[1].items() if path.is_file()}

    def _pictures(
        self,
        made: Results,
        character: Character,
        store: Store,
        lock: dict[str, Any],
        saved: Checkpoints,
        every: bool,
    ) -> Pictures:
        """The previews in the store that are not files of the workflow yet; with ``every``, all previews there."""
        known = self._previews
        if known is None or known.lock != lock or known.store.root != store.root:
            known = self._previews = samples.Previews(made.root, lock, store)
        wanted = slices.samples(character)
        # The newest may belong to `charloom try` and not to the run's own steps.
        steps = {*slices.all_samples(character)["steps"], max(saved, default=0)} if character.sampled_steps else set()
        found: Pictures = {}
        for step in steps & {0, *saved}:
            missing = {name: one for name, one in wanted.items() if every or not made.sample(step, name).is_file()}
            for one in known.of(step, missing, saved.get(step)):
                if (path := store.path(samples.KIND, one.key, ".png")).is_file():
                    found.setdefault(step, {})[one.prompt] = path
        return found


def _drawn(made: Results, prompts: list[str]) -> Pictures:
    """The previews among the results."""
    return {step: _there({prompt: made.sample(step, prompt) for prompt in prompts}) for step in made.sampled_steps()}


def _newest(made: Results, prompts: list[str]) -> tuple[int, dict[str, Path]]:
    """The trainer's own previews of the newest checkpoint: the settings, and with them the keys in the store, may have
    changed since it began."""
    step = files.read_mapping(made.newest_previews / "step.json").get("step")
    there = _there({prompt: made.newest_previews / f"{prompt}.png" for prompt in prompts})
    return (step, there) if isinstance(step, int) and there else (-1, {})


def _there(paths: dict[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in paths.items() if path.is_file()}
