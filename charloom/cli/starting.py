"""``charloom new``: a character file from a name, from a folder of pictures, or from an example."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from charloom.cli.naming import workflow_folder
from charloom.core import layout, words
from charloom.core.errors import UserError
from charloom.core.files import expanded

BASE = "z-image-turbo"
"""The base for pictures other than paper dolls."""
PROFILE = "profiles/gpu-16gb"
"""The profile for it on the smallest card that the README recommends."""
FEW = 5
"""Fewer pictures than this are hardly a character."""
MANY = 400
"""Captions to guess from, spread over the folder."""


def new(
    name: Annotated[str, typer.Argument(help="name of the character file: a-z 0-9 - _, for example mara")],
    trigger: Annotated[
        str | None, typer.Option(help="made-up word for the character in prompts; derived from NAME if not given")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="folder of pictures of yours, with captions beside them if you have some")
    ] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="woman, man, person, creature, object or style; guessed if not given")
    ] = None,
    noun: Annotated[
        str | None, typer.Option(help="what captions call it, for example fox; the class if not given")
    ] = None,
    look: Annotated[
        str | None, typer.Option(help="photographic, drawn, anime, comic, painted, rendered or pixel-art")
    ] = None,
    like: Annotated[str | None, typer.Option(help="start from an example of config/examples/, such as fox")] = None,
    crop: Annotated[
        bool, typer.Option("--crop", help="with --images: cut a generator's watermark off the right and bottom edges")
    ] = False,
) -> None:
    """Create config/characters/NAME.yaml (for a style config/styles/NAME.yaml), ready to run.

    Never overwrites a file; asks nothing that it can guess.
    """
    from charloom.config import inventory, kinds, scaffold, triggers
    from charloom.core import tokens

    root = workflow_folder()
    places = {folder: root / "config" / folder / f"{scaffold.check_name(name)}.yaml" for folder in inventory.PROJECTS}
    _one_of("--class", class_, kinds.CLASSES)
    _one_of("--look", look, kinds.LOOKS)
    if like and (images or class_ or look or noun):
        raise UserError("--like: takes everything from the example; leave --images, --class, --noun and --look out")
    if crop and not images:
        raise UserError("--crop: goes with --images (pictures that charloom draws are cropped anyway); leave it out")
    if there := next((path for path in places.values() if path.exists()), None):
        raise UserError(f"{there}: exists already and is not overwritten; choose another name or edit it")
    if trigger and not triggers.FORM.fullmatch(trigger):
        raise UserError(
            f"--trigger {trigger}: use 2 to 20 letters and digits, for example {scaffold.trigger_for(name)}"
        )
    usual, real = _bases(root)
    own = images is not None or like is not None or class_ not in (None, "woman") or look not in (None, "photographic")
    base = real if own else usual
    count = tokens.counter(base.source() if base else {})
    given: dict[str, str | None] = {"trigger": trigger, "class": class_, "noun": noun, "look": look}
    further = base.name if base and usual and base.name != usual.name else ""
    notes: list[str] = []
    if images:
        text, notes = _of_folder(root, name, images, given, crop, further, count)
    elif like:
        text = scaffold.like(_example(root, like), name, trigger or _suggested(root, name, count))
    elif own:
        word = trigger or _suggested(root, name, count)
        text = scaffold.described_file(name, word, class_ or "woman", look or "photographic", noun or "", further)
    else:
        text = scaffold.character_file(name, trigger or _suggested(root, name, count))
    path = places["styles" if scaffold.is_style(text) else "characters"]
    scaffold.write_new(path, text)
    _say(root, path, text, notes, base, count, images is not None)
    for line in problems(root, name):
        print(f"to do: {line}")


def _say(root: Path, path: Path, text: str, notes: list[str], base: Any, count: Any, whole: bool) -> None:
    """What was written, what was guessed, and what comes next."""
    from charloom.config import scaffold, triggers

    name = path.stem
    what = "style" if scaffold.is_style(text) else "character"
    print(f"{path}: written{'' if whole else f'; describe your {what} in it'}")
    for note in notes:
        print(f"  {note}")
    word = triggers.WRITTEN.search(text)
    if word and (wrong := triggers.complaint(word[1], count)):
        print(f"warning: trigger {word[1]}: {wrong}")
    elif word and count.exact:
        pieces = " ".join(count.pieces(f" {word[1]}")).split()
        print(
            f"  trigger {word[1]}: {len(pieces)} tokens of {base.name} ({' '.join(pieces)}), none of them a known word"
        )
    elif word and base:
        print(f"  trigger {word[1]}: not checked, because the tokenizer of {base.name} is not on this machine yet")
    if word and (line := triggers.shared(word[1], root, name)):
        print(f"warning: trigger: {line}")
    say_next(name, base.name if base else "", whole)


def say_next(name: str, base: str, whole: bool) -> None:
    """The commands that come next; ``whole`` if the pictures are the user's own, from a folder."""
    profile = f"--profile {PROFILE} " if base == BASE else ""
    steps = {f"charloom lint {name}": ""}
    if not whole:
        page = layout.results(name).prompt_page.as_posix()
        steps[f"snakemake --cores 2 {page}"] = "# prompts for an image generator"
    if whole or profile:
        steps[f"charloom plan {name} {profile}".strip()] = "# jobs, time, memory, disk"
    steps[f"snakemake {profile}--cores {8 if profile else 2} {name}"] = ""
    print("next:")
    for command, comment in steps.items():
        print(f"  {command:{max(map(len, steps))}}  {comment}".rstrip())
    if profile:
        print("for a GPU with more or less than 16 GB, charloom doctor names the profile")


