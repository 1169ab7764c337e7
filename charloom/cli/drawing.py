"""What ``charloom draw`` uses: LoRAs, found and checked, and output files that never overwrite another."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.config import gallery
from charloom.config.character import Character
from charloom.config.project import Workflow
from charloom.core import files, last_run, layout
from charloom.core.errors import UserError, disk_problem
from charloom.core.layout import results, step_name
from charloom.core.store import Store
from charloom.deliver import infotext

if TYPE_CHECKING:
    from charloom.workflow.studio import Studio


@dataclass(frozen=True)
class Lora:
    """A LoRA and its ``name`` in the pictures' metadata; ``path`` is None for the base alone.

    ``label`` is its name in a grid, ``mark`` in file names; ``trigger`` is that of a style, if it has one.
    """

    name: str
    path: Path | None
    label: str = ""
    mark: str = ""
    trigger: str = ""


def untrained(character: Character) -> UserError:
    """The error that nothing is trained yet with which a character could be drawn."""
    again = last_run.again(Path(), character.id, character.id)
    return UserError(f"{character.id} has no checkpoint yet; to train it, run {again}")


@dataclass(frozen=True)
class Manner:
    """How pictures are drawn; without ``seed`` the next one that has no file yet is used."""

    width: int
    height: int
    steps: int
    guidance: float
    strength: float = 1.0
    seed: int | None = None
    count: int = 1
    styles: tuple[tuple[Lora, float], ...] = ()


@dataclass
class Drawn:
    """One picture that was saved."""

    path: Path
    seed: int
    prompt: str
    column: int


@dataclass
class Table:
    """What draws: a character, its LoRAs side by side (one, or several checkpoints), the folder for the pictures."""

    character: Character
    about: dict[str, Any]
    studio: Studio
    loras: Sequence[Lora]
    folder: Path
    say: Callable[[str], None]
    hashes: dict[Path, str] = field(default_factory=dict)

    def draw(self, prompts: Sequence[str], how: Manner) -> list[Drawn]:
        """Draw every prompt with every LoRA, and save each picture as soon as it is done."""
        asked = []
        triggers = [one.trigger for one, _ in how.styles]
        for text, seed in self._seeds([gallery.with_triggers(text, triggers) for text in prompts], how):
            for column, lora in enumerate(self.loras):
                own = ((lora, how.strength),) if lora.path else ()
                asked.append((text, seed, column, own + how.styles))
        settings = {key: getattr(how, key) for key in ("width", "height", "steps", "guidance")}
        jobs = [
            (text, {**settings, "seed": seed}, [(one.path, strength) for one, strength in loras])
            for text, seed, _, loras in asked
        ]
        done = []
        started = time.monotonic()
        for index, pixels in self.studio.draw(jobs):
            text, seed, column, loras = asked[index]
            mark = f"{seed}-{self.loras[column].mark}" if len(self.loras) > 1 else str(seed)
            used = [infotext.Used(one.name, self._hash(one.path), strength) for one, strength in loras]
            texts = infotext.chunks(str(seed), {**settings, "seed": seed, "text": text}, used, self.about)
            path = self._save(mark, pixels, texts)
            done.append(Drawn(path, seed, text, column))
            self.say(f"{path}  {time.monotonic() - started:.1f} s")
            started = time.monotonic()
        return sorted(done, key=lambda one: [one.prompt for one in done].index(one.prompt))

    def compare(self, drawn: Sequence[Drawn]) -> Path:
        """Save the pictures of several checkpoints side by side as one."""
        from charloom.report import grid

        rows = list(dict.fromkeys((one.prompt, one.seed) for one in drawn))
        found = {(one.prompt, one.seed, one.column): one.path for one in drawn}
        columns = [(lora.label, [found[(*row, column)] for row in rows]) for column, lora in enumerate(self.loras)]
        labels = [(str(seed), grid.short(text, self.character.trigger)) for text, seed in rows]
        page = grid.comparison_grid(labels, columns, title=f"{self.character.name}: checkpoints", cell=grid.DRAWN_CELL)
        path = reserve(self.folder, f"{rows[0][1]}-checkpoints")
        grid.save_picture(page, path)
        return path

    def sheet(self, drawn: Sequence[Drawn]) -> Path:
        """Save the pictures as one, each with its file's name and what sets its prompt apart."""
        from charloom.report import grid

        words = grid.differences([grid.short(one.prompt, self.character.trigger) for one in drawn])
        cells = [grid.Cell(one.path.stem, text, one.path) for one, text in zip(drawn, words, strict=True)]
        page = grid.checkpoint_grid(cells, title=self.character.name, largest=grid.DRAWN_CELL)
        path = reserve(self.folder, f"{drawn[0].seed}-sheet")
        grid.save_picture(page, path)
        return path

    def _seeds(self, prompts: Sequence[str], how: Manner) -> Iterator[tuple[str, int]]:
        if how.seed is not None:
            yield from ((text, how.seed + index) for text in prompts for index in range(how.count))
            return
        seed = next_seed(self.folder, self.character.recipe["sample"]["seed"])
        for text in prompts:
            for _ in range(how.count):
                yield text, seed
                seed += 1

    def _hash(self, path: Path | None) -> str:
        if path is None:
            return ""
        if path not in self.hashes:
            self.hashes[path] = infotext.tensors_hash(path)
        return self.hashes[path]

    def _save(self, mark: str, pixels: Any, texts: dict[str, str]) -> Path:
        from PIL import Image

        path = reserve(self.folder, mark)
        try:
            infotext.write(Image.fromarray(pixels), path, texts)
        except BaseException:
            if not path.stat().st_size:
                path.unlink()
            raise
        return path


