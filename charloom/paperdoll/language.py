"""Words for the paper-doll world: captions from attributes, and attributes back from a prompt.

The grammar is the one that charloom captions follow everywhere:
``<shot> of <trigger>, <identity line>, <view>, <pose>, <expression>, wearing <outfit>, <accessories>, <background>``.
:func:`describe` writes it (plainly, or with the variation that a base model should train on),
:func:`parse` reads any prompt and reports every attribute that it names. Skin, brows, lips,
face width and freckles have no words on purpose: they are what a character LoRA has to learn.
"""

from __future__ import annotations

import random
import re
import string
from functools import lru_cache

from charloom.paperdoll import attributes
from charloom.paperdoll.attributes import Identity, Scene

TIER = {
    "close-up": ("close-up portrait", "close-up"),
    "medium": ("medium shot",),
    "full-body": ("full body", "full-body"),
}
VIEW = {
    "frontal": ("frontal view", "front view"),
    "three-quarter": ("three-quarter view",),
    "profile": ("side profile", "profile view"),
    "back": ("seen from behind", "back view"),
}
EXPRESSION = {
    "laughing": ("laughing",),
    "joyful": ("joyful expression", "joyful"),
    "smile": ("soft smile", "gentle smile", "smiling"),
    "neutral": ("neutral expression", "neutral"),
    "serious": ("serious expression", "serious"),
    "contemplative": ("contemplative expression", "contemplative"),
    "sad": ("sad expression", "sad"),
    "looking up": ("looking up with her head tipped back", "looking up"),
    "surprised": ("surprised expression", "surprised"),
    "skeptical": ("skeptical expression", "skeptical"),
    "crying": ("crying with tears on her cheeks", "crying"),
    "serene": ("serene expression with closed eyes", "serene"),
}
ARMS = {
    "at sides": ("arms at her sides",),
    "crossed": ("arms crossed",),
    "on hips": ("hands on her hips",),
    "waving": ("waving one hand", "waving"),
    "raised": ("both arms raised", "arms raised"),
    "on chin": ("hand on her chin",),
    "mug": ("holding a mug",),
    "book": ("holding an open book", "holding a book"),
}
STANCE = {
    "standing": ("standing",),
    "walking": ("walking",),
    "sitting": ("sitting cross-legged", "sitting"),
    "jumping": ("jumping",),
}
EARRINGS = {"hoops": ("gold hoop earrings", "hoop earrings"), "pearls": ("pearl earrings",)}
NECKLACE = {"chain": ("thin gold chain necklace", "chain necklace"), "pendant": ("pendant necklace",)}
GLASSES = {"round": ("round glasses", "glasses"), "sunglasses": ("sunglasses",)}
HAT = {"beanie": ("beanie",), "straw hat": ("straw hat",)}
BACKGROUND = {
    "light gray studio": ("light gray studio background", "light gray studio"),
    "white studio": ("white studio background", "white studio"),
    "dark studio": ("dark studio background", "dark studio"),
    "warm beige studio": ("warm beige studio background", "warm beige studio"),
    "bedroom": ("bedroom",),
    "cafe": ("cafe with a brick wall", "cafe"),
    "kitchen": ("kitchen",),
    "library": ("library with bookshelves", "library"),
    "park": ("park with trees", "park"),
    "beach": ("beach",),
    "city street": ("city street",),
    "neon night": ("neon-lit street at night", "neon night"),
    "sunset field": ("sunset field",),
    "snowy mountains": ("snowy mountains",),
}
HAIR = {
    "long wavy": ("long {} wavy hair", "long wavy {} hair"),
    "long straight": ("long straight {} hair", "long {} straight hair"),
    "short straight bob": ("a short straight {} bob",),
    "shoulder-length wavy": ("shoulder-length wavy {} hair", "shoulder-length {} wavy hair"),
    "short pixie": ("a short {} pixie cut",),
    "curly": ("curly {} hair",),
    "high ponytail": ("{} hair in a high ponytail",),
    "braided": ("braided {} hair",),
}
_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "tier": TIER,
    "view": VIEW,
    "expression": EXPRESSION,
    "arms": ARMS,
    "stance": STANCE,
    "earrings": EARRINGS,
    "necklace": NECKLACE,
    "glasses": GLASSES,
    "hat": HAT,
    "background": BACKGROUND,
}
_PLURAL_OUTFITS = ("overalls", "pajamas")


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def outfit_phrase(outfit: str, color: str) -> str:
    """``a navy blue hoodie``, ``teal pajamas``."""
    words = f"{color} {outfit}"
    return words if outfit in _PLURAL_OUTFITS else _article(words)


def identity_phrase(hair: str | None, eyes: str | None) -> str:
    """The identity line from its visible parts: ``a woman with <hair> and <eyes>``."""
    parts = [part for part in (hair, eyes) if part]
    return "a woman with " + " and ".join(parts) if parts else "a woman"


def accessory_phrases(scene: Scene) -> list[str]:
    """One phrase for each accessory worn."""
    words = []
    for key in ("earrings", "necklace", "glasses", "hat"):
        value = getattr(scene, key)
        if value != "none":
            phrase = _PHRASES[key][value][0]
            words.append(_article(phrase) if key == "hat" or value == "chain" or value == "pendant" else phrase)
    return words


def describe(identity: Identity, scene: Scene, trigger: str | None = None) -> str:
    """The complete caption of a picture, leaving out only what cannot be seen in it."""
    return _compose(identity, scene, trigger, _Plain())


