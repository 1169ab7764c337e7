"""Moving code changes no settings slice and no store key, so that nobody's character is trained again for it."""

from __future__ import annotations

import json

import golden_keys
import pytest

from charloom.config import project
from charloom.core import versions
from charloom.workflow import slices


def changes(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> list[str]:
    """Each digest that differs, as ``slices of leyla: caption changed``."""
    lines = []
    for group in dict.fromkeys([*before, *now]):
        old, new = before.get(group, {}), now.get(group, {})
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                lines.append(
                    f"{group}: {name} {'is new' if name not in old else 'is gone' if name not in new else 'changed'}"
                )
    return lines


def test_slices_and_store_keys_are_what_they_were():
    found = changes(json.loads(golden_keys.GOLDEN.read_text(encoding="utf-8")), golden_keys.collect())
    if found:
        pytest.fail("\n".join([*found, golden_keys.REMEDY]), pytrace=False)


def test_a_changed_slice_is_named(monkeypatch):
    before = golden_keys.collect()
    monkeypatch.setitem(versions.RECIPES, "crop", 99)
    monkeypatch.setitem(versions.RECIPES, "score", 99)
    shipped = [group for group in before if group.startswith("slices of ") and " base " not in group]
    assert changes(before, golden_keys.collect()) == [
        # The bundle tells another machine the numbers that its file depends on.
        f"{group}: {name} changed"
        for group in shipped
        for name in ("crop", "score", "bundle")
    ]


def test_every_slice_function_is_called():
    assert "-" not in {digest for group in golden_keys.collect().values() for digest in group.values()}


def test_no_slice_holds_json_as_text():
    """Values are decoded once; a string of JSON inside JSON would have to be decoded again by whoever reads it."""

    def strings(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            for part in value.values() if isinstance(value, dict) else value:
                yield from strings(part)

    workflow = project.load(golden_keys.ROOT)
    for character in workflow.characters.values():
        for slice_ in (slices.other_samples(character), slices.report(character, workflow.bases[character.base])):
            assert not [text for text in strings(json.loads(slice_)) if text.startswith(("{", "["))]
