"""Makes the data set of a training with the library's own stages, in a folder with the layout of ``results/<name>/``.

What the workflow does in one job per rule happens here in one process. Folders are named by what is in them, and
finished ones are reused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.config.base import Base
from charloom.config.project import load
from charloom.core import files
from charloom.core.canonical import digest, file_digest
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.dataset import captions, crop, manifest, sources
from charloom.experiments.design import Training
from charloom.paperdoll import attributes, language
from charloom.workflow import latents, prepared, slices, texts

ACCESSORIES = ("earrings", "necklace", "glasses", "hat")


@dataclass(frozen=True)
class Place:
    """The folder where experiments keep what they make; it is safe to delete."""

    root: Path

    @property
    def store(self) -> Store:
        """The store of latents, embeddings and checkpoints."""
        return Store(self.root / "store")

    @cached_property
    def base(self) -> Base:
        """The miniature base."""
        return load(Path("."), {"base": "paperdoll"}).bases["paperdoll"]

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The digests of the miniature's files."""
        path = self.root / "base.lock.json"
        with self.store.lock("base"):
            if not path.is_file():
                files.write_json(path, locks.lock(json.loads(slices.base_lock(self.base)), self.store))
        return dict(files.read_json(path))

    def transformer(self, training: Training) -> tuple[Path, dict[str, Any]]:
        """The transformer that ``training`` starts from, and its record."""
        recipe = training.person.recipe
        name = slices.prepared_name(training.person)
        path, record = (self.root / f"{name}{suffix}" for suffix in (".safetensors", ".json"))
        lock = self.lock
        with self.store.lock("prepare"):
            if not record.is_file():
                kind = recipe["quantization"]["transformer"]
                settings = json.loads(slices.prepared_base(recipe["training_adapter"], kind))
                files.write_json(record, prepared.make(lock, settings, path, self.store, lambda text: None))
        return path, files.read_json(record)

    def dataset(self, training: Training) -> Results:
        """The finished data set of ``training``."""
        person = training.person
        drawn = {name: picture(training, name) for name in person.shot_names}
        said = {shot.name: captions.caption(person, shot) for shot in person.shots}
        sizes = slices.latents(person, person.shot_names[0])
        name = digest({"pictures": drawn, "said": said, "crop": person.crop, "sizes": sizes})[:16]
        made = Results(self.root / "data" / f"{person.id}-{name}")
        with self.store.lock(made.root.name):
            if not made.manifest.is_file():
                self._make(training, made, drawn, said)
        return made

    def _make(self, training: Training, made: Results, drawn: dict[str, Any], said: dict[str, str]) -> None:
        import torch

        person, store, cpu = training.person, self.store, torch.device("cpu")
        source = sources.get("paperdoll")
        for name, settings in drawn.items():
            made.source(name).parent.mkdir(parents=True, exist_ok=True)
            made.dataset.mkdir(parents=True, exist_ok=True)
            source.make(settings, [], made.source(name))
            crop.crop_file(made.source(name), made.image(name), **person.crop)
            made.source(name).unlink()
            made.caption(name).write_text(said[name] + "\n", encoding="utf-8")
        sizes = json.loads(slices.latents(person, person.shot_names[0]))
        latents.make([made.image(name) for name in drawn], self.lock, sizes, store, cpu)
        encoder = json.loads(slices.text_encoder(person))
        others = {key: text for key, text in slices.texts(person).items() if not key.startswith("_prompt-")}
        texts.make([*said.values(), *others.values()], self.lock, encoder, store, cpu)
        for name in drawn:
            key = latents.key(file_digest(made.image(name)), self.lock, sizes)
            store.fetch(latents.KIND, key, ".safetensors", made.latents(name))
        for name, text in {**said, **others}.items():
            store.fetch(texts.KIND, texts.key(text, self.lock, encoder), ".safetensors", made.embedding(name))
        files.write_json(made.manifest, manifest.manifest(made.root, json.loads(slices.manifest(person))))

    def embeddings(self, training: Training, prompts: list[str]) -> list[Any]:
        """The embeddings of ``prompts``."""
        import torch

        from charloom.core.tensors import read_safetensors

        encoder = json.loads(slices.text_encoder(training.person))
        with self.store.lock("texts"):
            texts.make(prompts, self.lock, encoder, self.store, torch.device("cpu"))
        keys = [texts.key(text, self.lock, encoder) for text in prompts]
        return [read_safetensors(self.store.path(texts.KIND, key, ".safetensors"))[0]["embeds"] for key in keys]


def picture(training: Training, name: str) -> dict[str, Any]:
    """What the renderer draws for a shot. With ``data.worn``, accessories are drawn even if too small to see."""
    settings = sources.get("paperdoll").settings(training.drawn, training.drawn.shot(name))
    if training.data.get("worn"):
        worn = language.parse(", ".join(training.drawn.shot(name).accessories))
        settings["scene"] |= {key: worn[key] for key in ACCESSORIES if key in worn}
    return dict(settings)


def scenes(training: Training) -> list[attributes.Scene]:
    """The scenes of the training pictures, as they were drawn."""
    return [attributes.Scene(**picture(training, name)["scene"]) for name in training.person.shot_names]
