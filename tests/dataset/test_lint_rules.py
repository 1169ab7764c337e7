"""Every rule of the check has a name in the schema, a case that it finds and a case that passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from charloom.config import schema
from charloom.core import tokens
from charloom.dataset import lint
from charloom.dataset.lint import Item, measure
from charloom.dataset.lint.registry import Data
from charloom.dataset.lint.twins import Thumbnails

SETTINGS: dict[str, Any] = {
    "character": "mara",
    "trigger": "m4ra",
    "minimum": 64,
    "resolutions": [96],
    "flips": [False, False],
    "shots": [],
}


def image(seed: int, size: tuple[int, int] = (256, 256), blur: float = 0.0) -> Image.Image:
    generator = np.random.default_rng(seed)
    made = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return made.resize(size, Image.Resampling.BICUBIC if blur else Image.Resampling.NEAREST)


def item(
    name: str, made: Image.Image | None = None, caption: str | None = None, notes: tuple[str, ...] = (), **facts: Any
) -> Item:
    """A picture of the data set as the check gets it."""
    picture = lint.facts_of(measure.pictures.Picture(made or image(len(name) + ord(name[-1])), notes))
    text = f"m4ra in place {name}" if caption is None else caption
    return Item(name, text, {**picture, **facts}, f"{name}.txt", f"{name}.png")


def shot(name: str, tier: str = "close-up", view: str = "frontal view", expression: str = "") -> dict[str, str]:
    return {"name": name, "tier": tier, "view": view, "expression": expression}


def part(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "items": [], "flips": [False, False], "regularization": False, **more}


def block(change: Callable[[list[dict[str, str]]], None] = lambda shots: None) -> dict[str, Any]:
    """A plan of three tiers without a fault, changed."""
    words = ["laughing", "joyful", "soft smile", "neutral", "serious", "contemplative", "sad", "looking up", "", ""]
    views = ["frontal view"] * 7 + ["side profile"] * 2 + ["seen from behind"]
    shots = [
        shot(f"{tier}-{number}", tier, views[number], words[number])
        for tier in ("close-up", "medium", "full-body")
        for number in range(10)
    ]
    change(shots)
    return {"shots": shots}


def set_(shots: list[dict[str, str]], number: int, **values: str) -> None:
    shots[number].update(values)


FACE = {"box": [0.3, 0.2, 0.7, 0.7], "score": 1.0}
SMALL = {"box": [0.0, 0.0, 0.1, 0.1], "score": 1.0}
SIGN = {"text": "SAMPLE", "confidence": 0.9, "box": [0.7, 0.9, 1.0, 1.0]}
CLOSE = [shot(f"c{number}") for number in range(8)]


def faces(without: int) -> list[Item]:
    return [item(f"c{number}", faces=[] if number < without else [FACE]) for number in range(8)]


def marked(corner: str, seed: int) -> Image.Image:
    """A picture on plain ground with a mark in a corner, or in the middle of it."""
    made = Image.new("RGB", (256, 256), (40 + 30 * seed, 90, 200 - 25 * seed))
    made.paste(image(seed, (120, 120)), (70, 70))
    place = {"bottom right": (238, 238), "top left": (6, 6), "": (100, 100)}[corner]
    made.paste((250, 250, 250), (*place, place[0] + 12, place[1] + 12))
    return made


TURNED = image(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
TONED = image(1).point(lambda level: 40 + level * 0.7)
SEEN = {"instrument": "dlib", "similarity": 0.4, "limit": 0.9, "far": True}
RAW = {name: f"a woman with a silver watch, {name}" for name in ("a", "b", "c")}

CASES: dict[str, tuple[Any, Any]] = {
    # name of the rule: (a data set that it finds fault with, one that passes); (items, changes of the settings)
    "trigger": (([], {"trigger": "leyla"}), ([], {"trigger": "l3yla"})),
    "trigger-count": (([item("a", caption="a photo")], {}), ([item("a", caption="m4ra, a photo")], {})),
    "placeholder": (
        ([item("s/a", caption="[trigger] on a pier")], {"sets": [part("s", regularization=True)]}),
        ([item("s/a", caption="a man, by a sign with an arrow [left]")], {"sets": [part("s", regularization=True)]}),
    ),
    "trigger-of-others": (
        ([item("s/a", caption="m4ra")], {"sets": [part("s", regularization=True)]}),
        ([item("s/a", caption="a man")], {"sets": [part("s", regularization=True)]}),
    ),
    "other-trigger": (
        ([item(name, caption=f"m4ra, l3na smiles, {name}") for name in "abc"], {}),
        ([item(name, caption=f"m4ra at 85mm, M4RA smiles, {name}") for name in "abc"], {}),
    ),
    "wordy": (([item("a", caption="m4ra " + "word " * 90)], {}), ([item("a", caption="m4ra " + "word " * 89)], {})),
    "identity-words": (
        ([item("a", caption="m4ra, full lips")], {}),
        ([item("a", caption="m4ra, full lips")], {"captions": {"keep_words": ["Lips"]}}),
    ),
    "pronouns": (
        ([item("a", caption="m4ra, her hands up")], {"class": "man"}),
        ([item("a", caption="m4ra, her hands up")], {"class": "woman"}),
    ),
    "hidden-eyes": (
        ([item("a", caption="m4ra, green eyes")], {"shots": [shot("a", view="seen from behind")]}),
        ([item("a", caption="m4ra, green eyes")], {"shots": [shot("a")]}),
    ),
    "caption-twins": (
        ([item("a", caption="m4ra"), item("b", caption="m4ra")], {}),
        ([item("a", caption="m4ra"), item("s/b", caption="m4ra")], {"sets": [part("s")]}),
    ),
    "tokens": (([item("a", caption="m4ra " + "猫" * 900)], {}), ([item("a", caption="m4ra " + "猫" * 300)], {})),
    "unsaid": (
        ([item(name) for name in RAW], {"_raw": RAW}),
        ([item(name, caption="m4ra, a watch, silver") for name in RAW], {"_raw": RAW}),
    ),
    "waiting": (([], {"_waiting": ["a"]}), ([], {"_waiting": []})),
    "size": (([item("a", image(1, (60, 200)))], {}), ([item("a", image(1, (64, 200)))], {})),
    "narrow": (([item("a", image(1, (64, 2600)))], {"resolutions": [64]}), ([item("a", image(1, (200, 300)))], {})),
    "small": (([item("a", image(1, (80, 90)))], {}), ([item("a", image(1, (96, 96)))], {})),
    "converted": (
        ([item("a", notes=(measure.pictures.FLATTENED,))], {}),
        ([item("a")], {}),
    ),
    "blur": (([item("a", image(1).resize((8, 8)).resize((256, 256), 3))], {}), ([item("a", image(1))], {})),
    "exposure": (
        (
            [
                item("a", image(1).point(lambda level: level // 6)),
                item("b", image(2).point(lambda level: 225 + level // 9)),
            ],
            {},
        ),
        # As in a studio: black clothes on white, and blonde hair and white clothes on white.
        (
            [
                item(
                    name,
                    Image.fromarray(np.where(np.arange(256)[:, None] > 150, grey, 250).repeat(256, 1).astype("u1")),
                )
                for name, grey in (("a", 12), ("b", 170))
            ],
            {},
        ),
    ),
    "twins": (([item("a", image(1)), item("b", image(1))], {}), ([item("a", image(1)), item("b", image(2))], {})),
    "near-twins": (([item("a", image(1)), item("b", TURNED)], {}), ([item("a", image(1)), item("b", image(2))], {})),
    "holdout-twins": (
        ([item("a", image(1)), item("s/b", image(1))], {"sets": [part("s")], "holdouts": ["s"]}),
        ([item("a", image(1)), item("s/b", image(1))], {"sets": [part("s")]}),
    ),
    "watermark": (
        ([item(f"p{n}", marked("bottom right", n)) for n in range(6)], {}),
        ([item(f"p{n}", marked("", n)) for n in range(6)], {}),
    ),
    "text": (
        ([item("a", text=[SIGN])], {}),
        ([item("a", text=[SIGN], caption="m4ra below a neon sign"), item("b", text=[{**SIGN, "text": "||"}])], {}),
    ),
    "faces": (
        ([item("a", faces=[FACE, FACE])], {}),
        ([item("a", faces=[FACE, SMALL]), item("s/b", faces=[FACE, FACE])], {"sets": [part("s", regularization=True)]}),
    ),
    "likeness": (
        ([item("a")], {"_pictures": {"a": {"attempt": 1, "identity": SEEN}}}),
        ([item("a")], {"_pictures": {"a": {"identity": {**SEEN, "far": False}}, "b": {"identity": None}}}),
    ),
    "no-face": ((faces(1), {"shots": CLOSE}), (faces(1), {"shots": CLOSE, "class": "creature"})),
    "flips": (([], {"flips": [True, False]}), ([], {})),
    "tiers": (([], {"shots": [shot("a")] * 3}), ([], block())),
    "few": (([item("a")], {"class": "style"}), ([item("a")], {"class": "woman"})),
    "framing": (([item("a")], {"whole": "m4ra"}), ([item("a")], {})),
    "profiles": (([], block(lambda s: set_(s, 7, view="frontal view"))), ([], block())),
    "tipped-head": (([], block(lambda s: set_(s, 7, expression=""))), ([], block())),
    "expressions": (([], block(lambda s: set_(s, 0, expression="sad"))), ([], block())),
    "from-behind": (([], block(lambda s: set_(s, 9, view="frontal view"))), ([], block())),
    "learning-rate": (([], {"rate": "train.lr 1 is far; lower it"}), ([], {})),
    "running-mean": (([], {"mean": "train.ema.decay 0.9999 is slow; lower it"}), ([], {})),
    "layers": (([], {"modules": ["ff.net.0.proj"]}), ([], {})),
    "unused-files": (([], {"unused": [["x.psd", "is not read; delete it"]]}), ([], {})),
    "crop": (([], {"crop": {"right": 1, "bottom": 0}}), ([], {"crop": {"right": 0, "bottom": 0}})),
}


@pytest.mark.parametrize("name", [name for name in lint.RULES if name != "unreadable"])
def test_each_rule_finds_what_it_is_about_and_nothing_else(name: str) -> None:
    rule = lint.RULES[name]
    (items, changes), (good, other) = CASES[name]
    found = rule.findings(Data(items, {**SETTINGS, **changes}))
    assert found and all(finding.rule == name and finding.what and finding.where for finding in found)
    assert all(
        set(finding.pictures) <= {one.name for one in items} | {"a"} | {s["name"] for s in block()["shots"]}
        for finding in found
    )
    assert all(finding.remedy for finding in found), "every finding says what helps"
    assert rule.findings(Data(good, {**SETTINGS, **other})) == []
    assert rule.about.endswith(".") and rule.level in lint.LEVELS


def test_the_schema_and_the_manual_know_every_rule() -> None:
    assert schema.load_schema("rule")["enum"] == list(lint.RULES)
    page = (Path(__file__).parents[2] / "docs" / "lint.md").read_text()
    for rule in lint.RULES.values():
        assert f"| `{rule.name}` | {rule.level} | {rule.about} |" in page


def test_twins_of_other_tones_and_mirrored_ones_are_found_and_strangers_are_not() -> None:
    shown = [image(1), image(2), TONED, TURNED, image(3)]
    found = {
        (t.index, t.other): t.kind
        for t in Thumbnails([lint.facts_of(measure.pictures.Picture(s))["thumb"] for s in shown]).twins()
    }
    assert found == {(2, 0): "near", (3, 0): "mirrored"}


def test_marks_are_found_in_any_corner() -> None:
    items = [item(f"p{n}", marked("top left", n)) for n in range(6)]
    (finding,) = lint.RULES["watermark"].findings(Data(items, SETTINGS))
    assert finding.evidence["corner"] == "top left" and "crop.right" not in finding.remedy
    assert finding.pictures == tuple(one.name for one in items)


def test_a_detector_that_knows_no_such_face_is_not_believed() -> None:
    (note,) = lint.RULES["no-face"].findings(Data(faces(5), {**SETTINGS, "shots": CLOSE}))
    assert note.level == "note" and "5 of 8 close-ups" in note.what


def test_classes_have_words_of_their_own() -> None:
    items = [item("a", caption="m4ra, fluffy fur, full lips")]

    def named(kind: str) -> list[str]:
        (finding,) = lint.RULES["identity-words"].findings(Data(items, {**SETTINGS, "class": kind}))
        return finding.evidence["words"]

    assert named("woman") == ["lips"] and named("creature") == ["fur"]
    more = {**SETTINGS, "class": "object", "captions": {"identity_words": ["full lips"]}}
    (finding,) = lint.RULES["identity-words"].findings(Data(items, more))
    assert finding.evidence["words"] == ["full lips"]


def test_a_style_has_rules_of_its_own() -> None:
    items = [item(f"p{n}", image(n), caption=f"m4ra, a harbour, {n}") for n in range(15)]
    # Blocks of chance may share a corner.
    style = {**SETTINGS, "kind": "style", "flips": [True, False], "lint": {"levels": {"watermark": "ignore"}}}
    wrong = [item("q1", image(91), caption="an ink drawing of a boat"), item("q2", image(92), caption="harbor, a boat")]
    found = lint.lint([*items, *wrong], style)
    assert sorted(f"{finding.where}: {finding}".split(": ", 1)[1] for finding in found) == [
        "warning: q1.txt: drawing, ink: says how it is drawn, which the style should carry; remove it",
        "warning: q1.txt: has the trigger m4ra 0 times; use it once, so that the word means the style",
        "warning: q2.txt: has the trigger m4ra 0 times; use it once, so that the word means the style",
    ]
    # One without a trigger asks for none.
    assert lint.lint(items, {**style, "trigger": ""}) == []


@pytest.mark.parametrize("text", ["[trigger]", "{trigger}", "<trigger>"])
@pytest.mark.parametrize(
    ("name", "caption", "settings", "rule"),
    [
        ("a", "m4ra, {}, on a pier", {}, "placeholder"),
        ("a", "{} on a pier", {}, "trigger-count"),
        ("s/a", "{} on a pier", {"sets": [part("s")]}, "trigger-count"),
        ("s/a", "{} on a pier", {"sets": [part("s", regularization=True)]}, "placeholder"),
        ("a", "{} on a pier", {"kind": "style"}, "trigger-count"),
        ("a", "{} on a pier", {"kind": "style", "trigger": ""}, "placeholder"),
    ],
)
def test_a_placeholder_in_a_caption_is_named_once(
    text: str, name: str, caption: str, settings: dict[str, Any], rule: str
) -> None:
    data = Data([item(name, caption=caption.replace("{}", text))], {**SETTINGS, **settings})
    found = [one for rule in ("trigger-count", "placeholder") for one in lint.RULES[rule].findings(data)]
    assert [(one.rule, text in str(one)) for one in found] == [(rule, True)]


def test_levels_and_allowances_are_the_users() -> None:
    items = [item("a", TURNED.resize((8, 8)).resize((256, 256), 3)), item("b", image(2), caption="nobody")]

    def checked(**own: Any) -> lint.Checked:
        return lint.check(items, {**SETTINGS, "lint": own}, tokens.Counter())

    def levels(found: list[lint.Finding]) -> dict[str, str]:
        return {finding.rule: finding.level for finding in found}

    assert levels(checked().findings) == {"blur": "warning", "trigger-count": "error"}
    assert levels(checked(levels={"blur": "error", "trigger-count": "ignore"}).findings) == {"blur": "error"}
    for where in ("a", "a.png", "[ab]", None):
        entry = {"rule": "blur", **({"where": where} if where else {})}
        found = checked(allow=[entry])
        assert levels(found.findings) == {"trigger-count": "error"} and levels(found.allowed) == {"blur": "warning"}
    other = checked(allow=[{"rule": "blur", "where": "b"}])
    assert levels(other.findings)["blur"] == "warning"
    assert "lint.allow[1]: nothing is found that it allows (blur in b); remove it" in " ".join(map(str, other.findings))


def test_what_cannot_work_cannot_be_allowed() -> None:
    items = [item("a", image(1, (60, 200)))]
    found = lint.check(items, {**SETTINGS, "lint": {"levels": {"size": "ignore"}, "allow": [{"rule": "size"}]}})
    assert [(f.rule, f.level) for f in found.findings if f.rule in ("size", "allow")] == [
        ("size", "error"), ("allow", "warning")
    ]  # fmt: skip


def test_the_shares_of_a_plan_are_its_own() -> None:
    shots = [shot(f"f{n}", "full-body") for n in range(8)] + [shot("c0"), shot("m0", "medium")]
    balance = {"full-body": 0.8, "close-up": 0.1, "medium": 0.1}
    rule = lint.RULES["tiers"]
    assert len(rule.findings(Data([], {**SETTINGS, "shots": shots}))) == 3
    assert rule.findings(Data([], {**SETTINGS, "shots": shots, "balance": balance})) == []
    few = rule.findings(Data([], {**SETTINGS, "shots": shots[5:], "balance": balance}))
    assert any("3 of 5 shots are full-body; aim for 80%" in str(finding) for finding in few)


def test_what_the_clean_up_takes_out_is_not_unsaid() -> None:
    """Who somebody is: the trigger has to carry it."""
    raw = {name: f"A young woman with long brown hair and fair skin, wearing a silver watch, {name}" for name in "abc"}
    all_of_it, with_hair = {"brown hair", "long brown", "silver watch"}, "{trigger}, a woman with long brown hair"
    for line, more, terms in (
        ("{trigger}, a woman", [], all_of_it),
        ("{trigger}, a woman", ["hair"], {"silver watch"}),
        (with_hair, [], {"silver watch"}),
    ):
        settings = {**SETTINGS, "_raw": raw, "captions": {"identity_words": more}, "line": line}
        found = lint.RULES["unsaid"].findings(Data([item(name) for name in raw], settings))
        assert {finding.evidence["term"] for finding in found} == terms


def test_a_hundred_captions_that_are_the_same_are_one_short_line() -> None:
    data = Data([item(f"p{number}", caption="m4ra") for number in range(100)], SETTINGS)
    (found,) = lint.RULES["caption-twins"].findings(data)
    assert str(found).startswith("warning: p0.txt, p1.txt, p2.txt and 97 more: are identical; ")
    assert len(found.pictures) == 100
