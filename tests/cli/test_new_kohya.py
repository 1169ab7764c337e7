"""``charloom new`` for folders named as for kohya: repeats, identifier and class are taken from the names."""

# ruff: noqa: F811 (root is a fixture)

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_helpers import call, root, said  # noqa: F401 (root is a fixture)

from charloom.config import project


def pictures(folder: str, number: int, ending: str = "") -> None:
    Path(folder).mkdir(parents=True)
    for index in range(number):
        Path(folder, f"{index}.png").touch()
        if ending:
            Path(folder, f"{index}{ending}").write_text("m4ra, a woman reading")


def written(name: str) -> dict[str, object]:
    return yaml.safe_load(Path(f"config/characters/{name}.yaml").read_text(encoding="utf-8"))


def test_folders_of_one_tree_become_data_sets(root: Path) -> None:
    pictures("img/10_m4ra woman", 6, ".caption")
    pictures("img/5_m4ra woman", 2)
    pictures("img/1_woman", 3)
    Path("img/loose.png").touch()
    result = said(call("new", "kmara", "--images", "img"))
    found = written("kmara")
    assert (found["trigger"], found["class"]) == ("m4ra", "woman")
    assert found["images"] == {"source": "folder", "path": "img/10_m4ra woman"}
    assert found["datasets"] == [
        {
            "name": "m4ra-woman",
            "path": "img/5_m4ra woman",
            "repeats": 5,
            "default_caption": "{trigger}, a woman",
        },
        {"name": "woman", "path": "img/1_woman", "regularization": True, "default_caption": "a woman"},
    ]
    assert found["recipe"] == {"data": {"repeats": 10}}
    for line in (
        "6 pictures in img/10_m4ra woman, 0 with a caption",
        "6 with a .caption file: not read, because captions end in .txt; rename them",
        "5_m4ra woman: under datasets, with repeats: 5",
        "1_woman: pictures of others, under datasets with regularization: true",
        "1 picture outside of these folders: left out",
    ):
        assert line in result
    character = project.load(root).characters["kmara"]
    assert len(character.shots) == 6 and [part.regularization for part in character.datasets] == [False, True]


def test_a_folder_without_a_class_is_a_set_of_the_character(root: Path) -> None:
    pictures("img/10_m4ra woman", 2)
    pictures("img/5_beach", 4)
    pictures("img/1_woman", 3)
    said(call("new", "kmara", "--images", "img"))
    found = written("kmara")
    assert (found["trigger"], found["class"]) == ("m4ra", "woman")
    assert found["images"]["path"] == "img/10_m4ra woman"
    beach, woman = found["datasets"]
    assert beach == {"name": "beach", "path": "img/5_beach", "repeats": 5, "default_caption": "{trigger}, a woman"}
    assert woman["regularization"]
    assert len(project.load(root).characters["kmara"].shots) == 2


@pytest.mark.parametrize(
    "folders",
    [
        ("5_美女 woman", "3_美女 woman", "2_海边"),
        ("5_m4ra woman", "3_m4ra woman", "2_m4ra  woman"),
        (f"5_{'long ' * 12}woman", f"3_{'long ' * 12}woman"),
    ],
)
def test_names_of_sets_are_valid_and_differ(root: Path, folders: tuple[str, ...]) -> None:
    pictures("img/10_m4ra woman", 6)
    for folder in folders:
        pictures(f"img/{folder}", 1)
    said(call("new", "kmara", "--images", "img"))
    assert len(project.load(root).characters["kmara"].datasets) == len(folders)


def test_one_folder_says_trigger_and_class(root: Path) -> None:
    pictures("img/10_r3x dog", 6)
    result = said(call("new", "rex", "--images", "img"))
    found = written("rex")
    assert (found["trigger"], found["class"], found["noun"]) == ("r3x", "creature", "dog")
    assert "datasets" not in found and "recipe" not in found
    assert "10_r3x dog: its repeats count for nothing here; recipe.train.steps says how long" in result


@pytest.mark.parametrize("name, said_so", [("10_mara", True), ("2024_summer", False), ("01_paris", False)])
def test_numbers_without_a_class_are_not_taken_for_repeats(root: Path, name: str, said_so: bool) -> None:
    pictures(f"img/{name}", 6)
    result = said(call("new", "mara", "--images", "img"))
    assert written("mara")["images"] == {"source": "folder", "path": "img"}
    assert ("numbers in names are not read" in result) == said_so


def test_an_empty_caption_counts_as_none(root: Path) -> None:
    pictures("img", 6, ".txt")
    Path("img/2.txt").write_text(" \n")
    result = said(call("new", "mara", "--images", "img"))
    assert "6 pictures in img, 5 with a caption" in result and "2.txt: empty, which counts as no caption" in result


def test_a_single_picture_is_singular(root: Path) -> None:
    pictures("img", 1)
    result = said(call("new", "mara", "--images", "img"))
    assert "1 picture in img, 0 with a caption" in result and "only 1 picture: 15 to 40" in result
