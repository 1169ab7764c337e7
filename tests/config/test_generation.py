# ruff: noqa: F811 (fixtures that are imported)
"""What a character file says of generated pictures: mistakes are one line, and examples of the page work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import small_project
import yaml
from fake_generators import KEY, of_prompt
from generated_project import MARA, by_shot, folder, generated, keys  # noqa: F401 (folder is a fixture)
from PIL import Image
from small_project import edit

from charloom.config.generation import GENERATORS, is_local
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.dataset import sources

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "the key itself": (
        {"gemini": {"key_from": KEY}},
        "images.gemini.key_from: must be the name of an environment variable in capitals, never the key itself",
    ),
    "a key in the file": ({"gemini": {"api_key": KEY}}, "images.gemini.api_key: unknown key"),
    "a password in an address": (
        {"gemini": {"base_url": f"https://me:{KEY}@host"}},
        "images.gemini.base_url: holds a password",
    ),
    "a key in an address": (
        {"openai": {"base_url": f"https://host/v1?key={KEY}"}, "source": "openai"},
        "images.openai.base_url: holds a password or a key",
    ),
    "a password of ComfyUI": (
        {"source": "comfyui", "comfyui": {"server": f"http://me:{KEY}@127.0.0.1:8188"}},
        "images.comfyui.server: holds a password",
    ),
    "a key in the clear": (
        {"gemini": {"base_url": "http://example.org"}},
        "images.gemini.base_url: would send the key unencrypted",
    ),
    "no address": ({"gemini": {"base_url": "localhost:8080"}}, "images.gemini.base_url: is not an address"),
    "no price": (
        {"budget": {"money": 3}},
        "images.budget.money: needs the price of a picture; set images.gemini.price",
    ),
    "no such reference": ({"reference": "zimage"}, "images.reference: there is no picture zimage; use auto, z-image"),
    "no such shot": (
        {"attempts": {"closup-01": 1}},
        "images.attempts.closup-01: there is no such shot; did you mean closeup-01?",
    ),
    "budget of a folder": (
        {"source": "folder", "path": ".", "budget": {"pictures": 3}},
        "images.budget: is for generators; source folder generates nothing",
    ),
    "a pipeline that draws the reference": (
        {"source": "diffusers", "reference": "generator"},
        "images.reference: diffusers needs a picture to begin with",
    ),
    "no workflow": (
        {"source": "comfyui", "comfyui": {"workflow": "mine"}},
        "images.comfyui.workflow: there is no mine; write flux2-klein-4b, or a file",
    ),
    "no pipeline": (
        {"source": "diffusers", "diffusers": {"model": "./"}},
        "images.diffusers.model: . holds no pipeline",
    ),
    "an argument of ours": (
        {"source": "diffusers", "diffusers": {"options": {"generator": 1}}},
        "images.diffusers.options.generator: is set by charloom; remove it",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_without_the_secret(folder: Path, name: str) -> None:
    images, expected = MISTAKES[name]
    edit(folder / MARA, images={"source": "gemini", "count": 3, **images})
    with pytest.raises(UserError) as caught:
        load(folder, ready="mara", image_problems=sources.problems)
        load(folder)
    lines = [line for line in str(caught.value).splitlines() if "has no closeup" not in line and "has no" not in line]
    assert any(line.startswith(f"{MARA}: {expected}") for line in lines), lines
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost", True),
        ("http://[::1]:8000", True),
        ("http://192.168.1.7:8000/v1", True),
        ("http://studio.local/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("http://8.8.8.8", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_whose_server_it_is(address: str, own: bool) -> None:
    """Only to one's own may a key go unencrypted, and only there nothing is charged for."""
    assert is_local(address) == own


def examples() -> list[str]:
    text = (small_project.ROOT / "docs/sources.md").read_text(encoding="utf-8")
    return re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(examples())))
def test_the_examples_of_the_page_work_as_they_stand(folder: Path, number: int) -> None:
    given = yaml.safe_load(examples()[number])
    small_project.write_yaml(folder / "config/bases/z-image-turbo.yaml", small_project.BASE)
    places = {"1": {"class_type": "X", "inputs": {"a": "{prompt}", "b": "{reference}", "c": "{seed}"}}}
    (folder / "my-edit.json").write_text(json.dumps(places))
    images = {"count": 3, **given.pop("images")}
    if "attempts" in images:
        images["attempts"] = {"closeup-01": 1}  # Mara here has three shots
    edit(folder / MARA, images=images, **given)
    character = load(folder, ready="mara", image_problems=sources.problems).characters["mara"]
    assert character.generation and character.generation.source == images["source"]
    assert len(keys(character, small_project.picture(folder / "reference.png", (64, 64)))) == 3


def test_every_source_has_an_example() -> None:
    shown = {yaml.safe_load(text).get("images", {}).get("source") for text in examples()}
    assert shown == set(GENERATORS)


def test_a_reference_of_one_s_own_needs_no_concept(folder: Path) -> None:
    small_project.picture(folder / "her.png", (64, 64))
    character = yaml.safe_load((folder / MARA).read_text())
    del character["concept"]
    small_project.write_yaml(
        folder / MARA, {**character, "images": {"source": "diffusers", "count": 3, "reference": "her.png"}}
    )
    loaded = load(folder, ready="mara", image_problems=sources.problems).characters["mara"]
    assert sources.get("diffusers").inputs(loaded, None) == ["her.png"]
    assert Image.open("her.png").size == (64, 64) and of_prompt("a", 0) != of_prompt("b", 0)
