"""The gallery of a character: scenes that the finished LoRA draws. Opens no file, imports nothing slow."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.config import schema
from charloom.core import files, layout, words
from charloom.core.errors import UserError

if TYPE_CHECKING:
    from charloom.config.character import Character

USUAL = {"width": 1920, "height": 1088, "steps": 36, "strength": 1.0}
"""Defaults for a picture if neither its entry, the gallery nor the base says otherwise."""


@dataclass(frozen=True)
class Style:
    """A LoRA on top of the character's: a style of this workflow, or else somebody's file; and its strength."""

    style: str
    file: str
    strength: float

    @property
    def label(self) -> str:
        """The style as people know it."""
        return self.style or layout.lora_name(Path(self.file))


@dataclass(frozen=True)
class Scene:
    """One picture: text, size in pixels, sampler steps, guidance (1 is without), seed, strength of the LoRA, styles."""

    name: str
    text: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    strength: float
    styles: tuple[Style, ...] = ()

    @property
    def prompt(self) -> str:
        """Name of the prompt among all prompts of the character: ``gallery-01``."""
        return f"gallery-{self.name}"


def read(data: Any, trigger: str, sample: Mapping[str, Any], usual: Mapping[str, Any]) -> tuple[Scene, ...]:
    """The scenes of ``gallery:``; ``sample`` are the recipe's, ``usual`` the base's defaults."""
    if not data:
        return ()
    whole = {"prompts": data} if isinstance(data, list) else dict(data)
    shared = {**USUAL, "guidance": sample["guidance"], "styles": [], **usual, **whole}
    first = whole.get("seed", sample["seed"])
    scenes = []
    for index, entry in enumerate(whole["prompts"]):
        own = entry if isinstance(entry, dict) else {"prompt": entry}
        said = {**shared, "seed": first + index, **own}
        scenes.append(
            Scene(
                name=f"{index + 1:02d}",
                text=words.tidy(own["prompt"]).replace(words.PLACEHOLDER, trigger),
                styles=tuple(map(_style, said["styles"])),
                **{key: said[key] for key in (*USUAL, "guidance", "seed")},
            )
        )
    return tuple(scenes)


def _style(entry: Any) -> Style:
    own: dict[str, Any] = {"style": entry} if isinstance(entry, str) else entry
    return Style(own.get("style", ""), own.get("file", ""), own.get("strength", 1.0))


def mistakes(data: Any, scenes: Sequence[Scene], trigger: str, root: Path) -> list[str]:
    """What a schema cannot check, each as ``key: what is wrong; what to do``."""
    found = []
    written = data if isinstance(data, list) else data["prompts"] if data else []
    for number, (entry, scene) in enumerate(zip(written, scenes, strict=True), 1):
        key, text = f"gallery[{number}]", entry["prompt"] if isinstance(entry, dict) else entry
        if meant := words.misspelt_placeholder(text):
            found.append(f"{key}: {meant} is taken literally; did you mean {words.PLACEHOLDER}?")
        elif (times := words.count(scene.text, trigger)) != 1:
            what = f"contains the trigger {times} times" if times else "does not contain the trigger"
            found.append(f"{key}: {what}; write {words.PLACEHOLDER} where the character is named, once")
        for style in scene.styles:
            if bool(style.style) == bool(style.file):
                found.append(f"{key}: styles: give either style (a name) or file (a path)")
            elif style.file and not style.file.endswith(".safetensors"):
                found.append(
                    f"{key}: styles: {style.file} is not a .safetensors file; get it as one, others may run code"
                )
            elif style.file and not (root / files.expanded(style.file)).is_file():
                found.append(f"{key}: styles: there is no file {style.file}; correct the path")
    return list(dict.fromkeys(found))


def with_styles(
    character: Character,
    styles: Mapping[str, Character],
    broken: Mapping[str, Sequence[str]] | None = None,
    people: Collection[str] = (),
) -> Character:
    """``character`` with the triggers of its styles in the prompts that do not have them.

    ``broken`` has a line per mistake of the styles that cannot be read, ``people`` the names of all characters.

    Raises:
        UserError: as :func:`style_of`.
    """
    where = f"{character.label}: gallery: styles"
    found = {name: style_of(name, character, styles, broken or {}, where, people) for name in names(character.gallery)}
    scenes = []
    for scene in character.gallery:
        text = with_triggers(scene.text, (found[one.style].trigger for one in scene.styles if one.style))
        scenes.append(replace(scene, text=text))
    return replace(character, gallery=tuple(scenes))


def style_of(
    name: str,
    character: Character,
    styles: Mapping[str, Character],
    broken: Mapping[str, Sequence[str]],
    where: str,
    people: Collection[str] = (),
) -> Character:
    """The style called ``name``, for pictures of ``character``; ``where`` is what asks for it.

    Raises:
        UserError: there is no such style, its file has mistakes, or it is made for another base.
    """
    if name in broken:
        more = f" ({len(broken[name]) - 1} more: charloom lint {name})" if broken[name][1:] else ""
        raise UserError(f"{where}: {broken[name][0]}{more}")
    if name not in styles and name in people:
        file = layout.results(name).final.as_posix()
        raise UserError(f"{where}: {name} is a character, not a style; give its file instead: {file}")
    if name not in styles:
        raise UserError(f"{where}: there is no config/styles/{name}.yaml; {schema.meant(name, list(styles))}")
    if (other := styles[name].base) != character.base:
        raise UserError(
            f"{where}: {name} is made for base {other}, {character.id} for {character.base}; "
            "take a style of the same base"
        )
    return styles[name]


def with_triggers(text: str, triggers: Iterable[str]) -> str:
    """A prompt with those of the styles' triggers in front that it does not have."""
    missing = [word for word in dict.fromkeys(triggers) if word and not words.count(text, word)]
    return ", ".join([*missing, text])


def names(scenes: Sequence[Scene]) -> Iterator[str]:
    """The styles of this workflow that some scene uses, each once."""
    return iter(dict.fromkeys(one.style for scene in scenes for one in scene.styles if one.style))


def written_without_styles(data: Any) -> Any:
    """``gallery:`` as another machine can use it, which lacks the files of the styles."""
    if isinstance(data, list):
        return [written_without_styles(entry) for entry in data]
    if isinstance(data, dict):
        return {key: written_without_styles(value) for key, value in data.items() if key != "styles"}
    return data
