"""The slice of the settings that each rule depends on, and nothing more.

A rule carries its slice as one canonical JSON string; only a change of that string makes the rule run again. Version
numbers represent the code (see :mod:`charloom.core.versions`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.config import drift, image_folder, knobs, masking, notices, schema
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.config.datasets import DataSet, is_blank
from charloom.config.knobs import samples_per_step
from charloom.core import layout
from charloom.core.canonical import canonical_json
from charloom.core.versions import RECIPES
from charloom.dataset import captions, sources
from charloom.train.keys import recipe_number
from charloom.train.settings import DATASET_STAGE_KEYS
from charloom.workflow import caption_slices, lint_slices, prepared, price


def prompt_sheet(character: Character) -> str:
    """For the prompt sheet: everything that goes into a prompt for an image generator."""
    return canonical_json(
        {
            "name": character.name,
            "concept": character.concept,
            "appearance": character.appearance,
            "shots": [shot.phrases() for shot in character.shots if not character.missing(shot)],
            **character.spoken_of,
            "recipe": RECIPES["prompts"],
        }
    )


def source_image(character: Character, shot_name: str | None) -> str:
    """For one image of the source; None is the neutral reference."""
    shot = character.shot(shot_name) if shot_name else None
    return canonical_json({"source": character.source, **sources.get(character.source).settings(character, shot)})


def crop(character: Character, name: str) -> str:
    """For the crop of the watermark, of any shot; the user's own pictures are converted and cropped in one go."""
    return canonical_json({**character.crop, "recipe": RECIPES["crop"]})


def caption(character: Character, shot_name: str) -> str:
    """For one caption: the finished text, so that other changes to the shot do not matter.

    The default caption is included only for images that need it.
    """
    part, image = character.part_of(shot_name)
    if part:
        words = part.caption_file(image)
        text = {} if words and not is_blank(words) else {"default": part.default_caption}
    elif shot_name in character.blank:
        text = {"default": character.default_caption}
    elif character.whole:
        text = {"trigger": character.trigger}
    elif character.source == "folder" and not character.shot(shot_name).tier:
        text = {}  # imported, or a style: there is nothing to compose a caption from, so the user's file is it
    else:
        text = {"caption": captions.caption(character, character.shot(shot_name))}
    return canonical_json({**text, **caption_slices.automatic(character, shot_name)})


def lint(character: Character, base: Base | None = None) -> str:
    """For the check of the data set; ``base`` says where the tokenizer is."""
    shots, crop = character.shots, character.crop
    own = {"crop": {side: crop[side] for side in ("right", "bottom")}} if character.source == "folder" else {}
    return canonical_json(
        {
            "character": character.id,
            "trigger": character.trigger,
            "shots": [{key: shot.phrases()[key] for key in ("name", "tier", "view", "expression")} for shot in shots],
            "count": character.count,
            "minimum": crop["minimum"],
            "resolutions": character.recipe["data"]["resolutions"],
            "flips": [character.recipe["data"]["flip_x"], character.recipe["data"]["flip_y"]],
            **({"sets": [_lint_set(part) for part in character.datasets]} if character.datasets else {}),
            **({"files": files} if (files := _renamed(character)) else {}),
            **({"unused": unused} if (unused := [[u.where, u.what] for u in character.unused_files()]) else {}),
            **own,
            **({"kind": "style"} if character.is_style else {}),
            **lint_slices.own(character),
            **({"base": base.source()} if base else {}),
            "recipe": RECIPES["lint"],
        }
    )


def _lint_set(part: DataSet) -> dict[str, Any]:
    flips = [part.own.get("flip_x", False), part.own.get("flip_y", False)]
    return {
        "name": part.name,
        "folder": part.folder,
        "items": part.items,
        "regularization": part.regularization,
        "flips": flips,
        "minimum": part.crop["minimum"],
        **({"resolutions": part.own["resolutions"]} if "resolutions" in part.own else {}),
    }


def _renamed(character: Character) -> dict[str, list[str]]:
    """:func:`user_files`, without files of extra data sets whose names are the same in the workflow."""
    usual = {
        f"{part.name}/{image}": [str(Path(part.folder, f"{image}{ending}")) for ending in (".png", ".txt")]
        for part in character.datasets
        for image in part.files
    }
    return {name: names for name, names in user_files(character).items() if names != usual.get(name)}


def user_files(character: Character) -> dict[str, list[str]]:
    """The user's file names of an image and its caption, by the image's name in the workflow."""
    found = {}
    for shot in character.shots:
        image = image_folder.of_shot(character, shot) if character.source == "folder" else None
        text = character.caption_file(shot)
        if image or text:
            found[shot.name] = [str(image or f"{shot.name}.png"), str(text or f"{shot.name}.txt")]
    for part in character.datasets:
        for image, path in part.files.items():
            text = part.caption_file(image) or path.with_suffix(".txt")
            found[f"{part.name}/{image}"] = [str(path), str(text)]
    return found


