"""Training samples: which image, size, caption and noise each step sees.

The plan of a step is a pure function of the settings, the manifest and the step number; latents and
embeddings are then looked up (read once, kept in RAM, checked against the hashes in the manifest). The
only thing assumed about the model is that captions of one forward share a padded length.

A manifest (``dataset.json``) is a list of items, or ``{"items": [...], "variants": {...}}``:

    item      name, latents, latents_sha256, embeddings, embeddings_sha256; optional weight, repeats, is_reg,
              class_embeddings with class_embeddings_sha256, mask with mask_sha256 and mask_weight, and
              resolutions, caption_dropout, flip_x, flip_y where they differ from the settings
    variants  empty, trigger: each with embeddings and embeddings_sha256

Paths are relative to the manifest, or else to the working directory. A latent file holds one tensor
"<W>x<H>" (in pixels) per bucket, plus "<W>x<H>.flip_x" and so on if flips are trained. An embedding file
holds "embeds" (L, D); the class embeddings are those of the caption with the class word. A mask file holds one
tensor "<W>x<H>" (h, w) per bucket, 1 on the person.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charloom.core import randomness
from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.tensors import read_safetensors
from charloom.train import timesteps
from charloom.train.keys import manifest_parts
from charloom.train.schedule import Schedule
from charloom.train.settings import TrainSettings
from charloom.zimage.forward import padded_length


class CorruptFile(UserError):
    """A latent or embedding file that does not match the manifest; ``path`` names it, so that it can be rebuilt."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}: delete it and run again, it will be rebuilt")
        self.path = path


@dataclass(frozen=True)
class Draw:
    """One planned training sample: item ``name`` at noise level ``sigma``, with its loss weight."""

    index: int
    item: int
    name: str
    sigma: float
    weight: float
    latents: Tensor
    caption: Tensor
    is_reg: bool
    mask: Tensor | None = None
    """Loss weights by position, (h, w)."""


@dataclass(frozen=True)
class Batch:
    """Samples of one shape: latents and noise (B, C, h, w) fp32, sigma and weight (B,) fp32, captions [(L_i, D)]."""

    latents: Tensor
    noise: Tensor
    sigma: Tensor
    weight: Tensor
    captions: list[Tensor]
    draws: list[Draw] = field(repr=False)
    mask: Tensor | None = None
    """Loss weights by position (B, 1, h, w); None if no sample has a mask."""


