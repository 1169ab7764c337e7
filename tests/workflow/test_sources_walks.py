"""From an idea to the first step of training, without a picture to begin with: with an API, with a ComfyUI next door,
and with nothing but a sentence and a pipeline on this machine. One run of snakemake makes all three.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import job_server
import pytest
import small_project
import tiny_run
import yaml
from cli_helpers import call, said
from fake_generators import KEY, ComfyUI, Fake, Gemini, running
from PIL import Image
from small_project import snakemake

PEOPLE = {"api": "mara", "comfyui": "nika", "local": "orla"}
TARGETS = [f"results/{name}/checkpoints/step-000001.safetensors" for name in PEOPLE.values()]


@dataclass
class Walk:
    """A project after the run, what the servers were asked, and what the plan said before."""

    folder: Path
    api: Fake
    comfyui: Fake
    plan: str
    text: str


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Walk]:
    folder = small_project.make(tmp_path_factory.mktemp("walks") / "project")
    shutil.rmtree(folder / small_project.BASE["path"])
    shutil.copytree(tiny_base, folder / small_project.BASE["path"])
    base = {**small_project.BASE, "adapters": {}}
    recipe = {**base["recipe"], "sample": {"width": 64, "height": 64}, "training_adapter": "none"}
    small_project.write_yaml(folder / "config/bases/mini.yaml", {**base, "recipe": recipe})
    small_project.edit(folder / "config/config.yaml", recipe=tiny_run.RECIPE, device="cpu")
    with running(Gemini, Fake(["well", 503, "well", "refused"])) as api, running(ComfyUI, Fake()) as comfyui:
        pipeline = {"model": str(tiny_base), "width": 96, "height": 96, "num_inference_steps": 2, "strength": 0.9}
        images = {
            "api": {"source": "gemini", "gemini": {"base_url": api.url, "price": 0.04}, "budget": {"pictures": 9}},
            "comfyui": {"source": "comfyui", "comfyui": {"server": comfyui.url}},
            "local": {"source": "diffusers", "diffusers": pipeline},
        }
        for kind, name in PEOPLE.items():
            person = {k: v for k, v in small_project.CHARACTER.items() if k != "doll"}
            person |= {"trigger": {"mara": "m4ra", "nika": "n1ka", "orla": "0rla"}[name], "shots": person["shots"][:2]}
            path = folder / f"config/characters/{name}.yaml"
            small_project.write_yaml(path, {**person, "images": {**images[kind], "count": 2}})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GEMINI_API_KEY", KEY)
            plan = snakemake(folder, "-n", *TARGETS, code=small_project.ROOT)
            with job_server.interpreter(folder.parent) as python:
                patch.setenv("CHARLOOM_PYTHON", str(python))
                made = snakemake(folder, "--cores", "1", *TARGETS, code=small_project.ROOT)
        text = made.stdout + made.stderr
        assert made.returncode == 0, text[-6000:]
        yield Walk(folder, api, comfyui, plan.stdout + plan.stderr, text)


def test_the_plan_says_what_is_generated(walk: Walk) -> None:
    stats = walk.plan[walk.plan.index("Job stats:") :].split("total")[0]
    jobs = {line.split()[0]: int(line.split()[1]) for line in stats.splitlines()[3:] if line.split()}
    assert jobs["generate_reference"] == 1 and jobs["draw_reference"] == 2
    assert jobs["generate_picture"] == 4 and jobs["draw_picture"] == 2
    assert "make_reference" not in jobs and "make_source_image" not in jobs


@pytest.mark.parametrize("kind", PEOPLE)
def test_an_idea_becomes_a_data_set_that_passes_and_a_first_step(walk: Walk, kind: str) -> None:
    results = walk.folder / "results" / PEOPLE[kind]
    assert json.loads((results / "lint.json").read_text())["errors"] == 0
    assert (results / "checkpoints/step-000001.safetensors").stat().st_size > 0
    sources = {"api": "gemini", "comfyui": "comfyui", "local": "diffusers"}
    for shot in ("closeup-01", "medium-01"):
        record = json.loads((results / f"source/{shot}.json").read_text())
        assert record["source"] == sources[kind] and record["reference"]
        with Image.open(results / f"source/{shot}.png") as picture:
            assert picture.size == (96, 96)
    # The reference of an API is its own; otherwise the base has drawn it.
    with Image.open(results / "reference.png") as reference:
        assert reference.size == ((96, 96) if kind == "api" else (64, 64))


def test_each_generator_was_asked_for_each_picture_once(walk: Walk) -> None:
    api = [one.prompt for one in walk.api.asked]
    assert len(set(api)) == 3 and len(api) == 5  # the reference and two shots; one 503, one refusal
    assert api[0] == "photo of a woman, plain white t-shirt, light gray studio background" == walk.api.asked[0].prompt
    assert all("m4ra" not in prompt for prompt in api)
    assert len(walk.comfyui.asked) == 2
    reference = (walk.folder / "results/nika/reference.png").read_bytes()
    assert all(one.pictures == [reference] for one in walk.comfyui.asked)
    account = [json.loads(line) for line in (walk.folder / "work/purchases/mara.jsonl").read_text().splitlines()]
    assert [line["what"] for line in account].count("bought") == 3
    assert sum(line.get("price") or 0 for line in account) == pytest.approx(0.12)


def test_the_key_is_in_no_file_and_no_line(walk: Walk) -> None:
    texts = {path: path.read_bytes() for path in walk.folder.rglob("*") if path.is_file()}
    assert len(texts) > 100 and not [path for path, text in texts.items() if KEY.encode() in text]
    assert KEY not in walk.text + walk.plan


def test_nothing_is_done_or_bought_again(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    again = snakemake(walk.folder, "-n", *TARGETS, code=small_project.ROOT)
    assert "Nothing to be done" in again.stdout + again.stderr
    before = len(walk.api.asked)
    lost = walk.folder / "results/mara/source/medium-01.png"
    content = lost.read_bytes()
    lost.unlink()
    made = snakemake(walk.folder, "--cores", "1", "results/mara/source/medium-01.png", code=small_project.ROOT)
    # Out of the store, without a key.
    assert made.returncode == 0, made.stderr[-3000:]
    assert lost.read_bytes() == content and len(walk.api.asked) == before
    monkeypatch.chdir(walk.folder)
    assert "2 are there, 0 to get" in said(call("images", "mara", "--dry-run"))


def test_a_price_that_changes_asks_for_nothing(walk: Walk) -> None:
    path = walk.folder / "config/characters/mara.yaml"
    written = path.read_text()
    person = yaml.safe_load(written)
    person["images"]["gemini"] |= {"price": 0.5, "per_chat": 2, "timeout": 33.0}
    small_project.write_yaml(path, person)
    again = snakemake(walk.folder, "-n", TARGETS[0], code=small_project.ROOT)
    path.write_text(written)
    assert "Nothing to be done" in again.stdout + again.stderr
