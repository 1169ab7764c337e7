"""A style on a character: how much identity is lost, and in how many pictures the style is recognized.

    snakemake --cores 2 results/nika/final.safetensors results/ink/final.safetensors
    python benchmarks/style.py [--character nika] [--style ink] [--output benchmarks/results/style.json]

Draws the character's sample prompts with several seeds on the miniature: with her LoRA alone, and with the style's on
top at several strengths. Identity is measured by the miniature's own judge, relative to her pictures by the renderer.
The style is measured by :class:`charloom.judge.look.Reader`, as by the judge of styles: in each picture against the one
of the same prompt and seed without the style. The reader is calibrated on the renderer's pictures of strangers with and
without the style, and tested on other strangers: drawn once without and once with the style, and twice without it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

CALIBRATION, TEST = 100, 60
SEEDS = (7001, 8001, 9001, 10001)
STRENGTHS = (1.0, 0.8)


def strangers(
    seed: int, number: int, look: Any, again: int = 0, places: Sequence[str] = (), size: int = 256
) -> np.ndarray:
    """Pictures by the renderer of ``number`` strangers, uint8 (N, size, size, 3), anywhere or at ``places``.

    ``again`` varies how they are drawn, not what they show.
    """
    from charloom.paperdoll import attributes
    from charloom.paperdoll.draw import draw

    rng = random.Random(seed)
    drawn = []
    for _ in range(number):
        who, scene = attributes.random_identity(rng), attributes.random_scene(rng)
        if places:
            scene = dataclasses.replace(scene, background=rng.choice(places))
        drawn.append(np.asarray(draw(who, scene, size, seed=rng.randrange(10**6) + again, look=look)))
    return np.stack(drawn)


def reader_of(look: Any, places: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A reader of the style, and its accuracy on pictures by the renderer that it has not seen."""
    from charloom.judge.look import READ, Reader, cells

    def seen(*how: Any) -> np.ndarray:
        return np.stack([cells(picture) for picture in strangers(*how)])

    reader = Reader(seen(1, CALIBRATION, look), seen(2, CALIBRATION, None))
    right = {}
    for where, there in (("at the places of the prompts", places), ("anywhere", ())):
        drawn = [(look, 0), (None, 0), (None, 1)]
        styled, plain, other = (reader.read(seen(3, TEST, *how, there)) for how in drawn)
        shares = {"with": (styled - plain > READ).mean(), "without": (other - plain <= READ).mean()}
        right[where] = {kind: round(float(share), 4) for kind, share in shares.items()}
    return reader, {"calibrated_on": 2 * CALIBRATION, "tested_on": TEST, "right": right}


def judge_of(character: Any, weights: str) -> Any:
    """The miniature's judge, calibrated on the renderer's pictures of the character."""
    from charloom.dataset import captions, sources
    from charloom.judge import backend as judges
    from charloom.paperdoll import attributes
    from charloom.paperdoll.draw import draw

    source = sources.get("paperdoll")
    references = []
    for shot in character.shots:
        how = source.settings(character, shot)
        who, scene = attributes.Identity(**how["identity"]), attributes.Scene(**how["scene"])
        pixels = np.asarray(draw(who, scene, 256, seed=how["seed"]))
        references.append(judges.Picture(shot.name, captions.caption(character, shot), pixels))
    judge = judges.open_backend("paperdoll", Path(weights))
    judge.study(references)
    return judge


def measured(judge: Any, reader: Any, pictures: Sequence[Any]) -> dict[str, np.ndarray]:
    """Identity, obedience and style of each picture."""
    from charloom.judge.look import cells

    readings = judge.measure(pictures)
    return {
        "identity": np.array([reading.values["identity_relative"] for reading in readings]),
        "obedience": np.array([reading.values["obedience"] for reading in readings]),
        "background": np.array([reading.values.get("obedience.background", np.nan) for reading in readings]),
        "style": reader.read(np.stack([cells(picture.pixels) for picture in pictures])),
    }


