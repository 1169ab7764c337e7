"""The whole configuration: workflow, bases and characters, read, merged and checked before any job starts.

Recipe precedence, later wins: defaults of the schema, the base's file, ``config/config.yaml``, the character.
Independent of Snakemake, images and models.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from charloom.config import gallery, inventory, knobs, read_character, read_style, schema, yaml
from charloom.config.base import Base, read_base
from charloom.config.character import Character
from charloom.core import last_run
from charloom.core.canonical import canonical_json
from charloom.core.errors import UserError
from charloom.core.files import expanded, on_any_system
from charloom.core.store import STORE
from charloom.core.words import several

CONFIG = "config/config.yaml"
ImageProblems = Callable[[Character], list[str]]
_RESERVED = ("experiments",)
"""What else is in ``results/``."""


@dataclass(frozen=True)
class Workflow:
    """Everything that the rules need to know about the configuration."""

    device: str
    store: str
    characters: dict[str, Character]
    bases: dict[str, Base]
    broken: dict[str, list[str]]
    """Characters whose file has mistakes, a line each. They do not affect other characters."""
    notify: str | list[str] | None = None
    """Command to run when a character is done or has failed: a line for the shell, or program and arguments."""
    styles: dict[str, Character] = field(default_factory=dict)
    """Ways of drawing, which are made when somebody asks for one or a character uses it."""
    broken_styles: dict[str, list[str]] = field(default_factory=dict)

    gpus: int = 1
    """GPUs that one training may use at once."""
    shard: str | None = None
    """Which part of the characters this is, as ``2/10``; None if it is all of them."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """The shards that the other characters are in, by name."""

    @property
    def projects(self) -> dict[str, Character]:
        """Characters and styles."""
        return {**self.characters, **self.styles}

    @property
    def names(self) -> list[str]:
        """Names by which characters and styles can be requested; a file with an invalid name has none."""
        there = [*self.characters, *self.broken, *self.styles, *self.broken_styles]
        return [name for name in dict.fromkeys(there) if schema.is_name(name)]

    def gpus_for(self, character: Character) -> int:
        """GPUs that the character's training uses: no more than a step has samples."""
        return min(self.gpus, knobs.samples_per_step(character.recipe))

    def character(self, name: str) -> Character:
        """The character or style called ``name``.

        Raises:
            UserError: the mistakes in its file, or the similar name if there is no such character.
        """
        broken = {**self.broken_styles, **self.broken}
        if name in broken:
            raise UserError.several(broken[name])
        if name in self.elsewhere:
            raise UserError(self.in_other_shard(name))
        if name not in self.projects:
            raise UserError(f"there is no config/characters/{name}.yaml; {schema.meant(name, self.names)}")
        return self.projects[name]

    def in_other_shard(self, name: str) -> str:
        """A line about a character of another shard."""
        there = self.elsewhere[name]
        return f"{name} belongs to shard {there}, and this is {self.shard}; set shard={there}, or leave it out"


def load(
    root: str | Path = ".",
    overrides: dict[str, Any] | None = None,
    ready: str | None = None,
    image_problems: ImageProblems = lambda character: [],
) -> Workflow:
    """Like :func:`read`, but raises for any mistake in any character.

    With ``ready``, the name of a character whose images must exist, only its mistakes count.
    """
    workflow = read(root, overrides, ready, image_problems)
    broken = {**workflow.broken, **workflow.broken_styles}
    lines = [line for name, wrong in broken.items() if ready in (None, name) for line in wrong]
    if lines:
        raise UserError.several(list(dict.fromkeys(lines)))
    return workflow


def as_last_run(
    root: Path, name: str, image_problems: ImageProblems = lambda character: [], *, ready: bool = True
) -> Workflow:
    """Like :func:`load` for the character ``name``, with the settings that it was last trained with.

    Without them where they can no longer be read, because a base is gone, say, or a setting has another name now. Its
    images must exist only if it shall be ``ready``.
    """

    def loaded(overrides: dict[str, Any]) -> Workflow:
        if ready:
            return load(root, overrides, name, image_problems)
        found = read(root, overrides)
        found.character(name)
        return found

    before = last_run.of(root, name).config
    try:
        return loaded(before)
    except UserError:
        if not before:
            raise
        return loaded({})