def next_seed(folder: Path, first: int) -> int:
    """The seed after the highest that has a picture in ``folder``, or ``first``."""
    there = (re.match(r"(\d+)\b", path.name) for path in folder.glob("*.png"))
    return max([first, *(int(found[1]) + 1 for found in there if found)])


def reserve(folder: Path, mark: str) -> Path:
    """A new, empty file ``<mark>.png``, or ``<mark>-2.png``, … so that no picture is ever overwritten.

    Raises:
        UserError: the disk is full or may not be written to.
    """
    number = 1
    while True:
        path = folder / (f"{mark}.png" if number == 1 else f"{mark}-{number}.png")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.open("x").close()
            return path
        except FileExistsError:
            if not folder.is_dir():
                raise UserError(f"{folder}: is a file, not a folder; choose another --output") from None
            number += 1
        except OSError as error:
            raise UserError(disk_problem(error, path) or f"{path}: cannot be written ({error.strerror})") from None


class Loras:
    """The LoRAs of a character and others, found and checked; foreign layouts are converted into ``folder``."""

    def __init__(
        self, workflow: Workflow, character: Character, store: Store, lock: dict[str, Any], folder: Path, say: Callable
    ) -> None:
        self.workflow, self.character, self.store, self.lock = workflow, character, store, lock
        self.folder, self.say = folder, say

    def newest(self) -> Lora:
        """The finished file, or else the newest checkpoint, with a note.

        Raises:
            UserError: nothing is trained yet.
        """
        from charloom.workflow import studio

        made = results(self.character.id)
        if made.final.is_file():
            return self.file(made.final, self.character.id)
        there = studio.checkpoints(self.character, self.store, self.lock)
        if not there:
            raise untrained(self.character)
        step = max(there)
        last = self.character.saved_steps[-1]
        self.say(f"note: {self.character.id} is not finished; step {step} of {last} draws")
        return self.checkpoint(step)

    def checkpoint(self, step: int) -> Lora:
        """The checkpoint of a step; 0 is the base alone.

        Raises:
            UserError: there is no such checkpoint.
        """
        from charloom.workflow import studio

        if step == 0:
            return Lora("base", None, "without LoRA", "base")
        there = studio.checkpoints(self.character, self.store, self.lock)
        if step not in there:
            have = ", ".join(map(str, there)) or "none yet"
            raise UserError(f"{self.character.id} has no checkpoint of step {step}; use one of {have}")
        return Lora(f"{self.character.id}-{step_name(step)}", there[step], f"step {step}", step_name(step))

    def file(self, path: Path, name: str = "", trigger: str = "") -> Lora:
        """A file, checked against the base.

        Raises:
            UserError: it does not fit the base, or is not a LoRA at all.
        """
        from charloom.workflow import usable

        path_, notes = usable.checked(path, self.lock, self.folder)
        for note in notes:
            self.say(f"note: {note}")
        return Lora(name or layout.lora_name(path), path_, trigger=trigger)

    def style(self, text: str) -> tuple[Lora, float]:
        """``ink``, ``ink=0.8`` or ``file.safetensors=0.8``: a LoRA on top and its strength.

        Raises:
            UserError: there is no such style, it is made for another base, or it is not finished.
        """
        name, _, strength = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            value = float(strength)
            if not math.isfinite(value):
                raise ValueError
        except ValueError:
            raise UserError(f"--style {text}: the strength must be a number; write, say, {name}=0.8") from None
        if name.endswith(".safetensors"):
            return self.file(files.expanded(name)), value
        known = self.workflow
        people = {**known.characters, **known.broken}
        style = gallery.style_of(name, self.character, known.styles, known.broken_styles, f"--style {name}", people)
        made = results(name)
        if not made.final.is_file():
            raise UserError(f"{name} is not finished; to train it, run {last_run.again(Path(), name, name)}")
        return self.file(made.final, name, style.trigger), value
