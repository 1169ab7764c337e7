"""Experiments: what their files say, the data sets that arms come to, and the measures of what is seen."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_project
from PIL import Image

from charloom.core.canonical import canonical_json
from charloom.core.errors import UserError
from charloom.dataset import captions
from charloom.experiments import design, measures, tables, truth
from charloom.experiments.data import scenes
from charloom.experiments.watermark import LIKE, star
from charloom.paperdoll import attributes, draw, language


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_project.ROOT)


def arm(experiment: str, name: str) -> design.Training:
    return design.read(experiment).look(name, "leyla", 42).training


@pytest.mark.parametrize("name", design.names(small_project.ROOT))
def test_every_experiment_can_be_planned_and_measured(name: str) -> None:
    experiment = design.read(name)
    assert set(experiment.measures) <= set(measures.MEASURES)
    assert len(experiment.seeds) >= 3 and experiment.claims
    looks = dict(experiment.looks([42]))
    assert len({look.name for look in looks.values()}) == len(experiment.arms), "two arms are the same"
    # 2000 steps of two pictures take four minutes on two cores.
    assert max(look.step for look in looks.values()) * experiment.recipe["train"]["batch_size"] <= 4000


def test_arms_that_come_to_the_same_training_share_it() -> None:
    assert arm("watermark", "cropped").key == arm("tiers", "balanced").key == arm("rank", "rank-16").key
    assert arm("timesteps", "shift").key == arm("dropout", "empty").key == arm("steps", "400").key
    different = [
        arm("watermark", "uncropped"),
        arm("tiers", "close-ups"),
        arm("hoops", "tagged"),
        arm("rank", "rank-4"),
    ]
    assert len({one.key for one in [*different, arm("rank", "rank-16"), arm("hoops", "untagged")]}) == 6
    assert replace(arm("rank", "rank-16"), seed=43).key != arm("rank", "rank-16").key


def test_hoops_are_worn_in_25_pictures_and_named_only_where_they_are_tagged() -> None:
    for name, named in (("tagged", 25), ("untagged", 0)):
        training = arm("hoops", name)
        assert sum(scene.earrings == "hoops" for scene in scenes(training)) == 25
        texts = [captions.caption(training.person, shot) for shot in training.person.shots]
        assert sum("gold hoop earrings" in text for text in texts) == named
    # Nothing else differs.
    tagged, untagged = arm("hoops", "tagged"), arm("hoops", "untagged")
    assert scenes(tagged) == scenes(untagged)


def test_tiers_change_and_the_wardrobe_stays() -> None:
    before, after = scenes(arm("tiers", "balanced")), scenes(arm("tiers", "close-ups"))
    assert Counter(scene.tier for scene in before) == {"close-up": 10, "medium": 10, "full-body": 10}
    assert Counter(scene.tier for scene in after) == {"close-up": 25, "medium": 5}
    wardrobe = [[(one.outfit, one.color, one.background, one.view) for one in part] for part in (before, after)]
    assert wardrobe[0] == wardrobe[1]


@pytest.mark.parametrize("tiers", [{"close-up": 20, "medium": 20}, {"close-up": 5}, {"knee": 30}])
def test_tiers_that_are_not_the_plan_are_a_mistake(tiers: dict[str, int]) -> None:
    changes = canonical_json({"data": {"tiers": tiers}})
    with pytest.raises(UserError, match=r"data\.tiers: .* are not the 30 shots of the plan"):
        design.Training("leyla", 1, changes).key  # noqa: B018


@pytest.mark.parametrize("claim", ["nobody > cropped", "cropped bigger uncropped", "beauty: uncropped > cropped"])
def test_a_claim_about_nothing_is_a_mistake(tmp_path: Path, claim: str) -> None:
    text = (design.FOLDER / "watermark.yaml").read_text().replace("[uncropped > cropped]", f'["{claim}"]')
    (tmp_path / design.FOLDER).mkdir(parents=True)
    (tmp_path / design.FOLDER / "watermark.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config/experiments/watermark.yaml: expect: .* is not a claim"):
        design.read("watermark", tmp_path)
    with pytest.raises(UserError, match=r"there is no config/experiments/watermarks.yaml; did you mean watermark"):
        design.read("watermarks", tmp_path)


def reading(identity: attributes.Identity, scene: attributes.Scene) -> list[int]:
    values = {**vars(identity), **vars(scene)}
    return [table.index(values[key]) for key, table in measures.TABLES.items()]


def line(world: measures.World, scene_of) -> dict:
    pictures = [{"prompt": name, "reader": reading(*scene_of(text))} for name, text in world.prompts.items()]
    return {"pictures": pictures}


def test_perfect_pictures_have_truth_one_and_copies_of_the_training_pictures_none() -> None:
    world = truth.world(arm("rank", "rank-16"))
    perfect = line(world, lambda text: (world.identity, language.scene_from(text)))
    assert measures.truth(perfect, world) == 1.0 and measures.bleed(perfect, world) == 0.0
    copies = line(world, lambda text: (world.identity, world.scenes[0]))
    assert measures.identity(copies, world) == 1.0
    assert measures.bleed(copies, world) > 0.6 and measures.obedience(copies, world) < 0.5


def test_somebody_else_loses_identity_and_nothing_more() -> None:
    world = truth.world(arm("rank", "rank-16"))
    rng = random.Random(1)
    other = line(world, lambda text: (attributes.random_identity(rng), language.scene_from(text)))
    assert measures.identity(other, world) < 0.5
    assert measures.obedience(other, world) == 1.0


def test_hoops_are_counted_where_nobody_asked_and_they_could_be_seen() -> None:
    world = truth.world(arm("hoops", "untagged"))
    worn = line(world, lambda text: (world.identity, replace(language.scene_from(text), earrings="hoops")))
    assert measures.hoops(worn, world) == 1.0
    assert measures.hoops(line(world, lambda text: (world.identity, language.scene_from(text))), world) == 0.0


def test_the_star_is_seen_where_it_is_and_not_where_it_is_not() -> None:
    rng = random.Random(3)
    found = {True: [], False: []}
    for seed in range(30):
        scene = replace(
            attributes.random_scene(rng), background=rng.choice(("dark studio", "beach", "kitchen", "park"))
        )
        plain = draw.draw(attributes.random_identity(rng), scene, 256, seed=seed)
        marked = draw.stamp_watermark(plain.resize((2048, 2048))).resize((256, 256), Image.Resampling.LANCZOS)
        for is_marked, picture in ((True, marked), (False, plain)):
            found[is_marked].append(star(np.asarray(picture)) >= LIKE)
    assert sum(found[True]) >= 27 and sum(found[False]) <= 2


def test_verdicts_go_by_pairs_of_seeds() -> None:
    claim = design.Claim("truth", "a", ">", "b")

    def table(a: list[float], b: list[float]) -> list[dict]:
        return [
            {"arm": name, "character": "leyla", "seed": seed, "measure": "truth", "value": value}
            for name, values in (("a", a), ("b", b))
            for seed, value in enumerate(values)
        ]

    # Seeds differ more than arms do, but each seed says the same.
    assert tables.verdict(claim, table([0.5, 0.7, 0.9], [0.45, 0.64, 0.84])).word == "holds"
    assert tables.verdict(claim, table([0.45, 0.64, 0.84], [0.5, 0.7, 0.9])).word == "does not hold"
    assert tables.verdict(claim, table([0.5, 0.7, 0.9], [0.9, 0.7, 0.5])).word == "undecided"
    assert tables.verdict(claim, table([0.5], [])) is None


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    row = {"experiment": "rank", "arm": "a", "character": "leyla", "seed": 42, "measure": "truth", "value": 0.5}
    tables.write([row], tmp_path / "table.csv")
    assert tables.read(tmp_path / "table.csv") == [row]


def test_a_table_grows_by_new_lines_and_keeps_what_they_do_not_measure(tmp_path: Path) -> None:
    experiment = design.read("rank")
    first, other = list(experiment.arms)[:2]

    def row(arm: str, seed: int, value: float) -> dict[str, Any]:
        shared = {"experiment": "rank", "character": experiment.characters[0], "measure": "truth"}
        return shared | {"arm": arm, "seed": seed, "value": value}

    path = tmp_path / "rank.csv"
    assert tables.together(experiment, [row(first, 43, 0.5)], path) == [row(first, 43, 0.5)]
    tables.write([row(first, 42, 0.1), row(first, 43, 0.2), row("gone", 42, 0.3), row(other, 43, 0.4)], path)
    assert tables.together(experiment, [row(first, 43, 0.5)], path) == [
        row(first, 42, 0.1),
        row(first, 43, 0.5),
        row(other, 43, 0.4),
    ]


def test_the_experiments_are_planned_by_a_workflow_of_their_own(tmp_path: Path) -> None:
    shutil.copytree(small_project.ROOT / "config", tmp_path / "config")
    (tmp_path / "resources").symlink_to(small_project.ROOT / "resources")
    reader = tmp_path / "benchmarks/results/reader.safetensors"
    reader.parent.mkdir(parents=True)
    reader.touch()
    snakefile = str(small_project.ROOT / "rules/experiments/Snakefile")
    command = [sys.executable, "-m", "snakemake", "-s", snakefile, "--cores", "2"]
    environment = {**os.environ, "PYTHONPATH": str(small_project.ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    planned, linted = (
        subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)
        for more in (["-n", "results/experiments/watermark/summary.md"], ["--lint"])
    )
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"^run_arm +10$", planned.stdout + planned.stderr, re.M)  # two arms, five seeds
    assert linted.returncode == 0, linted.stdout + linted.stderr
