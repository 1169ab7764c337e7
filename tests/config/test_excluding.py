"""Pictures that a character file leaves out."""

from __future__ import annotations

import pytest
import small_project
import yaml

from charloom.config import notices, portable
from charloom.config.project import load, read
from charloom.core.errors import UserError
from charloom.dataset import sources
from charloom.workflow import slices

FILE = "config/characters/mara.yaml"


def left_out(root, *names, **more):
    images = yaml.safe_load((root / FILE).read_text())["images"]
    small_project.edit(root / FILE, images={**images, "exclude": list(names)}, **more)
    return load(root)


@pytest.fixture
def root(tmp_path):
    return small_project.make(tmp_path / "project")


def test_a_shot_that_is_left_out_is_nowhere_and_the_others_stay_what_they_were(root):
    before = load(root).characters["mara"]
    (root / "config/captions/mara").mkdir(parents=True)
    (root / "config/captions/mara/medium-01.txt").write_text("m4ra, kept for later")
    found = left_out(root, "medium-01")
    after, base = found.characters["mara"], found.bases["mini"]
    assert after.image_names == ["closeup-01", "fullbody-01"] and after.count == 2
    assert [shot.name for shot in after.excluded] == ["medium-01"]
    assert "medium-01" not in slices.manifest(after) + slices.lint(after, base) + slices.prompt_sheet(after)
    for name in after.image_names:
        for part in (slices.source_image, slices.crop, slices.caption, slices.latents):
            assert part(after, name) == part(before, name)
    assert after.unused_files(root) == []  # its caption is not a stray


def test_pictures_of_extra_sets_and_whole_folders_are_left_out_by_the_same_names(root, monkeypatch):
    monkeypatch.chdir(root)
    small_project.with_sets(root)
    after = left_out(root, "others/a-2").characters["mara"]
    assert after.image_names[-1] == "others/a-1" and after.datasets[0].unused() == []
    assert list(after.datasets[0].excluded) == ["a-2"]
    for name in ("One", "two"):
        (root / "pics").mkdir(exist_ok=True)
        small_project.picture(root / f"pics/{name}.png", (64, 64))
    small_project.write_yaml(root / FILE, {"trigger": "m4ra", "images": {"source": "folder", "path": "pics"}})
    assert load(root).characters["mara"].shot_names == ["one", "two"]
    whole = left_out(root, "two").characters["mara"]
    assert whole.shot_names == ["one"] and whole.unused_files(root) == [] and whole.count == 1


def test_a_picture_that_is_left_out_may_be_deleted(root, monkeypatch):
    monkeypatch.chdir(root)
    small_project.with_sets(root)
    (root / "pics").mkdir()
    for name in ("one", "two", "three"):
        small_project.picture(root / f"pics/{name}.png", (64, 64))
    images = {"source": "folder", "path": "pics", "exclude": ["two"]}
    style = {"name": "Ink", "images": images, "sample_prompts": ["a boat"]}
    small_project.write_yaml(root / "config/styles/ink.yaml", style)
    sets = yaml.safe_load((root / FILE).read_text())["datasets"]
    small_project.write_yaml(root / FILE, {"trigger": "m4ra", "images": images, "datasets": sets})
    both = left_out(root, "two", "others/a-2")
    assert not [line for one in both.projects.values() for line in notices.of_gone(one)]
    (root / "pics/two.png").unlink()
    (root / "others/a-2.png").unlink()
    after = load(root, ready="mara", image_problems=sources.problems)
    assert after.characters["mara"].image_names == ["one", "three", "others/a-1"]
    lines = [notices.of_gone(one) for one in after.projects.values()]
    end = "; take out what was deleted, correct what is mistyped"
    assert lines == [
        [f"images.exclude: no picture is called two, others/a-2{end}"],
        [f"images.exclude: no picture is called two{end}"],
    ]


def test_a_drawn_style_keeps_its_other_pictures(root):
    style = {"name": "Ink", "images": {"source": "paperdoll", "look": "ink", "count": 4}, "sample_prompts": ["a boat"]}
    small_project.write_yaml(root / "config/styles/ink.yaml", style)
    before = load(root).styles["ink"]
    style["images"]["exclude"] = ["001"]
    small_project.write_yaml(root / "config/styles/ink.yaml", style)
    after = load(root).styles["ink"]
    assert after.shot_names == ["002", "003", "004"]
    for name in after.shot_names:
        assert slices.source_image(after, name) == slices.source_image(before, name)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["medium-02"], "images.exclude: there is no shot called medium-02; did you mean medium-01?"),
        (["more/x"], "images.exclude: more/x: there is no extra data set called more"),
        (["../x"], "images.exclude"),
        (["closeup-01", "medium-01", "fullbody-01"], "leaves no picture to train on"),
    ],
)
def test_a_mistake_is_one_line(root, names, line):
    with pytest.raises(UserError, match="config/characters/mara.yaml: images.exclude") as caught:
        left_out(root, *names)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_what_travels_is_whole_without_it(root, tmp_path):
    found = left_out(root, "medium-01")
    text = portable.character_file(found.characters["mara"])
    (root / FILE).write_text(text)
    again = read(root).characters["mara"]
    assert again.shot_names == ["closeup-01", "fullbody-01"] and "exclude" not in text


def test_a_home_of_nobody_is_a_folder_that_is_not_there(root):
    images = {"source": "folder", "path": "~no-such-user/pics", "exclude": ["one"]}
    small_project.write_yaml(root / FILE, {"trigger": "m4ra", "images": images})
    with pytest.raises(UserError, match="images.path: there is no folder ~no-such-user/pics"):
        load(root, ready="mara", image_problems=sources.problems)