def _of_folder(
    root: Path, name: str, images: Path, given: dict[str, str | None], crop: bool, base: str, count: Any
) -> tuple[str, list[str]]:
    """The character file for every picture of a folder, and lines about what was found and guessed.

    Raises:
        UserError: there is no folder, or no picture in it.
    """
    from charloom.config import guesses, image_folder, inventory, kohya, scaffold
    from charloom.config.datasets import is_blank
    from charloom.dataset import captions

    folder = _existing(images)
    named = kohya.layout(folder)
    numbered = [] if named else kohya.parts(folder)
    folder = named.main.path if named else folder
    pictures = list(image_folder.every(folder).values())
    lost = [f"{entry.where}: {entry.what}" for entry in inventory.unread_below(folder)]
    if not pictures:
        there = f" that is read, but {lost[0]}" if lost else ""
        what = f"there is no picture in it (such as .png, .jpg or .webp){there}"
        raise UserError(f"--images {images}: {what}; name the folder that has them")
    stems = [picture.with_suffix("") for picture in pictures]
    found = [text for stem in stems if (text := inventory.text_of(stem))]
    files = [text for text in found if not is_blank(text)]
    texts = []
    for file in files[:: max(1, len(files) // MANY)]:
        try:
            texts.append(captions.read(file))
        except UserError:
            continue  # lint names it
    texts = [text for text in texts if text]
    said, comments = _kind(texts, given, named)
    if base:
        said["base"], comments["base"] = base, "the one in config.yaml draws paper dolls only"
    if crop:
        said["crop"] = "{right: 150, bottom: 150}"
    in_captions = guesses.trigger(texts)
    in_name = named.main.trigger if named else ""
    word = given["trigger"] or in_captions or in_name or _suggested(root, name, count)
    where = {
        in_name: "from the folder's name; it is put before captions without it",
        in_captions: "every caption has it",
    }
    comments["trigger"] = where.get(word, "a made-up word; it is put before captions without it")
    number, have = len(pictures), f"{len(files)} with a caption"
    comments["images"] = f"from {words.several(number, 'picture')} of a folder ({have})"
    notes = [f"{words.several(number, 'picture')} in {folder}, {have}"]
    notes += [f"{key} {said[key]}: {comments[key].partition(';')[0]}" for key in ("class", "look") if key in said]
    if word == in_captions and not given["trigger"]:
        notes.append(f"trigger {word}: found in the captions")
    elif word == in_name:
        notes.append(f"trigger {word}: from the folder's name")
    if blank := [text.name for text in found if text not in files]:
        notes.append(f"{words.listed(blank, 3)}: empty, which counts as no caption")
    notes += [f"left out: {line}" for line in lost[:3]]
    if unread := [text for stem in stems if (text := inventory.unread_text_of(stem))]:
        notes.append(
            f"{len(unread)} with a {unread[0].suffix} file: not read, because captions end in .txt; rename them"
        )
    if number < FEW:
        notes.append(f"only {words.several(number, 'picture')}: 15 to 40 different ones make a good character")
    notes += kohya.notes(named) if named else kohya.unread(numbered)
    text = scaffold.folder_file(name, word, _written(root, folder), said, comments)
    further = kohya.entries(named, lambda path: _written(root, path)) if named else []
    return text + scaffold.sets(further, named.main.repeats if named and named.more else 1), notes


def _existing(images: Path) -> Path:
    """The folder that ``--images`` names.

    Raises:
        UserError: there is no such folder.
    """
    from charloom.config import inventory

    folder = expanded(images)
    if not folder.is_dir():
        if re.match(r"[A-Za-z]:[^\\/]", str(images)):
            quoted = "'C:\\Users\\me\\mara'"
            raise UserError(f"--images {images}: the shell removed its backslashes; put it in quotes: {quoted}")
        if folder.exists():
            if inventory.is_archive(folder):
                raise UserError(f"--images {images}: is a file; unpack it and give the folder")
            raise UserError(f"--images {images}: is a file; give the folder it lies in")
        raise UserError(f"--images {images}: there is no such folder; {inventory.meant(folder, 'correct it')}")
    return folder


def _kind(texts: list[str], given: dict[str, str | None], named: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Class, noun and look: given, in the folder's name (``named``), or guessed from captions; and comments on them."""
    from charloom.config import guesses, kinds

    said: dict[str, str] = {}
    known = f"one of {', '.join(kinds.CLASSES[:-1])}"
    comments = {"class": known}
    guessed = guesses.class_and_noun(texts)
    if named and not given["class"]:
        said["class"], comments["class"] = named.main.class_, f"from the folder's name; {known}"
        guessed = named.main.class_, named.main.noun
    elif given["class"] or not guessed:
        said["class"] = given["class"] or "person"
        if not given["class"]:
            comments["class"] = f"the captions do not say; {known}"
    else:
        said["class"], comments["class"] = guessed[0], f"guessed from the captions; {known}"
    if noun := given["noun"] or (guessed[1] if guessed and guessed[0] == said["class"] else ""):
        said["noun"] = noun
    look = given["look"] or guesses.look(texts)
    if look and look != "photographic":
        said["look"], comments["look"] = look, "as told" if given["look"] else "guessed from the captions"
    return said, comments


def _written(root: Path, folder: Path) -> str:
    """A folder as written into the file: relative if it is inside the workflow's, else absolute."""
    whole = Path(os.path.abspath(folder))
    here = Path(os.path.abspath(root))
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) and whole != here else whole.as_posix()


def _suggested(root: Path, name: str, count: Any) -> str:
    """A trigger that no other character has."""
    from charloom.config import triggers

    return triggers.suggest(name, count, triggers.taken(root))


def _bases(root: Path) -> tuple[Any, Any]:
    """The base of config.yaml, and the one for pictures other than paper dolls; None if missing."""
    from charloom.config import yaml
    from charloom.config.base import read_base

    usual, _ = read_base(
        root, str(yaml.read_yaml(root / "config" / "config.yaml", "config/config.yaml").get("base")), ""
    )
    if usual is None or not usual.miniature:
        return usual, usual
    real, _ = read_base(root, BASE, "")
    return usual, real or usual


def _example(root: Path, name: str) -> str:
    """The text of a file in config/examples/.

    Raises:
        UserError: there is none of this name; the message suggests the nearest.
    """
    from charloom.config import inventory, schema

    folder = root / "config" / "examples"
    files = {path.stem: path for path in inventory.yaml_files(folder)}
    if name not in files:
        raise UserError(f"--like {name}: there is no config/examples/{name}.yaml; {schema.meant(name, list(files))}")
    return files[name].read_text(encoding="utf-8")


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    from charloom.config import schema

    if value is not None and value not in allowed:
        raise UserError(f"{option} {value}: is unknown; {schema.meant(value, list(allowed))}")


def problems(root: Path, name: str) -> list[str]:
    """Problems that the check of the configuration finds in one character."""
    from charloom.config import inventory, project
    from charloom.dataset import sources

    try:
        project.load(root, ready=name, image_problems=sources.problems)
    except UserError as error:
        labels = [f"config/{folder}/{name}.yaml" for folder in inventory.PROJECTS]
        return [line for line in str(error).splitlines() if any(label in line for label in labels)]
    return []