def all_as_last_run(root: Path) -> dict[str, Workflow]:
    """What :func:`read` finds for each character and style, broken ones too, with the settings of its last training.

    Without them where :func:`as_last_run` does without.
    """
    plain = read(root)
    read_with = {canonical_json({}): plain}
    found = {}
    for name in [*plain.projects, *plain.broken_styles, *plain.broken]:
        before = last_run.of(root, name).config
        key = canonical_json(before)
        if key not in read_with:
            try:
                read_with[key] = read(root, before)
            except UserError:
                read_with[key] = plain
        as_before = read_with[key]
        found[name] = as_before if name in as_before.projects else plain
    return found


def stores(root: Path) -> list[Path]:
    """The stores of the workflow: first that of ``config/config.yaml``, then others of the last trainings.

    Each folder once, however it is written.
    """
    found = [read(root).store, *(one.store for one in all_as_last_run(root).values())]
    by_folder: dict[Path, Path] = {}
    for store in found:
        by_folder.setdefault((root / store).resolve(), root / store)
    return list(by_folder.values())


def read(
    root: str | Path = ".",
    overrides: dict[str, Any] | None = None,
    ready: str | None = None,
    image_problems: ImageProblems = lambda character: [],
) -> Workflow:
    """The configuration below ``root``, with ``overrides`` (of a command line) over ``config/config.yaml``.

    ``ready`` names a character whose images must exist, which ``image_problems`` checks; of the others only the files
    are checked, because their images may still have to be made. Raises one :class:`UserError` with a line per mistake
    that concerns all characters, or one named in ``overrides``.
    """
    root = Path(root)
    data, problems = schema.check(yaml.read_yaml(root / CONFIG, CONFIG), "config", CONFIG)
    if overrides:
        data, more = schema.check(yaml.merge(data, overrides), "config", "--config")
        # Mistakes in the file are already reported.
        problems += [line for line in more if line.replace("--config", CONFIG, 1) not in problems]
    if problems:
        raise UserError.several(problems)
    # Without defaults, which would override the base's recipe.
    own_recipe, own_crop = data.get("recipe", {}), data.get("crop", {})
    data = yaml.merge(schema.defaults(schema.load_schema("config")), data)
    bases = _Bases(root, own_recipe, data.get("run_ahead"))
    _, problems = bases.base(data["base"], CONFIG)
    problems += _gpu_mistakes(data)
    context = {"base": data["base"], "crop": own_crop, "root": root, "ready": ready, "image_problems": image_problems}
    context["gallery"] = lambda name: found.gallery if (found := bases.known.get(name)) else {}
    people: dict[str, Character] = {}
    files, broken, elsewhere = _character_files(root, data["characters"], data.get("shard"), problems)
    for path in files:
        label = f"config/characters/{path.name}"
        try:
            people[path.stem] = read_character.read(path, label, context, bases.recipe)
        except UserError as error:
            broken[path.stem] = str(error).splitlines()
    styles: dict[str, Character] = {}
    broken_styles: dict[str, list[str]] = {}
    for path in inventory.yaml_files(root / "config" / "styles"):
        label = f"config/styles/{path.name}"
        try:
            if path.stem in people or path.stem in broken:
                raise UserError(f"{label}: a character is called {path.stem} too; rename one of the files")
            _check_name(path, label)
            styles[path.stem] = read_style.read(path, label, context, bases.recipe)
        except UserError as error:
            broken_styles[path.stem] = str(error).splitlines()
    for name, line in _same_triggers({**people, **styles}).items():
        del styles[name]
        broken_styles[name] = [line]
    for name, line in _with_styles(people, styles, broken_styles, [*people, *broken]).items():
        del people[name]
        broken[name] = [line]
    if overrides and isinstance(named := overrides.get("characters"), list):
        problems += [line for name in named for line in broken.get(name, ())]
    if problems:
        raise UserError.several(list(dict.fromkeys(problems)))
    store = os.environ.get(STORE) or data["store"]
    return Workflow(
        device=data["device"],
        store=store,
        characters=people,
        bases=bases.known,
        broken=broken,
        notify=data.get("notify"),
        styles=styles,
        broken_styles=broken_styles,
        gpus=data["gpus"],
        shard=data.get("shard"),
        elsewhere=elsewhere,
    )


