"""The character files that ``charloom new`` writes: complete, commented, ready to run and to edit.

Text only; ``config/schemas/character.schema.yaml`` documents the keys.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from charloom.config import kinds, previews, project, triggers
from charloom.core import words
from charloom.core.errors import UserError
from charloom.core.files import on_any_system
from charloom.core.tokens import Counter

EDITOR_LINE = "# yaml-language-server: $schema=../schemas/character.schema.yaml"
"""First line of a character file: editors with a YAML language server complete and check the keys by it."""

TEMPLATE = """\
{editor_line}
# {name}. Every key: config/schemas/character.schema.yaml; a worked example: config/characters/leyla.yaml
name: {name}
trigger: {trigger}{pad}# a word that no model knows, 4 to 6 letters and digits; it will stand for this person

concept:
  # Text to image, once: the neutral reference. No outfit, mood or drama: what is in it leaks into everything.
  prompt: >-
    Photographic close-up portrait of a woman of about thirty with curly black hair and hazel eyes, facing the
    camera, neutral expression, plain white t-shirt, even soft light, light gray studio background, 85 mm lens

# Everything about the person that never changes. Goes into every generation prompt, never into a caption.
appearance: >-
  a woman of thirty with tan skin, an oval face, curly black hair, hazel eyes, medium brows and full lips,
  hardly any makeup

# The few constant words of every caption. What the person looks like stays unsaid: the trigger has to carry it.
identity_line:
  full: "{{trigger}}, a woman"
  eyes_hidden: "{{trigger}}, a woman"

# Who makes the images: charloom draws them (paperdoll), or you bring your own. For those write
#   images: {{source: folder, path: resources/characters/{id}}}
# and remove doll. results/{id}/prompts.html has the prompts for a generator, and is made before there is any image.
images:
  source: paperdoll
doll:                            # the person that the paperdoll source draws
  skin: tan
  hair_color: black
  hair_style: curly
  eye_color: hazel
  eye_size: medium
  face_width: oval
  brows: medium
  lips: full
  freckles: none

# 30 images, 10 at each distance: config/plans/portrait-30.yaml. Change single shots with
#   shots: {{plan: portrait-30, replace: {{closeup-03: {{outfit: a red t-shirt}}}}}}   or write all of them here.
shots: portrait-30

# Previews of every checkpoint; ask for what the 30 images do not hold. One without the trigger draws somebody else,
# to compare with.
sample_prompts:
{prompts}

# Scenes for the finished LoRA, 1920 x 1088 at 36 steps, in results/{id}/gallery/; leyla.yaml has seven:
# gallery: ["a medium shot photo of {{trigger}}, holding a mug, kitchen. Wardrobe: … Background: … Camera: … Mood: …"]

