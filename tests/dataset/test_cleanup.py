"""From captioners' texts to captions: the trigger first, identity left out, what varies kept."""

from __future__ import annotations

import pytest

from charloom.core import tokens, words
from charloom.dataset import cleanup, tags

MARA = cleanup.context_of("m4ra", "woman", "{trigger}, a woman with long brown hair and green eyes")


@pytest.mark.parametrize(
    ("raw", "caption"),
    [
        (
            "A young woman with long, wavy brown hair and fair skin smiles softly at the camera. She is wearing a "
            "white t-shirt and gold hoop earrings against a plain gray background. Her green eyes are bright, and she "
            "has high cheekbones.",
            "m4ra smiles softly at the camera. She is wearing a white t-shirt and gold hoop earrings against a plain "
            "gray background",
        ),
        (
            "The image shows a woman sitting on a wooden bench in a park, wearing a red coat and black boots. Her hair "
            "is tied in a ponytail.",
            "m4ra sitting on a wooden bench in a park, wearing a red coat and black boots. Her hair is tied in a "
            "ponytail",
        ),
        (
            "A close-up portrait of a young woman with brown hair and a red scarf, looking to the side.",
            "m4ra, close-up portrait, with a red scarf, looking to the side",
        ),
        (
            '**Caption:** "A full-body shot of a tall young woman standing on a beach, arms at her sides; the sea is '
            'behind her."',
            "m4ra, full-body shot, standing on a beach, arms at her sides; the sea is behind her",
        ),
        (
            "Sure, here is a description:\n\n- A woman laughing with her head tipped back\n- green eyes, full lips\n"
            "- rainy street at night",
            "m4ra laughing with her head tipped back, rainy street at night",
        ),
        (
            "Seen from behind, a woman with long brown hair walks down a street, carrying a bag.",
            "m4ra, seen from behind, walks down a street, carrying a bag",
        ),
        ("1girl, red dress, city at night, smiling, freckles", "m4ra, red dress, city at night, smiling"),
        ("This is m4ra, a woman in a kitchen.", "m4ra in a kitchen"),
        ("m4ra in a kitchen, m4ra laughing", "m4ra, in a kitchen, laughing"),
    ],
)
def test_captioners_texts_become_captions(raw: str, caption: str) -> None:
    made = cleanup.clean(raw, MARA)
    assert made.text == caption and not made.problem
    assert words.count(made.text, "m4ra") == 1 and made.text.startswith("m4ra")


def test_what_was_left_out_is_listed() -> None:
    made = cleanup.clean("A woman with fair skin and full lips in a red coat", MARA)
    assert made.text == "m4ra in a red coat"
    assert sorted(made.removed) == ["fair skin", "full lips"]


@pytest.mark.parametrize(
    ("kind", "raw", "caption"),
    [
        ("man", "A bearded man with a strong jawline leans on a car, his arms crossed.",
         "x1 leans on a car, his arms crossed"),
        ("creature", "A cute cartoon fox mascot with fluffy orange fur waves, wearing a green scarf, on a hill.",
         "x1 waves, wearing a green scarf, on a hill"),
        ("object", "The product lies on a wooden table, soft light from the left.",
         "x1 lies on a wooden table, soft light from the left"),
    ],
)  # fmt: skip
def test_classes_have_nouns_and_words_of_their_own(kind: str, raw: str, caption: str) -> None:
    assert cleanup.clean(raw, cleanup.context_of("x1", kind, "{trigger}")).text == caption


def test_the_users_noun_is_the_character() -> None:
    raw = "A fluffy robot hedgehog waves."
    assert cleanup.clean(raw, cleanup.context_of("x1", "creature", "{trigger}")).text.startswith("x1, a fluffy robot")
    own = cleanup.context_of("x1", "creature", "{trigger}", noun="fluffy robot hedgehog")
    assert cleanup.clean(raw, own).text == "x1 waves"