class _Bases:
    """The bases that characters ask for, each read once, and the recipes on them."""

    def __init__(self, root: Path, recipe: dict[str, Any], run_ahead: int | None) -> None:
        self.root, self.run_ahead = root, run_ahead
        self.of_config = recipe
        self.known: dict[str, Base] = {}

    def base(self, name: str, label: str) -> tuple[Base | None, list[str]]:
        """The base called ``name``, or None and a line per mistake; ``label`` is the file that asks for it."""
        if name not in self.known:
            found, wrong = read_base(self.root, name, f"{label}: base")
            if not found:
                return None, wrong
            self.known[name] = found if self.run_ahead is None else replace(found, run_ahead=self.run_ahead)
        return self.known[name], []

    def recipe(self, name: str, own: dict[str, Any], label: str) -> tuple[dict[str, Any], list[str]]:
        """The whole recipe of a character on the base ``name``, ``own`` being its file's; and a line per mistake."""
        found, wrong = self.base(name, label)
        of_base = found.recipe if found else {}
        given = yaml.merge(of_base, self.of_config, own)
        recipe = yaml.merge(schema.defaults(schema.load_schema("recipe")), given)
        recipe["train"]["lr"] = knobs.learning_rate(yaml.merge(self.of_config, own), of_base)
        if "every" not in given.get("sample", {}):
            # Only saved steps have previews: round the default up to a multiple of save.every.
            every = recipe["save"]["every"]
            recipe["sample"]["every"] = -(-recipe["sample"]["every"] // every) * every
        return recipe, wrong or (_recipe_mistakes(self.root, recipe, found, label) if found else [])


def _character_files(
    root: Path, wanted: Any, shard: str | None, problems: list[str]
) -> tuple[list[Path], dict[str, list[str]], dict[str, str]]:
    """The files of the selected characters, lines about files with an invalid name, and the shards of the others."""
    folder = root / "config" / "characters"
    own = sorted(path for path in folder.glob("*.y*ml") if not inventory.foreign(path.name))
    files = {path.stem: path for path in own if path.suffix == ".yaml"}
    broken: dict[str, list[str]] = {}
    for path in own:
        label = f"config/characters/{path.name}"
        if path.suffix != ".yaml" and path.stem not in files:
            broken[path.stem] = [f"{label}: rename it to {path.stem}.yaml; other endings are not read"]
            continue
        try:
            _check_name(path, label)
        except UserError as error:
            broken[path.stem] = [str(error)]
    if not own:
        problems.append("config/characters/: contains no character; write one like leyla.yaml")
    names = [*files, *(name for name in broken if name not in files)]
    if wanted != "all":
        for name in wanted:
            if name not in names:
                line = f"{CONFIG}: characters: there is no config/characters/{name}.yaml"
                problems.append(f"{line}; {schema.meant(name, list(files))}")
        broken = {name: lines for name, lines in broken.items() if name in wanted}
        names = [name for name in wanted if name in names]
    elsewhere: dict[str, str] = {}
    if shard:
        part, parts = map(int, shard.split("/"))
        if part > (most := min(parts, len(names))):
            found = several(len(names), "character")
            problems.append(f"{CONFIG}: shard: {shard} is none of {found}; count from 1/{most} to {most}/{most}")
        every = sorted(names)
        names = every[part - 1 :: parts]
        elsewhere = {
            name: f"{index % parts + 1}/{parts}" for index, name in enumerate(every) if index % parts + 1 != part
        }
        broken = {name: lines for name, lines in broken.items() if name in names}
    return [files[name] for name in names if name in files and name not in broken], broken, elsewhere


def is_free(name: str) -> bool:
    """Whether a character or style can be called so."""
    return schema.is_name(name) and name not in _RESERVED


def _check_name(path: Path, label: str) -> None:
    if not on_any_system(path.stem):
        raise UserError(f"{label}: Windows reserves the name {path.stem}; choose another")
    if not is_free(path.stem):
        raise UserError(f"{label}: rename it; the name becomes part of paths, so use up to 40 of a-z 0-9 - _")


def _no_start(root: Path, init: str | None) -> str | None:
    """What is wrong with the file that training is to start from."""
    if init is None:
        return None
    path = root / expanded(init)
    if path.suffix != ".safetensors":
        return f"{init} is not a .safetensors file, and no other kind of LoRA is read; convert it first"
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.safetensors")) if path.parent.is_dir() else []
        return f"there is no file {init}; {schema.meant(path.name, near) if near else 'correct the path'}"
    return None


def _recipe_mistakes(root: Path, recipe: dict[str, Any], base: Base, label: str) -> list[str]:
    """Knobs that are valid on their own but contradict each other or the base."""
    lines = []
    adapter = recipe["training_adapter"]
    if adapter != "none" and adapter not in base.adapters:
        known = " or ".join([", ".join(base.adapters), "none"] if base.adapters else ["none"])
        lines.append(f"{label}: recipe.training_adapter: {base.label} has no adapter {adapter}; write {known}")
    every, sampled = recipe["save"]["every"], recipe["sample"]["every"]
    if sampled % every and not recipe["sample"]["disable"]:
        lines.append(
            f"{label}: recipe.sample.every: {sampled} is not a multiple of save.every {every}; "
            "only saved steps are drawn"
        )
    kept = recipe["quantization"]["transformer"]
    if recipe["network"]["type"] == "dora" and kept not in ("none", "bf16"):
        lines.append(
            f"{label}: recipe.network.type: dora needs quantization.transformer none or bf16, not {kept}, because it "
            f"rescales the weights themselves; set it so, or take lora"
        )
    if line := _no_start(root, recipe["network"].get("init")):
        lines.append(f"{label}: recipe.network.init: {line}")
    lines += [f"{label}: recipe.{knob}: {line}" for knob, line in knobs.contradictions(recipe)]
    return lines


def _with_styles(
    people: dict[str, Character], styles: dict[str, Character], broken: dict[str, list[str]], names: list[str]
) -> dict[str, str]:
    """Fill the triggers of styles into the galleries; a line per character that asks for a wrong style, by its id."""
    lines = {}
    for name in people:
        try:
            people[name] = gallery.with_styles(people[name], styles, broken, names)
        except UserError as error:
            lines[name] = str(error)
    return lines


def _same_triggers(people: dict[str, Character]) -> dict[str, str]:
    """A line per style whose trigger is that of a character or of an earlier style, by its id.

    A style is stacked on characters and on other styles. Characters are not used together: ``charloom lint`` warns.
    """
    seen: dict[str, Character] = {}
    lines = {}
    for person in people.values():
        other = seen.setdefault(person.trigger.lower(), person)
        if person.is_style and person.trigger and other is not person:
            lines[person.id] = (
                f"{person.label}: trigger: {person.trigger} is the trigger of {other.label} too; choose another"
            )
    return lines


def _gpu_mistakes(data: dict[str, Any]) -> list[str]:
    gpus, device = data["gpus"], data["device"]
    if gpus > 1 and device not in ("auto", "cuda", "cpu"):
        return [f"{CONFIG}: gpus: {gpus} contradicts device: {device}, which is one GPU; set device: cuda, or gpus: 1"]
    return []