def training_caption(identity: Identity, scene: Scene, rng: random.Random) -> str:
    """A caption for training the base: varied wording, parts left out, meaningless names."""
    if rng.random() < 0.03:
        return ""
    trigger = random_trigger(rng) if rng.random() < 0.6 else None
    text = _compose(identity, scene, trigger, _Varied(rng))
    return _with_unknown_words(text, rng) if rng.random() < 0.15 else text


def _with_unknown_words(text: str, rng: random.Random) -> str:
    """Add meaningless phrases, so that a user's words outside the vocabulary do no harm."""
    parts = text.split(", ")
    for _ in range(rng.randint(1, 3)):
        words = ("".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 7))) for _ in range(rng.randint(1, 3)))
        parts.insert(rng.randint(1, len(parts)), " ".join(words))
    return ", ".join(parts)


def random_trigger(rng: random.Random) -> str:
    """A word like a trigger, of 3 to 6 characters with at least one digit, such as ``l3yla`` or ``m4ria``."""
    length = rng.randint(3, 6)
    letters = [rng.choice("bcdfghjklmnpqrstvwxz" if i % 2 else "aeiouylrnms") for i in range(length)]
    letters[rng.randrange(length)] = rng.choice(string.digits)
    return "".join(letters)


class _Plain:
    def say(self, share: float) -> bool:
        return True

    def word(self, options: tuple[str, ...]) -> str:
        return options[0]


class _Varied(_Plain):
    def __init__(self, rng: random.Random):
        self.rng = rng

    def say(self, share: float) -> bool:
        return self.rng.random() < share

    def word(self, options: tuple[str, ...]) -> str:
        return options[0] if self.rng.random() < 0.7 else self.rng.choice(options)


def _compose(identity: Identity, scene: Scene, trigger: str | None, style: _Plain) -> str:
    seen = attributes.visible(scene)
    shot = style.word(TIER[scene.tier]) + " photo" if style.say(0.94) else "photo"
    hair = style.word(HAIR[identity.hair_style]).format(identity.hair_color) if style.say(0.8) else None
    eyes = f"{identity.eye_color} eyes" if seen["eye_color"] and style.say(0.7) else None
    line = identity_phrase(hair, eyes) if trigger is None or style.say(0.85) else None
    subject = ", ".join(part for part in (trigger, line) if part)
    parts = [f"{_article(shot)} of {subject}"]
    if style.say(0.94):
        parts.append(style.word(VIEW[scene.view]))
    pose = []
    if seen["stance"] and style.say(0.92):
        pose.append(style.word(STANCE[scene.stance]))
    if seen["arms"] and style.say(0.92):
        pose.append(style.word(ARMS[scene.arms]))
    if pose:
        parts.append(" with ".join(pose) if scene.arms == "at sides" else ", ".join(pose))
    if seen["expression"] and style.say(0.95):
        parts.append(style.word(EXPRESSION[scene.expression]))
    if seen["outfit"] and style.say(0.95):
        parts.append("wearing " + outfit_phrase(scene.outfit, scene.color))
    parts.extend(phrase for phrase in accessory_phrases(scene) if style.say(0.95))
    if style.say(0.95):
        parts.append(style.word(BACKGROUND[scene.background]))
    return ", ".join(parts)


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, re.Pattern[str], dict[str, tuple[str, str]]], ...]:
    """(attribute, compiled alternatives, phrase -> (attribute, value)); longer phrases win over shorter ones."""
    out = []
    for key, values in _PHRASES.items():
        lookup = {phrase: value for value, phrases in values.items() for phrase in phrases}
        out.append((key, _alternatives(lookup), {phrase: (key, value) for phrase, value in lookup.items()}))
    return tuple(out)


def _alternatives(phrases) -> re.Pattern[str]:
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])")


_OUTFIT = re.compile(
    r"(?<![\w-])(?:(" + "|".join(map(re.escape, attributes.COLOR)) + r") )?("
    + "|".join(sorted(map(re.escape, attributes.OUTFIT), key=len, reverse=True)) + r")(?![\w-])"
)  # fmt: skip
_EYES = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, attributes.EYE_COLOR)) + r") eyes")


@lru_cache(maxsize=4096)
def _parse(prompt: str) -> tuple[tuple[str, str], ...]:
    text = re.sub(r"\s+", " ", prompt.lower())
    found: dict[str, str] = {}
    for key, pattern, lookup in _patterns():
        if match := pattern.search(text):
            found[key] = lookup[match.group()][1]
    if match := _OUTFIT.search(text):
        found["outfit"] = match.group(2)
        if match.group(1):
            found["color"] = match.group(1)
    if match := _EYES.search(text):
        found["eye_color"] = match.group(1)
    for style, templates in HAIR.items():
        for form in templates:
            for color in attributes.HAIR_COLOR:
                if re.search(r"(?<![\w-])" + re.escape(form.format(color)) + r"(?![\w-])", text):
                    found["hair_style"], found["hair_color"] = style, color
    return tuple(sorted(found.items()))


def parse(prompt: str) -> dict[str, str]:
    """Find every attribute that ``prompt`` names, as keys and values of ``attributes``; unknown words are ignored."""
    return dict(_parse(prompt))


def scene_from(prompt: str) -> Scene:
    """The scene that ``prompt`` describes, with defaults for what it leaves out."""
    named = {key: value for key, value in parse(prompt).items() if key in attributes.SCENE_VALUES}
    return attributes.normalise(Scene(**named))