def test_the_users_words_are_left_out_or_kept() -> None:
    raw = "A woman with freckles and a scar, reading"
    assert cleanup.clean(raw, MARA).text == "m4ra with a scar, reading"
    more = cleanup.context_of("m4ra", "woman", "{trigger}", ["scar"], [])
    assert cleanup.clean(raw, more).text == "m4ra, reading"
    keep = cleanup.context_of("m4ra", "woman", "{trigger}", [], ["Freckles"])
    assert cleanup.clean(raw, keep).text == "m4ra with freckles and a scar, reading"


@pytest.mark.parametrize(
    ("raw", "caption"),
    [
        ("A woman wearing glasses and a red dress", "m4ra wearing a red dress"),
        (
            "A woman in a park. She wears round glasses, a red dress and boots.",
            "m4ra in a park. She wears a red dress and boots",
        ),
        ("A woman wearing glasses, smiling", "m4ra, smiling"),
        ("A woman in a park. She is wearing glasses and smiling.", "m4ra in a park. She is smiling"),
        ("A woman in a park. She has glasses and smiles.", "m4ra in a park. She smiles"),
        ("A woman in a park. She wears glasses.", "m4ra in a park"),
        ("A woman wearing a red dress and glasses", "m4ra wearing a red dress"),
    ],
)
def test_what_wore_a_word_goes_with_it_unless_it_wears_something_else(raw: str, caption: str) -> None:
    context = cleanup.context_of("m4ra", "woman", "{trigger}", ["glasses"], [])
    assert cleanup.clean(raw, context).text == caption


def test_eyes_that_nobody_sees_are_left_out() -> None:
    raw = "A woman seen from behind, her eyes closed, in a park"
    assert "eyes" in cleanup.clean(raw, cleanup.context_of("m4ra", "woman", "{trigger}")).text
    hidden = cleanup.context_of("m4ra", "woman", "{trigger}", eyes_hidden=True)
    assert cleanup.clean(raw, hidden).text == "m4ra seen from behind, in a park"


def test_a_caption_is_never_longer_than_it_may_be() -> None:
    raw = "A woman in a kitchen. " + "She holds a cup, a spoon, a plate and a very large number of other things. " * 9
    for most in (16, 40, 120):
        context = cleanup.context_of("m4ra", "woman", "{trigger}", most_tokens=most)
        made = cleanup.clean(raw, context)
        assert tokens.estimate(made.text) <= most and made.text.startswith("m4ra in a kitchen")
        assert made.removed and raw.strip(" .").endswith(made.removed[-1].split()[-1])


def test_pictures_of_others_keep_who_they_show() -> None:
    raw = "The photo shows a man with freckles in a red coat."
    others = cleanup.context_of("", "woman", "{trigger}")
    assert cleanup.clean(raw, others).text == "a man with freckles in a red coat"


def test_a_text_of_nothing_is_no_caption() -> None:
    for raw in ("", "A woman.", "```", "<think>who?</think>"):
        assert cleanup.clean(raw, MARA).problem


def test_a_difference_puts_both_captions_together_again() -> None:
    before, after = "a photo of m4ra, smiling, red coat", "m4ra smiling, blue coat"
    parts = cleanup.difference(before, after)
    assert " ".join(text for kind, text in parts if kind != "more") == before
    assert " ".join(text for kind, text in parts if kind != "less") == after


def test_terms_in_most_captions() -> None:
    texts = {
        "a": "m4ra in a red coat, silver watches",
        "b": "m4ra in a red coat, a silver watch",
        "c": "m4ra in a red hat, a silver watch",
        "d": "m4ra in a garden",
    }
    found = {term.text: term.pictures for term in tags.frequent(texts, ["m4ra"])}
    # A red coat is something red, and that is on more pictures.
    assert found == {"red": ("a", "b", "c"), "silver watch": ("a", "b", "c")}
    assert [t.text for t in tags.unsaid(texts, {"x": "m4ra, a watch, red"}, ["m4ra"])] == []
    assert [t.text for t in tags.unsaid(texts, {"x": "m4ra, red"}, ["m4ra"])] == ["silver watch"]
    assert tags.frequent({"a": "red coat", "b": "red coat"}) == [], "two pictures are not most"
