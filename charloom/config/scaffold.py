"""The character file that ``charloom new`` writes: complete, commented, ready to run and to edit.

Text only; ``config/schemas/character.schema.yaml`` documents the keys.
"""

from __future__ import annotations

import re
from pathlib import Path

from charloom.config import schema
from charloom.core.errors import UserError

_NAME = re.compile(schema.load_schema("name")["pattern"])
_DIGITS = {"i": "1", "e": "3", "a": "4", "o": "0", "s": "5", "l": "1"}

PROMPTS = (
    "a full body photo of {trigger}, three-quarter view, sitting cross-legged, holding an open book, soft smile, "
    "wearing teal pajamas, bedroom",
    "a full body photo of {trigger}, frontal view, standing, both arms raised, laughing, wearing a red evening gown, "
    "neon-lit street at night",
    "a medium shot photo of {trigger}, frontal view, arms crossed, skeptical expression, wearing a purple hoodie, "
    "library with bookshelves",
    "a close-up portrait photo of {trigger}, three-quarter view, crying with tears on her cheeks, wearing a green "
    "turtleneck, city street",
    "a medium shot photo of {trigger}, three-quarter view, holding a mug, contemplative expression, wearing an orange "
    "striped sweater, cafe with a brick wall",
    "a full body photo of {trigger}, frontal view, jumping with both arms raised, joyful expression, wearing pink "
    "overalls, park with trees",
    "a full body photo of {trigger}, side profile, walking with arms at her sides, neutral expression, wearing a "
    "yellow trench coat, snowy mountains",
    "a close-up portrait photo of {trigger}, frontal view, joyful expression, wearing a red sundress, beach",
    "a medium shot photo of {trigger}, frontal view, hands on her hips, serious expression, wearing green overalls, "
    "kitchen",
    "a close-up portrait photo of {trigger}, three-quarter view, surprised expression, wearing a teal hoodie, "
    "a beanie, sunset field",
)
"""Previews of what a studio data set does not hold: other clothes, colours, places, things to do."""

EDITOR_LINE = "# yaml-language-server: $schema=../schemas/character.schema.yaml"
"""First line of a character file: editors with a YAML language server complete and check the keys by it."""

TEMPLATE = """\
{editor_line}
# {name}. Every key: config/schemas/character.schema.yaml; a worked example: config/characters/leyla.yaml
name: {name}
trigger: {trigger}{pad}# a word that no model knows, 4 to 6 letters and digits; it will mean this person

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
# and take doll out. results/{id}/prompts.html says what to tell a generator and is made before there is any image.
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
    letters = re.sub(r"[^a-z0-9]", "", name.lower())[:6].ljust(4, "x")
    if any(letter.isdigit() for letter in letters):
        return letters
    for index in (*range(1, len(letters)), 0):
        if letters[index] in _DIGITS:
            return letters[:index] + _DIGITS[letters[index]] + letters[index + 1 :]
    return letters[:5] + "7"


def check_name(name: str) -> str:
    """``name`` if it can be the name of a character file.

    Raises:
        UserError: it has other characters than a-z, 0-9, - and _, or is too long.
    """
    if not _NAME.fullmatch(name):
        like = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:40]
        hint = f"for example {like}" if _NAME.fullmatch(like) else "for example mara"
        raise UserError(f"'{name}' cannot be a file name of a character: up to 40 of a-z 0-9 - _, {hint}")
    return name


def prompt_lines(prompts: tuple[str, ...] = PROMPTS) -> str:
    """Sample prompts as a YAML list, two lines each."""
    lines = []
    for prompt in prompts:
        cut = prompt.rfind(" ", 0, 108)
        lines += [f"  - {prompt[:cut]}", f"    {prompt[cut + 1 :]}"] if len(prompt) > 108 else [f"  - {prompt}"]
    return "\n".join(lines)


def character_file(name: str, trigger: str | None = None) -> str:
    """The text of a new character file."""
    trigger = trigger or trigger_for(name)
    pad = " " * max(1, 33 - len(f"trigger: {trigger}"))
    title = name.replace("-", " ").replace("_", " ").title()
    return TEMPLATE.format(
        editor_line=EDITOR_LINE, id=name, name=title, trigger=trigger, pad=pad, prompts=prompt_lines()
    )


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