def latents(character: Character, name: str) -> str:
    """For the latents of an image."""
    part, _ = character.part_of(name)
    data = {**character.recipe["data"], **(part.own if part else {})}
    return canonical_json(
        {
            "resolutions": sorted(data["resolutions"]),
            "flips": [axis for axis in ("x", "y") if data[f"flip_{axis}"]],
            "recipe": RECIPES["latents"],
        }
    )


def text_encoder(character: Character) -> str:
    """For the embedding of any text."""
    precision = character.recipe["quantization"]["text_encoder"]
    return canonical_json({"quantization": precision, "recipe": RECIPES["embeddings"]})


def texts(character: Character) -> dict[str, str]:
    """Texts to encode besides the captions, by the stem of their file."""
    found = {"_empty": "", "_trigger": character.trigger}
    found |= {"_negative": words} if (words := character.negative_prompt) else {}
    found |= {f"_prompt-{name}": prompt for name, prompt in character.prompt_texts.items()}
    found |= character.reference_texts
    return found | {f"_prompt-{one['name']}": one["text"] for one in drift.prompts(character) if one["kind"] == "class"}


def text(character: Character, name: str) -> str:
    """For the embedding of one of :func:`texts`; JSON, because a command line drops an empty word."""
    return canonical_json(texts(character)[name])


def class_captions(character: Character) -> list[str]:
    """Images whose caption is encoded a second time, with the class word in place of the trigger."""
    if character.class_word is None:
        return []
    without = {item for part in character.datasets if part.regularization or part.holdout for item in part.items}
    return [name for name in character.image_names if name not in without]


def swap(character: Character) -> str:
    """For class captions: trigger and class word; ``null`` if there are none."""
    return canonical_json(None if character.class_word is None else [character.trigger, character.class_word])


def variants(character: Character) -> list[str]:
    """Names in :func:`texts` that training reads."""
    return [name for name in texts(character) if name != "_negative" and not name.startswith("_prompt-")]


def base_lock(base: Base) -> str:
    """For the lock file of a base: where its files are, and their known checksums."""
    known = {"transformer_file": base.transformer_file, "checksums": base.checksums}
    given = {key: value for key, value in known.items() if value}
    return canonical_json({"name": base.name, **base.source(), "adapters": base.adapters, **given})


def prepared_base(adapter: str, quantization: str) -> str:
    """For the prepared transformer."""
    numbers = prepared.numbers(quantization)
    return canonical_json({"adapter": adapter, "quantization": quantization, "recipe": RECIPES["base"], **numbers})


def prepared_name(character: Character) -> str:
    """Stem of the prepared transformer that the character trains on."""
    recipe = character.recipe
    return layout.prepared_name(character.base, recipe["training_adapter"], recipe["quantization"]["transformer"])


def manifest(character: Character) -> str:
    """For the manifest of the data set."""
    data = character.recipe["data"]
    plan = {"items": character.shot_names, "repeats": data["repeats"], "weight": data["weight"], "is_reg": False}
    extra = [
        {
            "set": part.name,
            "items": part.items,
            "repeats": part.repeats,
            "weight": part.weight,
            "is_reg": part.regularization,
            "own": dict(part.own),
            **({"holdout": True} if part.holdout else {}),
        }
        for part in character.datasets
    ]
    own = {"sets": [plan, *extra], "variants": variants(character), "class": class_captions(character)}
    return canonical_json({**own, **masking.weights(character)})


def train(character: Character) -> str:
    """For training: what the bytes of a checkpoint depend on besides data and base.

    The save interval and what is kept are left out, and so is the number of steps unless the learning-rate schedule
    depends on it: more steps must extend a run, not start a new one. ``network.init`` counts by content instead
    (:func:`charloom.workflow.training.started_from`).
    """
    recipe = character.recipe
    knobs = dict(recipe["train"])
    if knobs["lr_scheduler"] == "constant":
        del knobs["steps"]
    return canonical_json(
        {
            "recipe": {
                "network": {key: value for key, value in recipe["network"].items() if key != "init"},
                "train": knobs,
                "save": {"dtype": recipe["save"]["dtype"]},
                "data": {key: value for key, value in recipe["data"].items() if key not in DATASET_STAGE_KEYS},
            },
            "header": {"title": character.id, "trigger": character.trigger},
            "number": recipe_number(recipe["network"]["dropout"], samples_per_step(recipe)),
        }
    )


def sample(character: Character, prompt_name: str) -> str:
    """For one preview of a checkpoint."""
    return canonical_json(_preview(character, prompt_name))


def samples(character: Character) -> dict[str, dict[str, Any]]:
    """Settings of every preview by the name of its prompt."""
    return {name: _preview(character, name) for name in character.prompt_names}