def interval(fall: np.ndarray, whole: np.ndarray) -> list[float]:
    """95 % bootstrap interval of ``mean(fall) / mean(whole)`` over pictures (Efron 1979)."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(fall), (4000, len(fall)))
    return [round(float(value), 4) for value in np.quantile(fall[picks].mean(1) / whole[picks].mean(1), [0.025, 0.975])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--character", default="nika")
    parser.add_argument("--style", default="ink")
    parser.add_argument(
        "--lora", type=Path, help="the character's LoRA; results/<character>/final.safetensors if not given"
    )
    parser.add_argument("--style-lora", type=Path, help="the style's; results/<style>/final.safetensors if not given")
    parser.add_argument("--place", type=Path, default=Path("work/experiments"), help="folder for embeddings")
    parser.add_argument("--pictures", type=Path, help="file for a sheet of the first seed's pictures, .webp or .png")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    import torch
    from PIL import Image

    from charloom.base import locks
    from charloom.config.project import load
    from charloom.core.canonical import file_digest
    from charloom.core.store import Store
    from charloom.core.tensors import read_safetensors
    from charloom.judge import backend as judges
    from charloom.judge.look import READ
    from charloom.lora.adapter import load_stack
    from charloom.paperdoll import language
    from charloom.paperdoll.looks import LOOKS
    from charloom.workflow import slices, texts
    from charloom.zimage import sampler, weights

    torch.set_num_threads(arguments.threads)
    workflow = load(Path("."), {"base": "paperdoll"})
    character, style = workflow.characters[arguments.character], workflow.styles[arguments.style]
    base = workflow.bases["paperdoll"]
    lora = arguments.lora or Path("results", character.id, "final.safetensors")
    on_top = arguments.style_lora or Path("results", style.id, "final.safetensors")

    places = sorted({language.parse(prompt.text)["background"] for prompt in character.sample_prompts})
    reader, accuracy = reader_of(LOOKS[style.technique], places)
    print(f"reader: right on {accuracy['right']} of pairs by the renderer", flush=True)
    judge = judge_of(character, base.judge_weights or "")

    store = Store(arguments.place / "store")
    lock = locks.lock(json.loads(slices.base_lock(base)), store)
    encoder = json.loads(slices.text_encoder(character))
    prompts = [prompt for prompt in character.sample_prompts if prompt.scale == 1.0]
    texts.make([prompt.text for prompt in prompts], lock, encoder, store, torch.device("cpu"))
    keys = [texts.key(prompt.text, lock, encoder) for prompt in prompts]
    embeds = [read_safetensors(store.path(texts.KIND, key, ".safetensors"))[0]["embeds"] for key in keys]
    root = Path(lock["root"])
    model, vae = weights.load_transformer(root), weights.load_vae(root)
    wanted = [
        (prompt, embed, seed + place)
        for seed in SEEDS
        for place, (prompt, embed) in enumerate(zip(prompts, embeds, strict=True))
    ]

    def draw(parts: list[tuple[Path, float]]) -> list[Any]:
        with load_stack(model, parts):
            images = sampler.sample(
                model,
                vae,
                [embed for _, embed, _ in wanted],
                width=prompts[0].width,
                height=prompts[0].height,
                seeds=[seed for _, _, seed in wanted],
                steps=character.recipe["sample"]["steps"],
            )
        return [
            judges.Picture(f"{prompt.name}-{seed}", prompt.text, image, seed)
            for (prompt, _, seed), image in zip(wanted, images, strict=True)
        ]

    made = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "character": {"id": character.id, "sha256": file_digest(lora)},
        "style": {"id": style.id, "sha256": file_digest(on_top), "steps": style.recipe["train"]["steps"]},
        "reader": accuracy,
        "seeds": list(SEEDS),
        "rows": [],
    }
    drawn: dict[float, list[Any]] = {}
    alone: dict[str, np.ndarray] = {}
    for strength in (0.0, *STRENGTHS):
        drawn[strength] = draw([(lora, 1.0), (on_top, strength)] if strength else [(lora, 1.0)])
        values = measured(judge, reader, drawn[strength])
        alone = alone or values
        fall, moved = alone["identity"] - values["identity"], values["style"] - alone["style"]
        row = {
            "style_strength": strength,
            "pictures": len(fall),
            "identity": round(float(values["identity"].mean()), 4),
            "identity_falls_by": round(float(fall.mean() / alone["identity"].mean()), 4),
            "interval_95": interval(fall, alone["identity"]),
            "style_read_in": round(float((moved > READ).mean()), 4),
            "style": round(float(moved.mean()), 3),
            "obedience": round(float(values["obedience"].mean()), 4),
            "obedience_background": round(float(np.nanmean(values["background"])), 4),
        }
        made["rows"].append(row)
        print(json.dumps(row), flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if arguments.pictures:
        size = 128
        sheet = Image.new("RGB", (size * len(prompts), size * len(drawn)))
        for y, pictures in enumerate(drawn.values()):
            for x, picture in enumerate(pictures[: len(prompts)]):
                small = Image.fromarray(picture.pixels).resize((size, size), Image.Resampling.LANCZOS)
                sheet.paste(small, (x * size, y * size))
        arguments.pictures.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(arguments.pictures)


if __name__ == "__main__":
    main()