@dataclass(frozen=True)
class Share:
    """What one of ``count`` processes computes of an update.

    ``draws`` are all samples of the update in the order in which their gradients are added; ``batches`` are this
    process's by their place in that order, None if the last round has none for it; ``places`` is the number of batches
    of all processes.
    """

    draws: list[Draw]
    batches: list[tuple[int, Batch | None]]
    places: int
    count: int

    def filled(self, place: int) -> int:
        """How many processes have a batch in the round of ``place``."""
        return min(self.count, self.places - place // self.count * self.count)


class TrainingData:
    """The samples of a run, by step."""

    def __init__(self, manifest: Path, settings: TrainSettings) -> None:
        self.root = Path(manifest).parent
        self.settings = settings
        items, self.variants = read_manifest(manifest)
        self.items = items
        order, regularization = (
            [i for i, e in enumerate(items) if bool(e.get("is_reg")) == kind for _ in range(int(e.get("repeats", 1)))]
            for kind in (False, True)
        )
        if not order:
            raise UserError(
                f"{manifest}: no image to train on: every item is a regularization image or has repeats 0; add pictures"
            )
        train = settings.train
        resolutions = [self._own(e, "resolutions") for e in items]
        self.schedule = Schedule(train.seed, order, regularization, resolutions, train.draws_per_step)
        self._files: dict[str, dict[str, Tensor]] = {}
        if any(self._own(e, axis) for e in items if not e.get("is_reg") for axis in ("flip_x", "flip_y")):
            warnings.warn("flips make left and right the same: use them for textures, not for characters", stacklevel=2)

    def sigma_of(self, draw: int) -> float:
        """Noise level of a training sample."""
        train = self.settings.train
        return timesteps.sigma(train.seed, draw, train.timestep_type, train.timestep_bias, train.shift)

    def sigma_histogram(self, step: int) -> list[int]:
        """Histogram (20 bins over [0, 1]) of the noise levels of updates 1 to ``step``."""
        return timesteps.histogram([self.sigma_of(i) for i in range(step * self.settings.train.draws_per_step)])

    def draws(self, step: int) -> list[Draw]:
        """The samples of update ``step`` (from 1)."""
        first = (step - 1) * self.settings.train.draws_per_step
        return [self._draw(index, *visit) for index, visit in enumerate(self.schedule.visits(step), first)]

    def batches(self, step: int) -> Iterator[Batch]:
        """The samples of update ``step`` in batches of at most ``batch_size``, each of one shape.

        Samples are grouped by bucket and padded caption length, in order of appearance. Grouping only affects
        rounding, because every sample has its own noise and weight.
        """
        return map(self._batch, self._grouped(step))

    def share(self, step: int, rank: int = 0, count: int = 1) -> Share:
        """The batches of update ``step`` that one of ``count`` processes computes: every ``count``-th of them."""
        groups = self._grouped(step)
        rounds = range(rank, rank + -(-len(groups) // count) * count, count)
        batches = [(place, self._batch(groups[place]) if place < len(groups) else None) for place in rounds]
        return Share([draw for group in groups for draw in group], batches, len(groups), count)

    def _grouped(self, step: int) -> list[list[Draw]]:
        groups: dict[tuple[Any, ...], list[Draw]] = {}
        for draw in self.draws(step):
            groups.setdefault((tuple(draw.latents.shape), padded_length(len(draw.caption))), []).append(draw)
        size = self.settings.train.batch_size
        return [members[at : at + size] for members in groups.values() for at in range(0, len(members), size)]

    def stream(self, steps: range, ahead: bool, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[int, Share]]:
        """Yield (step, what this process computes of it); ``part`` is (rank, number of processes).

        ``ahead`` prepares the next step in a thread while the GPU is busy. This does not affect results, because every
        step is a function of its number.
        """
        if not ahead:
            yield from ((step, self.share(step, *part)) for step in steps)
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = None
            for step in steps:
                now = coming or pool.submit(self.share, step, *part)
                following = step + steps.step
                coming = pool.submit(self.share, following, *part) if following in steps else None
                yield step, now.result()

    def variant(self, kind: str) -> Tensor:
        """Embedding (L, D) of a caption variant: ``empty`` or ``trigger``."""
        entry = self.variants.get(kind)
        if entry is None:
            guess = self.root / "embeddings" / f"_{kind}.safetensors"
            if not guess.is_file():
                raise UserError(
                    f"{guess}: the embedding of the caption variant '{kind}' is missing from the data set; "
                    "delete the manifest, it will be rebuilt"
                )
            entry = {"embeddings": f"embeddings/_{kind}.safetensors"}
        return self._tensors(entry, "embeddings")["embeds"]

    def class_caption(self, item: int) -> Tensor:
        """Embedding of the item's caption with the class word for the trigger, even if that caption was dropped."""
        entry = self.items[item]
        if "class_embeddings" not in entry:
            raise UserError(f"item {entry['name']} has no class caption: delete the manifest, it will be rebuilt")
        return self._tensors(entry, "class_embeddings")["embeds"]

    def _own(self, entry: Mapping[str, Any], key: str) -> Any:
        """The item's own value of a setting of ``data``, or else the general one."""
        return entry.get(key, getattr(self.settings.data, key))

    def _draw(self, index: int, item: int, resolution: int) -> Draw:
        entry = self.items[item]
        sigma, key = self.sigma_of(index), self._bucket(index, entry, resolution)
        return Draw(
            index=index,
            item=item,
            name=str(entry["name"]),
            sigma=sigma,
            weight=float(entry.get("weight", 1)) * timesteps.loss_weight(sigma, self.settings.train.timestep_type),
            latents=self._tensors(entry, "latents")[key],
            caption=self._caption(index, entry),
            is_reg=bool(entry.get("is_reg", False)),
            mask=self._mask(entry, key),
        )

    def _bucket(self, index: int, entry: Mapping[str, Any], resolution: int) -> str:
        """Name of the latents to use, flips included."""
        tensors = self._tensors(entry, "latents")
        bucket = bucket_of(tensors, resolution)
        if bucket is None:
            raise UserError(f"{entry['latents']}: no latents of at most {resolution}² pixels; raise data.resolutions")
        seed = self.settings.train.seed
        flips = "".join(
            axis
            for axis in ("x", "y")
            if self._own(entry, f"flip_{axis}") and randomness.uniform(seed, f"flip_{axis}", index) < 0.5
        )
        key = f"{bucket}.flip_{flips}" if flips else bucket
        if key not in tensors:
            raise UserError(
                f"{entry['latents']}: has no latents '{key}', which data.flip_{flips[0]} needs; "
                "delete the file, it will be rebuilt"
            )
        return key

    def _mask(self, entry: Mapping[str, Any], key: str) -> Tensor | None:
        """Loss weights by position for an item's latents ``key``: 1 on the person, its ``mask_weight`` elsewhere."""
        if "mask" not in entry:
            return None
        bucket, _, flips = key.partition(".flip_")
        masks = self._tensors(entry, "mask")
        if bucket not in masks:
            raise UserError(f"{entry['mask']}: has no mask '{bucket}': delete it and run again, it will be rebuilt")
        axes = [{"x": 1, "y": 0}[axis] for axis in flips]
        person = masks[bucket].flip(axes) if axes else masks[bucket]
        weight = float(entry["mask_weight"])
        # A mask that is all person gives exactly 1; one without a person would leave nothing to learn from.
        weights = person + weight * (1.0 - person)
        return weights if weights.any() else torch.ones_like(weights)

    def _caption(self, index: int, entry: Mapping[str, Any]) -> Tensor:
        data, seed = self.settings.data, self.settings.train.seed
        dropout = self._own(entry, "caption_dropout")
        if dropout and randomness.uniform(seed, "caption-dropout", index) < dropout:
            # A regularization image shows someone else, who must not be given the trigger.
            return self.variant("empty" if entry.get("is_reg") else data.dropout_caption)
        return self._tensors(entry, "embeddings")["embeds"]

    def _batch(self, draws: list[Draw]) -> Batch:
        seed = self.settings.train.seed
        return Batch(
            latents=torch.stack([draw.latents for draw in draws]),
            noise=torch.stack([randomness.noise(seed, draw.index, tuple(draw.latents.shape)) for draw in draws]),
            sigma=torch.tensor([draw.sigma for draw in draws], dtype=torch.float32),
            weight=torch.tensor([draw.weight for draw in draws], dtype=torch.float32),
            captions=[draw.caption for draw in draws],
            draws=draws,
            mask=_masks(draws),
        )

    def _tensors(self, entry: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
        """The checked tensors (fp32) of a latent or embedding file, read once."""
        name = str(entry[kind])
        if name not in self._files:
            self._files[name] = read_checked(located(self.root, name), entry.get(f"{kind}_sha256"))
        return self._files[name]


def _masks(draws: list[Draw]) -> Tensor | None:
    """The masks of a batch; samples without one count everywhere."""
    if all(draw.mask is None for draw in draws):
        return None
    size = draws[0].latents.shape[1:]
    return torch.stack([torch.ones(size) if draw.mask is None else draw.mask for draw in draws])[:, None]


def read_manifest(path: Path, which: str = "items") -> tuple[list[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]:
    """Items (with ``which="holdout"`` the held-out ones) and variants of a manifest; every item is complete.

    Raises:
        UserError: no such file, not JSON, or an item without one of its keys.
    """
    try:
        manifest = json.loads(Path(path).read_text())
        items, variants = manifest_parts(manifest)
        if which != "items":
            items = list(manifest[which])
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest; run snakemake, which makes it") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a data set manifest ({error}); delete it, it will be rebuilt") from None
    for item in items:
        for key in ("name", "latents", "latents_sha256", "embeddings", "embeddings_sha256"):
            if key not in item:
                raise UserError(
                    f"{path}: item {item.get('name', '?')} has no {key}: delete the manifest, it will be rebuilt"
                )
    return items, variants


def located(root: Path, name: str) -> Path:
    """A file named in a manifest: relative to the manifest's folder, or else to the working directory."""
    beside = root / name
    return beside if beside.is_file() or beside.parent.is_dir() else Path(name)


def read_checked(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """Tensors of a file in fp32, after checking its hash and that all values are finite.

    Raises:
        CorruptFile: missing, altered, unreadable, or with values that are not finite.
    """
    if not path.is_file():
        raise CorruptFile(path, "the file is missing")
    if sha256 is not None and file_digest(path) != sha256:
        raise CorruptFile(path, "its SHA-256 differs from the manifest's")
    try:
        tensors, _ = read_safetensors(path)
    except UserError:
        raise CorruptFile(path, "it cannot be read") from None
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CorruptFile(path, f"tensor {name} holds NaN or infinity")
    return tensors


def bucket_of(names: Mapping[str, Any], resolution: int) -> str | None:
    """The largest bucket "<W>x<H>" among ``names`` with at most ``resolution``² pixels.

    An image smaller than the resolution has smaller buckets only: nothing is ever scaled up.
    """
    best: tuple[int, str] | None = None
    for name in names:
        width, _, height = name.partition("x")
        if width.isdigit() and height.isdigit() and int(width) * int(height) <= resolution**2:
            best = max(best or (0, ""), (int(width) * int(height), name))
    return best[1] if best else None
