"""Files, command line and defaults are merged as documented, and numbers, steps and seeds follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_project
import yaml
from config_project import BASE, CONFIG, MARA, further_set, problems, recipe, text
from PIL import Image
from small_project import CHARACTER, edit, write_yaml

from charloom.config import image_folder, schema
from charloom.config.project import load
from charloom.config.yaml import scalar
from charloom.dataset import sources
from charloom.dataset.sources import folder as folder_source
from charloom.workflow import slices


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_project.make(tmp_path)


def test_missing_images_are_named(project: Path) -> None:
    folder = project / "photos"
    folder.mkdir()
    edit(project / MARA, images={"source": "folder", "path": "photos", "count": 3})
    text(MARA, "name: fullbody-01", "name: medium-02")(project)

    def said() -> str:
        (line,) = problems(project)
        assert [line] == sources.problems(load(project).characters["mara"])
        return line.removeprefix("config/characters/mara.yaml: images.path: photos lacks ")

    def add(*names: str) -> None:
        for name in names:
            Image.new("RGB", (8, 8)).save(folder / f"{name}.png")

    add("reference")
    assert said() == "3 of 3 pictures (closeup-01, medium-01, medium-02); add them"
    add("closeup-01", "medium-9")  # which may be either of the missing ones
    assert said() == (
        "2 of 3 pictures (medium-01, medium-02); add them, or take the pictures that are there as they are: "
        "remove shots:"
    )
    add("medium_1")
    assert said() == "2 of 3 pictures (medium-01, medium-02); rename medium_1 to medium-01, and add the others"


def test_images_that_are_still_to_be_made_are_no_mistake_in_the_file(project: Path) -> None:
    """The prompt sheet comes before the images, and other characters must not wait for them."""
    edit(
        project / MARA, images={"source": "folder", "path": "photos", "count": 3}, datasets=[{"name": "x", "path": "x"}]
    )
    mira = {**CHARACTER, "trigger": "m1ra", "doll": {"skin": "blue"}}
    write_yaml(project / "config/characters/mira.yaml", mira)
    people = load(project).characters
    assert "beige pantsuit" in slices.prompt_sheet(people["mara"])
    assert [line.split(":")[1].strip() for line in problems(project)] == ["images.path", "datasets[1].path"]
    assert [line.split(":")[1].strip() for line in sources.problems(people["mira"])] == ["doll.skin", "doll"]


def test_images_of_any_ending_and_name(project: Path) -> None:
    (project / "photos").mkdir()
    for name in ("closeup-01.PNG", "medium-01.JPeG", "Mira  01_.Webp", "._medium-01.png"):
        (project / "photos" / name).touch()
    edit(project / MARA, images={"source": "folder", "path": "photos", "count": 3})
    text(MARA, "name: fullbody-01", "name: fullbody-01\n  file: Mira  01_.Webp")(project)
    further_set(project, default_caption="x")
    for old, new in (("a.png", "ComfyUI_00012_.PNG"), ("b.jpg", "b.JPG")):
        (project / "more" / old).rename(project / "more" / new)
    (project / "more/b.png").touch()  # beside b.JPG: the same image once more
    mara = load(project, ready="mara", image_problems=sources.problems).characters["mara"]
    found = [folder_source.inputs(mara, shot) for shot in (*mara.shots, None)]
    names = ["closeup-01.PNG", "medium-01.JPeG", "Mira  01_.Webp"]
    assert found == [[f"photos/{name}"] for name in (*names, "closeup-01.PNG")]  # no reference: the first close-up
    (project / "photos/reference.jpg").touch()
    assert folder_source.inputs(mara, None) == ["photos/reference.jpg"]
    assert {name: path.name for name, path in mara.datasets[0].files.items()} == {
        "comfyui_00012": "ComfyUI_00012_.PNG",
        "b": "b.png",
    }
    assert mara.datasets[0].caption_file("b") == Path("more/b.txt")


def test_names_that_would_be_the_same_are_numbered() -> None:
    files = [Path(name) for name in ("Mira 1.png", "mira-1.jpg", "mira_1.png", "mira-1.png", "mira 1.png", "Ж.png")]
    assert {name: path.name for name, path in image_folder.names(files).items()} == {
        "mira-1-2": "Mira 1.png",
        "mira-1": "mira-1.png",
        "mira_1": "mira_1.png",
        "mira-1-3": "mira 1.png",
        "image": "Ж.png",
    }


@pytest.mark.parametrize(
    ("everybody", "own", "minimum"),
    [
        ({}, {}, 1024),
        ({"right": 0, "bottom": 0}, {}, 384),
        ({}, {"right": 0, "bottom": 0}, 384),
        ({}, {"right": 0}, 1024),
        ({"minimum": 900}, {"right": 0, "bottom": 0}, 900),
        ({"right": 0, "bottom": 0}, {"minimum": 2000}, 2000),
    ],
)
def test_images_that_are_taken_whole_need_half_the_smallest_resolution(
    project: Path, everybody: dict[str, int], own: dict[str, int], minimum: int
) -> None:
    edit(project / CONFIG, crop=everybody)
    edit(project / MARA, crop=own, recipe={"data": {"resolutions": [1024, 768]}})
    mara = load(project).characters["mara"]
    assert json.loads(slices.crop(mara, "medium-01"))["minimum"] == minimum == json.loads(slices.lint(mara))["minimum"]


def test_a_crop_that_was_filled_in_may_be_written_as_bundles_do(project: Path) -> None:
    smallest = {"data": {"resolutions": [32]}}
    edit(project / MARA, crop={"right": 0, "bottom": 0}, recipe=smallest)
    filled = load(project).characters["mara"].crop
    edit(project / MARA, crop=filled)
    assert load(project).characters["mara"].crop == filled and filled["minimum"] == 16


@pytest.mark.parametrize(("every", "sampled"), [(50, 250), (200, 400), (250, 250), (300, 300)])
def test_previews_follow_the_checkpoints_unless_it_is_said(project: Path, every: int, sampled: int) -> None:
    edit(project / CONFIG, recipe={"save": {"every": every}})
    assert load(project).characters["mara"].recipe["sample"]["every"] == sampled


def test_numbers_that_yaml_reads_as_texts(project: Path) -> None:
    (project / CONFIG).write_text(
        "base: mini\nrecipe: {train: {lr: 1e-4, steps: 1e2, weight_decay: 0}, save: {every: 50}}\n"
    )
    edit(project / MARA, recipe={"sample": {"every": 50}})
    train = load(project).characters["mara"].recipe["train"]
    assert (train["lr"], train["steps"], train["weight_decay"]) == (1e-4, 100, 0.0)
    assert isinstance(train["steps"], int) and isinstance(train["weight_decay"], float)


def test_whole_numbers_are_decimal(project: Path) -> None:
    """In YAML 1.1 a leading zero would make a step octal."""
    text(MARA, "name: Mara", "name: Mara\ncheckpoint: 000100")(project)
    assert load(project).characters["mara"].checkpoint == 100
    assert scalar("010") == 10 and scalar("16:9") == "16:9" and scalar("-1_000") == -1000


def test_a_group_of_comments_is_empty(project: Path) -> None:
    before = load(project).characters["mara"]
    text(CONFIG, "recipe:\n", "recipe:\n  network:\n    # rank: 8\n")(project)
    text(MARA, "name: Mara", "name: Mara\ndatasets:\n  # - name: more\nrecipe:\n  # train: {}")(project)
    assert load(project).characters["mara"] == before


def test_precedence_of_recipes(project: Path) -> None:
    def rank() -> int:
        return load(project).characters["mara"].recipe["network"]["rank"]

    assert rank() == 32
    edit(project / BASE, recipe={**small_project.BASE["recipe"], "network": {"rank": 4}})
    assert rank() == 4
    edit(project / CONFIG, recipe={**small_project.CONFIG["recipe"], "network": {"rank": 5}})
    assert rank() == 5
    edit(project / MARA, recipe={"network": {"rank": 6}})
    assert rank() == 6
    assert load(project, {"recipe": {"network": {"rank": "7"}}}).characters["mara"].recipe["network"]["rank"] == 6


def test_command_line_values_are_typed(project: Path) -> None:
    assert problems(project, overrides={"store": 7})[0].endswith("""put it in quotes: 'store="7"'""")
    workflow = load(project, {"recipe": {"save": {"keep": "1"}, "data": {"flip_x": "true"}}, "device": "cpu"})
    recipe = workflow.characters["mara"].recipe
    assert (recipe["save"]["keep"], recipe["data"]["flip_x"], workflow.device) == (1, True, "cpu")
    assert problems(project, overrides={"devise": "cpu"}) == ["--config: devise: unknown key; did you mean device?"]


def test_a_plan_can_be_shared_and_changed(project: Path) -> None:
    write_yaml(project / "config/plans/three.yaml", {"shots": CHARACTER["shots"]})
    changes = {"medium-01": {"outfit": "a red sundress"}}
    edit(project / MARA, shots={"plan": "three", "replace": changes})
    character = load(project).characters["mara"]
    assert character.shot("medium-01").outfit == "a red sundress"
    assert character.shot("closeup-01").outfit == "a white t-shirt"
    edit(project / MARA, shots={"plan": "three", "replace": {"medium-1": {}, "medium-01": {"outfitt": "x"}}})
    assert problems(project) == [
        "config/characters/mara.yaml: shots.replace.medium-1: there is no shot called medium-1; did you "
        "mean medium-01?",
        "config/characters/mara.yaml: shots.replace.medium-01: outfitt: unknown key; did you mean outfit?",
    ]


@pytest.mark.parametrize(
    ("changes", "saved", "sampled", "candidates"),
    [
        ({}, [50, 100], [50, 100], [50, 100]),
        ({"train": {"steps": 120}}, [50, 100, 120], [50, 100, 120], [50, 100, 120]),
        ({"save": {"keep": 1}}, [50, 100], [50, 100], [100]),
        ({"save": {"keep": 9}}, [50, 100], [50, 100], [50, 100]),
        (
            {"save": {"every": 25, "keep": "score:2"}, "sample": {"every": 25}},
            [25, 50, 75, 100],
            [25, 50, 75, 100],
            [25, 50, 75, 100],
        ),
        ({"save": {"every": 25, "keep": 2}, "sample": {"every": 25}}, [25, 50, 75, 100], [25, 50, 75, 100], [75, 100]),
        ({"sample": {"skip_first": True, "force_first": True}}, [50, 100], [0, 50, 100], [50, 100]),
        ({"sample": {"every": 100}}, [50, 100], [100], [100]),
        ({"sample": {"skip_first": False}}, [50, 100], [0, 50, 100], [50, 100]),
        ({"sample": {"force_first": True}}, [50, 100], [0, 50, 100], [50, 100]),
        ({"sample": {"disable": True}}, [50, 100], [], []),
    ],
)
def test_steps(project: Path, changes: dict, saved: list[int], sampled: list[int], candidates: list[int]) -> None:
    recipe(**changes)(project)
    mara = load(project).characters["mara"]
    assert (mara.saved_steps, mara.sampled_steps, mara.candidates) == (saved, sampled, candidates)


def test_seeds_walk(project: Path) -> None:
    assert [p.seed for p in load(project).characters["mara"].sample_prompts] == [42, 43]
    recipe(sample={"walk_seed": False})(project)
    assert [p.seed for p in load(project).characters["mara"].sample_prompts] == [42, 42]


@pytest.mark.parametrize(
    ("own", "expected"),
    [({"width": 256}, "width"), ({"height": 256}, "height"), ({"seed": 7}, "seed"), ({"scale": 0.5}, "scale")],
)
def test_a_prompt_has_its_own_settings(project: Path, own: dict[str, Any], expected: str) -> None:
    before = slices.samples(load(project).characters["mara"])
    second = {**CHARACTER["sample_prompts"][1], **own}
    edit(project / MARA, sample_prompts=[CHARACTER["sample_prompts"][0], second])
    after = slices.samples(load(project).characters["mara"])
    assert after["01"] == before["01"]
    old, new = before["02"], after["02"]
    assert [key for key in new if new[key] != old[key]] == [expected] and new[expected] == own[expected]


@pytest.mark.parametrize(
    ("knob", "changed"),
    [
        ({"seed": 7}, {"01": ["seed"], "02": ["seed"]}),
        ({"walk_seed": False}, {"01": [], "02": ["seed"]}),
        ({"steps": 9}, {"01": ["steps"], "02": ["steps"]}),
        ({"guidance": 2.0}, {"01": ["guidance"], "02": ["guidance"]}),
        ({"width": 256}, {"01": ["width"], "02": ["width"]}),
        ({"skip_first": False, "force_first": True, "disable": True}, {"01": [], "02": []}),
    ],
)
def test_knobs_of_previews(project: Path, knob: dict[str, Any], changed: dict[str, list[str]]) -> None:
    """Each changes its own setting of the previews, and never the training."""
    person = load(project).characters["mara"]
    before = slices.samples(person)
    train = slices.train(person)
    edit(project / MARA, recipe={"sample": knob})
    person = load(project).characters["mara"]
    after = slices.samples(person)
    assert {name: [k for k in after[name] if after[name][k] != before[name][k]] for name in after} == changed
    assert slices.train(person) == train


def test_steps_are_no_part_of_a_run_unless_the_learning_rate_follows_them(project: Path) -> None:
    def slice_(**changes: Any) -> str:
        recipe(**changes)(project)
        return slices.train(load(project).characters["mara"])

    assert slice_() == slice_(train={"steps": 200}) == slice_(save={"every": 25, "keep": 1})
    assert slice_(train={"lr_scheduler": "cosine"}) != slice_(train={"lr_scheduler": "cosine", "steps": 200})
    assert slice_() != slice_(train={"lr": 0.5})


def test_the_shipped_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All five characters load; their plans are the guide's, their prompts test what the plans do not hold."""
    from charloom.dataset import lint

    monkeypatch.chdir(small_project.ROOT)
    if not Path("resources/bases/paperdoll/model_index.json").is_file():
        pytest.skip("the embedded base is not here")
    workflow = load(".")
    assert list(workflow.characters) == ["camila", "leyla", "nika", "orla", "yuna"]
    for character in workflow.characters.values():
        assert len(character.shots) == 30 and len(character.sample_prompts) == 10
        settings = json.loads(slices.lint(character))
        assert [f for f in lint.lint([], settings) if f.where in ("plan", "trigger", "recipe.data")] == []


