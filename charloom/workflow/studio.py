"""Draws outside of the rules: any prompt with any LoRA that fits a character's base.

Pictures are drawn like those of the gallery (:class:`charloom.workflow.samples.Painter`), with everything loaded once.
They belong to the user and do not go into the store; the embeddings of their prompts do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.core import cores, files
from charloom.core.errors import UserError
from charloom.core.layout import WORK, results, step_of
from charloom.core.store import Store
from charloom.engine.options import EngineOptions
from charloom.train import progress
from charloom.workflow import jobs, slices, texts, training
from charloom.workflow.gallery import LoraFile
from charloom.workflow.samples import Painter, Wanted, precision_of

Log = Callable[[str], None]


def checkpoints(character: Character, store: Store, lock: dict[str, Any], root: Path = Path()) -> dict[int, Path]:
    """The checkpoints of a character by step, including those of a trainer that is still running ahead.

    Until a training has ended, files of the one before it lie among the results; they are none of its checkpoints.
    ``root`` is the folder of the workflow.
    """
    made = results(character.id, root)
    found = {step_of(path): path for path in made.checkpoints()}
    stored: dict[int, Path] = {}
    told = progress.read(made.training)
    record = root / WORK.prepared(slices.prepared_name(character), ".json")
    if told and made.manifest.is_file() and record.is_file():
        slice_ = json.loads(slices.train(character))
        every, last = character.recipe["save"]["every"], character.saved_steps[-1]
        settings = training.settings_of(slice_, every=every, last=last, shift=locks.shift(lock))
        run = training.key(settings, slice_, made.manifest, files.read_json(record), character.init)
        entries = {step: training.entry(run, step) for step in {*character.saved_steps, told.saved, *found}}
        paths = {step: store.path(training.KIND, entry, ".safetensors") for step, entry in entries.items()}
        stored = {step: path for step, path in paths.items() if path.is_file()}
    if told and told.goes_on:
        found = {step: path for step, path in found.items() if step <= told.saved or told.is_new(path)}
        return dict(sorted({**found, **stored}.items()))
    return dict(sorted({**stored, **found}.items()))


def lock_of(base: Base) -> dict[str, Any]:
    """The lock file of a base.

    Raises:
        UserError: it does not exist yet; the message has the command that makes it.
    """
    path = WORK.lock(base.name)
    if not path.is_file():
        size = f", with a download of {base.download_gb:g} GB" if base.repo and base.download_gb else ""
        raise UserError(f"{path}: is missing; to make it{size}: snakemake --cores 2 {path.as_posix()}")
    found: dict[str, Any] = files.read_json(path)
    return found


class Studio:
    """A base with everything that drawing needs, each part loaded when it is first used.

    Args:
        stay: keep the text encoder for further prompts, on the GPU if it fits beside the transformer.
    """

    def __init__(
        self, character: Character, base: Base, store: Store, device: str, log: Log, *, stay: bool, compiled: bool
    ) -> None:
        self.character, self.store, self.log, self.stay = character, store, log, stay
        self.lock = lock_of(base)
        said = json.loads(slices.engine(character))
        self.options = EngineOptions.from_values({**said, "compile": said["compile"] and compiled})
        self.device = jobs.torch_device(device, cores.usable(), self.options.limit, self.lock)
        self.precision = precision_of(next(iter(slices.samples(character).values())))
        self._text_settings = json.loads(slices.text_encoder(character))
        self._encoder: texts.Encoder | None = None
        self._painter: Painter | None = None

    def embed(self, prompts: Sequence[str]) -> dict[str, Path]:
        """Files with the embeddings of ``prompts`` and of the negative prompt, by text."""
        import torch

        wanted = [*dict.fromkeys([*prompts, self.character.negative_prompt])]
        if self.stay:
            # The transformer first: the text encoder may run on the CPU, the transformer may not.
            self.painter()
        if self._encoder is None:
            self._encoder = texts.Encoder(self.lock, self._text_settings, self.store, self._text_device())
        try:
            self._encoder.encode(wanted, self.log)
        except torch.OutOfMemoryError:
            self.log("the text encoder does not fit into the GPU memory: encoding on the CPU, which takes longer")
            cpu = jobs.torch_device("cpu", torch.get_num_threads())
            self._encoder = texts.Encoder(self.lock, self._text_settings, self.store, cpu)
            self._encoder.encode(wanted, self.log)
        if not self.stay:
            self._encoder.close()
        return {text: self._encoder.path(text) for text in wanted}

    def _text_device(self) -> Any:
        import torch

        from charloom.engine import memory
        from charloom.zimage import weights

        if self.device.type != "cuda" or not self.stay:
            return self.device
        needed = weights.bf16_bytes(locks.locate(self.lock, "text_encoder", self.store), "text_encoder")
        free = memory.budget(self.options.limit, self.device) - torch.cuda.memory_allocated(self.device)
        return self.device if free > 1.2 * needed else torch.device("cpu")

    def painter(self) -> Painter:
        """What draws, loaded at the first call."""
        if self._painter is None:
            self._painter = Painter(self.lock, self.store, self.device, self.log, self.options, self.precision)
        return self._painter

    def draw(self, asked: Sequence[tuple[str, dict[str, Any], Sequence[LoraFile]]]) -> Iterator[tuple[int, Any]]:
        """Draw pictures, one after the other; yields the index and the pixels (height, width, 3) uint8 of each.

        ``asked`` holds text, settings (``width``, ``height``, ``seed``, ``steps``, ``guidance``) and LoRAs of each.

        Raises:
            UserError: as :meth:`Painter.paint`.
        """
        embeddings = self.embed([text for text, _, _ in asked])
        negative = texts.key(self.character.negative_prompt, self.lock, self._text_settings)

        def away(settings: dict[str, Any]) -> Path | None:
            return self.store.path(texts.KIND, negative, ".safetensors") if settings["guidance"] > 1 else None

        wanted = [
            Wanted(index, "", None, embeddings[text], {**settings, "scale": 1.0}, "", tuple(loras), away(settings))
            for index, (text, settings, loras) in enumerate(asked)
        ]
        for members, pixels in self.painter().paint(wanted, at_once=1):
            yield members[0].step, pixels[0]
