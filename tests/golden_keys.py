"""Digests of every settings slice of the shipped characters, and store keys of fixed inputs.

    python tests/golden_keys.py --write     # after a change that is meant

While they stay, no code that moves makes anything run again. Slices are found by themselves: every public function of
``charloom.workflow.slices`` and ``delivery``, called for each character, image, text and prompt that it can be asked
for.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code beside this file, whatever is installed

from charloom.config import project
from charloom.core.canonical import digest
from charloom.core.store import Store
from charloom.train import keys
from charloom.train import settings as training
from charloom.workflow import (
    delivery,
    gallery_slices,
    judge_slices,
    latents,
    prepared,
    samples,
    scores,
    slices,
    texts,
)

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "fixtures" / "golden_keys.json"
REMEDY = (
    "If results change for these inputs, raise the recipe number of that stage (charloom/core/versions.py, or RECIPE "
    "of the training settings) and regenerate; if they were meant to stay, mend the code; if a shipped file was meant "
    "to change, regenerate: python tests/golden_keys.py --write"
)

COMPONENTS = {part: f"{part}-digest" for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")}
LOCK = {
    "name": "fixed",
    "components": COMPONENTS,
    "adapters": {"v1": {"repo": "owner/name", "file": "v1.safetensors", "revision": "abc", "sha256": "1" * 64}},
}


def collect() -> dict[str, dict[str, str]]:
    """Short digests by what they are of: ``slices of leyla``, ``slices of base paperdoll``, ``store keys``."""
    workflow = project.load(ROOT)
    found = {f"slices of {name}": _slices(workflow, character) for name, character in workflow.characters.items()}
    found |= {f"slices of base {name}": _slices(workflow, base=base) for name, base in workflow.bases.items()}
    return {**found, "store keys": {name: _short(key) for name, key in _store_keys()}}


def _slices(workflow: Any, character: Any = None, base: Any = None) -> dict[str, str]:
    out = {}
    modules = (slices, judge_slices, delivery, gallery_slices)
    for name, function in [pair for module in modules for pair in vars(module).items()]:
        here = [module.__name__ for module in modules]
        if name.startswith("_") or not inspect.isfunction(function) or function.__module__ not in here:
            continue
        wanted = list(inspect.signature(function).parameters)
        if wanted[0].startswith("character") == (character is None):
            continue
        made = [function(*arguments) for arguments in _calls(name, wanted, workflow, character, base)]
        # A function with parameters that are not known here is pinned by its name alone; add them to _calls.
        out[name] = _short(digest(made)) if made else "-"
    return out


def _calls(name: str, wanted: list[str], workflow: Any, character: Any, base: Any) -> Iterator[list[Any]]:
    """Lists of arguments that a slice function can be called with."""
    if wanted == ["base"]:
        yield [base]
    elif wanted == ["adapter", "quantization"]:
        yield from ([adapter, kind] for adapter in ("none", *base.adapters) for kind in ("none", "bf16", "float8"))
    elif name == "drift_sample":
        yield from ([character, f"{character.prompt_names[0]}-{kind}"] for kind in ("class", "steps"))
    elif wanted == ["character"]:
        yield [character]
    elif wanted == ["characters"]:
        yield [[character]]
    elif wanted == ["character", "base"]:
        yield [character, workflow.bases[character.base]]
    elif wanted == ["character", "prompt_name"]:
        yield from ([character, prompt] for prompt in character.prompt_names)
    elif wanted[-1] == "scene_name":
        more = [workflow.bases[character.base]] if "base" in wanted else []
        yield from ([character, *more, one.name] for one in character.gallery)
    elif name == "text":
        yield from ([character, text] for text in slices.texts(character))
    elif wanted in (["character", "shot_name"], ["character", "name"]):
        yield from ([character, image] for image in character.image_names)
        if name == "source_image":
            yield [character, None]


def _store_keys() -> Iterator[tuple[str, str]]:
    image = "0" * 64
    yield "latents", latents.key(image, LOCK, {"resolutions": [512, 768], "flips": ["x"], "recipe": 1})
    yield "embedding", texts.key("a photo of l3yla", LOCK, {"quantization": "none", "recipe": 2})
    for kind in ("none", "float8"):
        yield f"prepared base, {kind}", prepared.key(LOCK, {"adapter": "v1", "quantization": kind, "recipe": 3})
    yield "prepared base, no adapter", prepared.key(LOCK, {"adapter": "none", "quantization": "none", "recipe": 3})
    items = [
        {"latents_sha256": image, "embeddings_sha256": "2" * 64},
        {"latents_sha256": "3" * 64, "embeddings_sha256": "4" * 64, "weight": 0.5, "repeats": 2, "is_reg": True,
         "resolutions": [512], "caption_dropout": 0.1, "class_embeddings_sha256": "5" * 64},
    ]  # fmt: skip
    manifest = {"items": items, "holdout": items[:1], "variants": {"empty": {"embeddings_sha256": "6" * 64}}}
    data = keys.manifest_digest(manifest)
    yield "data set", data
    yield "data set without variants", keys.manifest_digest(items)
    plain = training.TrainSettings()
    yield "training run", keys.run_key(plain.slice(), data, "base-digest")
    yield "training run, recipe number 1", keys.run_key({"train": {"lr": 1e-4}}, data, "base-digest", 1)
    yield "checkpoint", keys.checkpoint_key("run", 250)
    with tempfile.TemporaryDirectory() as folder:
        yield from _keys_of_files(Path(folder))


def _keys_of_files(results: Path) -> Iterator[tuple[str, str]]:
    """Keys that depend on files of a character: its previews and their scores."""
    for name in ("checkpoints/step-000250.safetensors", "embeddings/_prompt-01.safetensors",
                 "embeddings/_empty.safetensors", "samples/step-000250/01.png"):  # fmt: skip
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_bytes(name.encode())
    previews = samples.Previews(results, LOCK, Store(results / "store"))
    knobs = {"width": 512, "height": 512, "seed": 42, "scale": 1.0, "steps": 8, "guidance": 1.0, "recipe": 1}
    for name, step, more in (("preview", 250, {}), ("preview of the base", 0, {}), ("guided", 250, {"guidance": 2.0})):
        yield name, previews.wanted(step, "01", {**knobs, **more}).key
    item = {"name": "closeup-01", "caption": "a photo of l3yla", "image": "7" * 64}
    (results / "dataset.json").write_text(json.dumps({"items": [item, {**item, "set": "more"}]}))
    prompt = {"name": "01", "text": "a photo of l3yla", "seed": 42, "scale": 1.0, "width": 512, "height": 512}
    asked = {"character": "leyla", "trigger": "l3yla", "judge": "none", "prompts": [prompt], "recipe": 1}
    yield "scores", scores.Judgement(results, asked, None).key(250)
    yield "scores with a judge", scores.Judgement(results, asked, results / "dataset.json").key(250)


def _short(key: str) -> str:
    """A key as short as will do; one that is not only a digest, ``<run>-<step>``, is kept."""
    return key[:16] if len(key) == 64 else key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", required=True, help="put what is found into the fixture")
    parser.parse_args()
    GOLDEN.write_text(json.dumps(collect(), indent=1) + "\n", encoding="utf-8")
    print(f"{GOLDEN}: written")


if __name__ == "__main__":
    main()