def test_the_learning_rate_follows_the_optimiser(project: Path) -> None:
    def rate(base: dict[str, Any], config: dict[str, Any], own: dict[str, Any]) -> float:
        edit(project / BASE, recipe={"train": base})
        edit(project / CONFIG, recipe={"train": config})
        edit(project / MARA, recipe={"train": own})
        return load(project).characters["mara"].recipe["train"]["lr"]

    of_base = {"optimizer": "adamw", "lr": 2e-3}
    assert rate({}, {}, {}) == 1e-4 and rate({}, {}, {"optimizer": "prodigy"}) == 1.0
    assert rate(of_base, {}, {}) == 2e-3 and rate(of_base, {}, {"optimizer": "prodigy"}) == 1.0
    assert rate(of_base, {"lr": "3e-4"}, {"optimizer": "prodigy"}) == 3e-4  # somebody wrote it
    assert rate(of_base, {"lr": 3e-4}, {"lr": "auto"}) == 2e-3


def test_no_clipping_is_a_choice(project: Path) -> None:
    edit(project / CONFIG, recipe={"train": {"max_grad_norm": 0}})
    assert load(project).characters["mara"].recipe["train"]["max_grad_norm"] == 0.0


def test_an_odd_learning_rate_is_mentioned_by_the_check(project: Path) -> None:
    assert "rate" not in slices.lint(load(project).characters["mara"])
    edit(project / CONFIG, recipe={"train": {"optimizer": "prodigy", "lr": 1e-4}})
    assert "far from what is usual for prodigy" in json.loads(slices.lint(load(project).characters["mara"]))["rate"]