def _preview(character: Character, prompt_name: str) -> dict[str, Any]:
    prompt, knobs = character.prompt(prompt_name), character.recipe["sample"]
    return {
        "width": prompt.width,
        "height": prompt.height,
        "seed": prompt.seed,
        "scale": prompt.scale,
        "steps": knobs["steps"],
        "guidance": knobs["guidance"],
        "recipe": RECIPES["sample"],
        **({"negative_prompt": words} if (words := character.negative_prompt) else {}),
        **({"precision": "float8"} if price.drawn_in(character.recipe) == "float8" else {}),
    }


def grid(character: Character) -> str:
    """For the grid of a checkpoint's previews."""
    words = {"prompts": prompts(character), "name": character.name, "trigger": character.trigger}
    return canonical_json({**words, "recipe": RECIPES["grid"]})


def prompts(character: Character) -> list[dict[str, Any]]:
    """Name, text, seed and strength of every sample prompt."""
    return [
        {"name": p.name, "text": p.text, "seed": p.seed, "scale": p.scale, "width": p.width, "height": p.height}
        for p in character.sample_prompts
    ]


def score(character: Character, base: Base) -> str:
    """For the scores of a checkpoint."""
    return canonical_json(
        {
            "character": character.id,
            "trigger": character.trigger,
            "judge": character.judged_by(base.judge),
            "prompts": prompts(character),
            "recipe": RECIPES["score"],
        }
    )


def choice(character: Character) -> str:
    """For the choice of the checkpoint by validation."""
    usual = schema.defaults(schema.load_schema("recipe"))["validation"]["limits"]
    given = {key: value for key, value in character.recipe["validation"]["limits"].items() if value != usual[key]}
    return canonical_json(
        {
            "character": character.id,
            "steps": character.sampled_steps,
            "candidates": character.candidates,
            "last": character.saved_steps[-1],
            "keep": str(character.recipe["save"]["keep"]),
            **({"limits": given} if given else {}),
            **({"drift": steps} if (steps := drift.steps(character)) else {}),
            "recipe": RECIPES["choice"],
        }
    )


def strength(character: Character, prompt_name: str) -> str:
    """For a picture of the chosen checkpoint at another strength."""
    return canonical_json({"checkpoint": character.checkpoint, **_preview(character, prompt_name)})


def other_strengths(character: Character) -> str:
    """Every such picture, to be drawn in one go: strengths, and settings by prompt."""
    return canonical_json(sweep(character))


def sweep(character: Character) -> dict[str, Any]:
    """The same as plain values."""
    wanted = {prompt.name: _preview(character, prompt.name) for prompt in character.strength_prompts}
    return {"strengths": character.strengths, "prompts": wanted}


def strengths(character: Character, base: Base) -> str:
    """For the scores of the chosen checkpoint by strength."""
    wanted = [prompt.name for prompt in character.strength_prompts]
    return canonical_json(
        {
            **{key: getattr(character, key) for key in ("name", "trigger", "checkpoint", "strengths")},
            "character": character.id,
            "judge": base.judge,
            "prompts": [prompt for prompt in prompts(character) if prompt["name"] in wanted],
            "recipe": RECIPES["strengths"],
        }
    )


def report(character: Character, base: Base) -> str:
    """For the report."""
    return canonical_json(
        {
            "character": character.id,
            "name": character.name,
            "trigger": character.trigger,
            "base": character.base,
            "base_source": base.path or base.repo,
            "concept": character.concept,
            **({"kind": "style"} if character.is_style else {}),
            "shots": [{"name": shot.name, "tier": shot.tier} for shot in character.shots],
            "prompts": prompts(character),
            "steps": character.sampled_steps,
            **({"notices": lines} if (lines := notices.of_base(character, base)) else {}),
            **({"gallery": len(character.gallery)} if character.gallery else {}),
            **({"spoken_of": spoken} if (spoken := character.spoken_of) else {}),
            "recipe_settings": knobs.told(character.recipe),
            "recipe": RECIPES["report"],
        }
    )


def engine(character: Character) -> str:
    """How rules that load a model use the GPU. Affects speed and memory, not what is computed."""
    recipe, knobs = character.recipe, ("memory", "low_vram", "layer_offloading")
    return canonical_json({**{key: recipe[key] for key in knobs}, **recipe["engine"]})


def other_texts(character: Character) -> str:
    """Every text besides the captions, to be encoded in one go (see ``untracked`` in common.smk)."""
    return canonical_json(list(texts(character).values()))


def other_samples(character: Character) -> str:
    """Every preview of the character, to be drawn in one go: steps, and settings by prompt.

    Step 0, the base alone, is drawn with the others: the report shows it even where it is not scored.
    """
    return canonical_json(all_samples(character))


def all_samples(character: Character) -> dict[str, Any]:
    """The same as plain values."""
    steps = sorted({0, *character.sampled_steps}) if character.sampled_steps else []
    return {"steps": steps, "prompts": samples(character)}
