"""The drawn world as training data: pictures by index, captions by index, nothing learned here.

Picture ``i`` shows identity ``i // SCENES`` in its own scene, so every identity appears in several
scenes and the two stay independent. Everything is a function of (seed, index).
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from charloom.paperdoll import attributes, language
from charloom.paperdoll.attributes import Identity, Scene
from charloom.paperdoll.draw import draw

SIZE = 256
SCENES = 4
"""Scenes per identity."""

UNSEEN_SEED = 990_001
"""The world that is measured on; training sees world 0."""


def person(seed: int, index: int) -> tuple[Identity, Scene]:
    """Identity and scene of picture ``index`` of the world ``seed``."""
    identity = attributes.random_identity(random.Random(f"identity-{seed}-{index // SCENES}"))
    return identity, attributes.random_scene(random.Random(f"scene-{seed}-{index}"))


def labels(seed: int, count: int, start: int = 0) -> dict[str, np.ndarray]:
    """Class index of every attribute for ``count`` pictures from ``start`` on, int16; -1 where it cannot be seen."""
    tables = attributes.TABLES
    out = {key: np.full(count, -1, dtype=np.int16) for key in tables}
    for index in range(count):
        identity, scene = person(seed, start + index)
        seen = attributes.visible(scene, identity)
        for key, values in tables.items():
            if seen[key]:
                owner = identity if key in attributes.IDENTITY_VALUES else scene
                out[key][index] = values.index(getattr(owner, key))
    return out


def _label_chunk(job: tuple[int, int, int]) -> dict[str, np.ndarray]:
    return labels(*job)


def all_labels(seed: int, count: int, workers: int, chunk: int = 2000) -> dict[str, np.ndarray]:
    """:func:`labels` of a whole world on several cores."""
    jobs = [(seed, min(chunk, count - start), start) for start in range(0, count, chunk)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        parts = pool.map(_label_chunk, jobs)
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _detail(job: tuple[str, str, int]) -> np.ndarray:
    """Where pictures of one tier and view differ when only the face does, (32, 32) in [0, 1]."""
    tier, view, pairs = job
    out = np.zeros((SIZE, SIZE))
    rng = random.Random(f"detail-{tier}-{view}")
    for _ in range(pairs):
        identity = attributes.random_identity(rng)
        scene = dataclasses.replace(attributes.random_scene(rng), tier=tier, view=view, glasses="none", hat="none")
        for first, second in (("neutral", "laughing"), ("sad", "surprised")):
            shots = [
                np.asarray(draw(identity, dataclasses.replace(scene, expression=e), SIZE, seed=0), dtype=float)
                for e in (first, second)
            ]
            out += np.abs(shots[0] - shots[1]).mean(-1) > 12
    cells = out.reshape(32, SIZE // 32, 32, SIZE // 32).mean((1, 3))
    return (cells / max(cells.max(), 1e-6)).astype(np.float32) if cells.max() > 0 else cells.astype(np.float32)


def detail_maps(workers: int, pairs: int = 24) -> np.ndarray:
    """(tiers, views, 32, 32) in [0, 1]: how often a latent cell shows a part of the face that expressions change."""
    jobs = [(tier, view, pairs) for tier in attributes.TIER for view in attributes.VIEW]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        maps = pool.map(_detail, jobs, chunksize=1)
    return np.stack(maps).reshape(len(attributes.TIER), len(attributes.VIEW), 32, 32)


def caption(seed: int, index: int, variant: int) -> str:
    """One of the training captions of picture ``index``."""
    identity, scene = person(seed, index)
    return language.training_caption(identity, scene, random.Random(f"caption-{seed}-{index}-{variant}"))


def _render_chunk(job: tuple[str, int, int, int]) -> int:
    path, seed, start, stop = job
    pictures = np.load(path, mmap_mode="r+")
    for index in range(start, stop):
        identity, scene = person(seed, index)
        pictures[index] = np.asarray(draw(identity, scene, SIZE, seed=index))
    return stop - start


def render(path: Path, seed: int, count: int, workers: int, chunk: int = 64) -> Iterator[int]:
    """Draw pictures into a uint8 memmap (count, 256, 256, 3) at ``path``; yields how many are done, in order."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3)).flush()
    jobs = [(str(path), seed, start, min(start + chunk, count)) for start in range(0, count, chunk)]
    done = 0
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for drawn in pool.imap(_render_chunk, jobs):
            done += drawn
            yield done


def _token_chunk(job: tuple[str, int, int, int, int, int]) -> np.ndarray:
    folder, seed, start, stop, variants, longest = job
    from transformers import AutoTokenizer

    from charloom.zimage.text import template

    tokenizer = AutoTokenizer.from_pretrained(folder)
    out = np.zeros((stop - start, variants, longest + 1), dtype=np.int16)
    texts = [template(tokenizer, caption(seed, i, v)) for i in range(start, stop) for v in range(variants)]
    for row, ids in zip(out.reshape(-1, longest + 1), tokenizer(texts)["input_ids"], strict=True):
        ids = ids[:longest]
        row[0] = len(ids)
        row[1 : 1 + len(ids)] = ids
    return out


def tokens(tokenizer: Path, seed: int, count: int, variants: int, longest: int, workers: int) -> np.ndarray:
    """Token ids of all captions, int16 (count, variants, 1 + longest); column 0 is the length."""
    chunk = max(64, count // (workers * 4))
    jobs = [(str(tokenizer), seed, s, min(s + chunk, count), variants, longest) for s in range(0, count, chunk)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return np.concatenate(pool.map(_token_chunk, jobs))