checkpoint: auto                 # or a step, when you know better than validation
recipe: {{}}                       # knobs of config/schemas/recipe.schema.yaml for this character alone
"""


def trigger_for(name: str) -> str:
    """A trigger from a name: one of its letters becomes a digit, as in ``n1ka``; 4 to 6 characters."""
    return triggers.suggest(name, Counter())


def check_name(name: str) -> str:
    """``name`` if it can be the name of a character file.

    Raises:
        UserError: it has other characters than a-z, 0-9, - and _, or is too long.
    """
    if not project.is_free(name):
        letters = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
        if not on_any_system(name):
            raise UserError(f"'{name}' cannot be a file name of a character: Windows reserves it; choose another")
        like = re.sub(r"[^a-z0-9_-]+", "-", letters).strip("-_")[:40]
        hint = f"for example {like}" if project.is_free(like) else "for example mara"
        raise UserError(f"'{name}' cannot be a file name of a character; take up to 40 of a-z 0-9 - _, {hint}")
    return name


def prompt_lines(prompts: tuple[str, ...]) -> str:
    """Sample prompts as a YAML list, two lines each."""
    lines = []
    for prompt in prompts:
        cut = prompt.rfind(" ", 0, 108)
        lines += [f"  - {prompt[:cut]}", f"    {prompt[cut + 1 :]}"] if len(prompt) > 108 else [f"  - {prompt}"]
    return "\n".join(lines)


def character_file(name: str, trigger: str | None = None) -> str:
    """The text of a new character file for a woman whom charloom draws."""
    trigger = trigger or trigger_for(name)
    return TEMPLATE.format(
        editor_line=EDITOR_LINE,
        id=name,
        name=_text(words.title(name)),
        trigger=_text(trigger),
        pad=_pad(f"trigger: {_text(trigger)}"),
        prompts=prompt_lines(previews.prompts("woman", "photographic")),
    )


def described_file(name: str, trigger: str, class_: str, look: str, noun: str = "", base: str = "") -> str:
    """The text of a new character file whose pictures a generator makes by the plan of its class."""
    spoken = kinds.of(class_, look, noun)
    what = _CONCEPTS.get(class_, _CONCEPTS["person"])
    concept = what[0].format(a_noun=spoken.a_noun, picture=spoken.picture)
    style = class_ == "style"
    line = "kind: style" if style else f"class: {class_}"
    about = (
        "prompts and captions say what is shown; how it is drawn is for the trigger"
        if style
        else "woman, man, person, creature or object: words, prompts and plan follow it"
    )
    lines = [f"look: {look}"] if look != "photographic" else []
    lines += [f"noun: {_text(noun)}"] if noun else []
    return DESCRIBED.format(
        editor_line=EDITOR_LINE,
        id=name,
        name=_text(words.title(name)),
        trigger=_text(trigger),
        pad=_pad(f"trigger: {_text(trigger)}"),
        what=f"{line}{_pad(line)}# {about}",
        folder=f"resources/{'styles' if style else 'characters'}/{name}",
        further="".join(f"{line}\n" for line in lines),
        concept=concept[0].upper() + concept[1:],
        appearance=what[1].format(a_noun=spoken.a_noun),
        plan=kinds.plan(class_),
        base=f"base: {base}\n" if base else "",
        prompts=prompt_lines(previews.prompts(class_, look)),
    )


def folder_file(name: str, trigger: str, images: str, said: dict[str, str], comments: dict[str, str]) -> str:
    """The text of a new character file for every picture of a folder.

    Args:
        images: the folder.
        said: further keys in their order (``class``, ``noun``, ``look``, ``base``), as far as they are needed.
        comments: a comment by key, such as what a value was guessed from; ``images`` says what is in the folder.
    """
    keys = {"name": words.title(name), "trigger": trigger, **said}
    style = said.get("class") == "style"
    below = "" if style else " and in the folders below"
    schema = f"config/schemas/{'style' if style else 'character'}.schema.yaml"
    editor_line = EDITOR_LINE.replace("character.schema", "style.schema") if style else EDITOR_LINE
    lines = [editor_line, f"# {keys['name']}, {comments['images']}. Every key: {schema}"]
    if style:
        keys = {"kind": "style", **{key: value for key, value in keys.items() if key not in ("class", "look", "noun")}}
    for key, value in keys.items():
        line = f"{key}: {_text(value) if key in ('name', 'trigger', 'noun') else value}"
        lines.append(f"{line}{_pad(line)}# {comments[key]}" if key in comments else line)
    lines += [
        f"images:{_pad('images:')}# every picture in it{below}; captions are the .txt beside them",
        "  source: folder",
        f"  path: {json.dumps(images, ensure_ascii=False)}",
    ]
    if style:
        lines += ["# Previews of every checkpoint: subjects that the pictures do not hold.", "sample_prompts:"]
        lines.append(prompt_lines(previews.prompts("style", said.get("look", "photographic"))))
    return "\n".join(lines) + "\n"


def sets(entries: Sequence[Mapping[str, object]], repeats: int = 1) -> str:
    """The end of a character file with extra data sets, whose own pictures are repeated too."""
    if not entries:
        return ""
    lines = ["datasets:"]
    for entry in entries:
        texts = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items())
        lines += [f"  {'  ' if index else '- '}{text}" for index, text in enumerate(texts)]
    lines += [f"recipe: {{data: {{repeats: {repeats}}}}}"] if repeats > 1 else []
    return "\n".join(lines) + "\n"


def like(text: str, name: str, trigger: str) -> str:
    """An example file with another name and trigger, and a folder of its own for its pictures."""
    old = re.search(r"path: *(resources/(?:characters|styles)/)[a-z0-9_-]+", text)
    text = re.sub(r"^name: .*$", f"name: {_text(words.title(name))}", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^trigger: *\S+", f"trigger: {_text(trigger)}", text, count=1, flags=re.MULTILINE)
    return text.replace(old[0], f"path: {old[1]}{name}") if old else text


def is_style(text: str) -> bool:
    """Whether the text of a file is that of a style."""
    return re.search(r"^kind: *style\b", text, re.MULTILINE) is not None


def _text(value: str) -> str:
    """``value`` as YAML that is read as this text: quoted where it would be a number, a truth value or a structure."""
    try:
        plain = yaml.safe_load(f"key: {value}  # comment") == {"key": value}
    except yaml.YAMLError:
        plain = False
    # The reader of character files takes 1e5 for a number, PyYAML for a text.
    return value if plain and not re.fullmatch(r"[-+.\d][\d.eExXa-fA-F_+-]*", value) else json.dumps(value)


def _pad(line: str) -> str:
    """Blanks up to the column of comments."""
    return " " * max(1, 33 - len(line))


_CONCEPTS = {
    "person": (
        "{picture} of {a_noun} of about thirty with short curly black hair and hazel eyes, facing the camera, neutral "
        "expression, plain white t-shirt, even soft light, light gray studio background",
        "{a_noun} of thirty with tan skin, an oval face, short curly black hair, hazel eyes and medium brows",
    ),
    "creature": (
        "{picture} of {a_noun} with orange fur and a white belly, standing, seen from the front, plain light gray "
        "background",
        "{a_noun} with orange fur, a white belly, round black eyes and a bushy tail with a white tip",
    ),
    "object": (
        "{picture} of {a_noun} of blue enamel with a brass handle, seen from the front, plain light gray background",
        "{a_noun} of blue enamel with a brass handle, a dent on its left side and a round lid",
    ),
    "style": (
        "{picture} of a village at a river, in flat colours with a thin dark outline",
        "flat colours of a small palette, a thin dark outline, no shading, paper grain",
    ),
}
"""Of a class: the prompt of the reference, and the appearance; both to be replaced by the user's own."""

DESCRIBED = """\
{editor_line}
# {name}. Every key: config/schemas/character.schema.yaml; worked examples: config/examples/
name: {name}
trigger: {trigger}{pad}# a word that no model knows, 4 to 6 letters and digits; it will stand for this character
{what}
{further}
concept:
  # Text to image, once: the neutral reference. What is in it leaks into everything.
  prompt: >-
    {concept}

# Everything about the character that never changes. Goes into every generation prompt, never into a caption.
appearance: >-
  {appearance}

# results/{id}/prompts.html says what to tell a generator for each picture, and is made before there is any. Put what it
# draws into this folder, named like the prompts.
images: {{source: folder, path: {folder}}}
shots: {plan}
{base}
# Previews of every checkpoint; ask for what the pictures do not hold.
sample_prompts:
{prompts}
"""


def write_new(path: Path, text: str) -> None:
    """Write a new file; one that exists is never touched.

    Raises:
        UserError: the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path}: exists already and is not overwritten; choose another name or edit it") from None