def test_a_running_mean_that_is_too_slow_is_mentioned_by_the_check(project: Path) -> None:
    edit(project / CONFIG, recipe={"train": {"steps": 100, "ema": {"decay": 0.9}}})
    assert "mean" not in slices.lint(load(project).characters["mara"])
    edit(project / CONFIG, recipe={"train": {"steps": 100, "ema": {"decay": 0.999}}})
    assert "about 1,000 steps" in json.loads(slices.lint(load(project).characters["mara"]))["mean"]


def test_names_of_layers_that_other_models_have_are_found_by_the_check(project: Path) -> None:
    def found(*modules: str) -> list[str]:
        edit(project / CONFIG, recipe={"network": {"modules": list(modules)}})
        return json.loads(slices.lint(load(project).characters["mara"])).get("modules", [])

    assert found("to_q", r"^layers\.29\.", "refiner.*w2", "t_embedder", "final_layer") == []
    assert found("to_q", "ff.net.0.proj", "to_v$") == ["ff.net.0.proj"]


@pytest.mark.parametrize("path", sorted((small_project.ROOT / "config/schemas").glob("*.yaml")), ids=lambda p: p.stem)
def test_schemas_are_closed_and_described(path: Path) -> None:
    """No key is read by mistake, and every leaf says what it is for."""

    def walk(node: Any, where: str) -> None:
        if not isinstance(node, dict):
            return
        if "properties" in node:
            assert node.get("additionalProperties") is False, where
            for key, part in node["properties"].items():
                described = "description" in part or "properties" in part or part.get("$ref")
                assert described, f"{where}.{key}"
                walk(part, f"{where}.{key}")
        for part in [node.get("items"), node.get("additionalProperties"), *node.get("anyOf", ())]:
            walk(part, where)

    walk(yaml.safe_load(path.read_text()), path.stem)
    assert schema.load_schema(path.name.removesuffix(".schema.yaml"))
