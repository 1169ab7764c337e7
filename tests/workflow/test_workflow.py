"""What a dry run says of an edit: which jobs it costs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import small_project
from rerun_counts import (
    AFTER_DATA,
    AFTER_SAMPLES,
    CHOSEN,
    EVERY_PREVIEW_OF_A_PROMPT,
    FIRST_SCORES,
    REPORTED,
    SWEPT,
)
from small_project import TARGET, edit, planned, replace, snakemake

CHARACTER = "config/characters/mara.yaml"
CONFIG = "config/config.yaml"


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project to edit."""
    return Path(shutil.copytree(finished, tmp_path / "project"))


def reword_docstrings(folder: Path) -> None:
    for name in ("captions", "crop", "lint/check"):
        path = folder / "charloom/dataset" / f"{name}.py"
        path.write_text(path.read_text().replace('"""', '"""Again. ', 1))


def by_hand(folder: Path) -> None:
    path = folder / "config/captions/mara/medium-01.txt"
    path.parent.mkdir(parents=True)
    path.write_text("a medium shot photo of m4ra, side profile, a black hoodie")


def further_set(folder: Path, **changes: object) -> None:
    """Two regularisation images, one with a text of its own."""
    (folder / "others").mkdir(exist_ok=True)
    for name in ("a-1.png", "a-2.jpg"):
        (folder / "others" / name).touch()
    (folder / "others/a-1.txt").write_text("a photo of a woman")
    entry = {"name": "others", "path": "others", "regularization": True, "default_caption": "somebody", **changes}
    edit(folder / CHARACTER, datasets=[entry])


EDITS: dict[str, tuple[Callable[[Path], object], dict[str, int]]] = {
    "a caption by hand": (
        by_hand,
        {"write_caption": 1, "lint_dataset": 1, "encode_caption": 1, "write_manifest": 1, **AFTER_DATA},
    ),
    "rank": (lambda p: replace(p, CONFIG, "recipe:\n", "recipe:\n  network:\n    rank: 8\n"), AFTER_DATA),
    "a sample prompt": (
        lambda p: replace(p, CHARACTER, "a red hoodie", "a green hoodie"),
        {"encode_text": 1, **EVERY_PREVIEW_OF_A_PROMPT, **AFTER_SAMPLES},
    ),
    "the strength of a preview": (
        lambda p: replace(p, CHARACTER, "scale: 0.8", "scale: 0.7"),
        {**EVERY_PREVIEW_OF_A_PROMPT, **AFTER_SAMPLES},
    ),
    "the checkpoint": (lambda p: edit(p / CHARACTER, checkpoint=50), {"verify_checkpoint": 1, **SWEPT}),
    "the strengths": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"strengths": [0.5, 1.0]}}),
        {"sample_strength": 2, "score_strengths": 1, **REPORTED},
    ),
    "no strengths": (lambda p: edit(p / CHARACTER, recipe={"sample": {"strengths": []}}), REPORTED),
    "more steps": (
        lambda p: replace(p, CONFIG, "steps: 100", "steps: 150"),
        {
            "train_segment": 1,
            "sample_checkpoint": 2,
            "draw_grid": 1,
            "score_checkpoint": 1,
            **CHOSEN,
        },
    ),
    "the outfit of a shot": (
        lambda p: replace(p, CHARACTER, "a black hoodie", "a gray hoodie"),
        {
            "write_prompts": 1,
            "make_source_image": 1,
            "crop_watermark": 1,
            "write_caption": 1,
            "lint_dataset": 1,
            "encode_latents": 1,
            "encode_caption": 1,
            "write_manifest": 1,
            **AFTER_DATA,
        },
    ),
    "the person": (
        lambda p: replace(p, CHARACTER, "skin: tan", "skin: fair"),
        {
            "make_reference": 1,
            "make_source_image": 3,
            "crop_watermark": 3,
            "lint_dataset": 1,
            "encode_latents": 3,
            "write_manifest": 1,
            **AFTER_DATA,
        },
    ),
    "the appearance in words": (
        lambda p: replace(p, CHARACTER, "appearance: a woman", "appearance: a tall woman"),
        {"write_prompts": 1, "write_report": 1, "export_final": 1},
    ),
    "a training resolution": (
        lambda p: replace(p, "config/bases/mini.yaml", "- 128", "- 192"),
        {"encode_latents": 3, "lint_dataset": 1, "write_manifest": 1, **AFTER_DATA},
    ),
    "how the GPU is used": (
        lambda p: replace(p, CONFIG, "recipe:\n", "recipe:\n  memory: 9.5\n  engine: {compile: false}\n"),
        REPORTED,
    ),
    "another training adapter": (
        lambda p: replace(p, CONFIG, "recipe:\n", "recipe:\n  training_adapter: none\n"),
        {"prepare_base": 1, **AFTER_DATA},
    ),
    "a file of the base": (
        lambda p: (p / "resources/bases/mini/vae/config.json").write_text("{ }"),
        {
            "lock_base": 1,
            "prepare_base": 1,
            "encode_latents": 3,
            "encode_caption": 3,
            "encode_text": 4,
            "write_manifest": 1,
            **AFTER_DATA,
            "sample_checkpoint": 6,  # the base alone too
        },
    ),
    "a data set more": (
        further_set,
        {
            "convert_set_picture": 2,
            "take_set_caption": 2,
            "lint_dataset": 1,
            "encode_latents": 2,
            "encode_caption": 2,
            "write_manifest": 1,
            **AFTER_DATA,
        },
    ),
    "differential preservation": (
        lambda p: edit(p / CHARACTER, recipe={"train": {"preservation": {"differential": {"enabled": True}}}}),
        {"encode_class_caption": 3, "write_manifest": 1, **AFTER_DATA},
    ),
    "blank preservation": (
        lambda p: edit(p / CHARACTER, recipe={"train": {"preservation": {"blank": {"enabled": True}}}}),
        AFTER_DATA,
    ),
    "a default caption that nobody needs": (
        lambda p: edit(p / CHARACTER, recipe={"data": {"default_caption": "a photo of {trigger}"}}),
        REPORTED,
    ),
    "repeats": (
        lambda p: edit(p / CHARACTER, recipe={"data": {"repeats": 2}}),
        {"write_manifest": 1, **AFTER_DATA},
    ),
    "flips": (
        lambda p: edit(p / CHARACTER, recipe={"data": {"flip_x": True}}),
        {"lint_dataset": 1, "encode_latents": 3, "write_manifest": 1, **AFTER_DATA},
    ),
    "how many checkpoints are kept": (
        lambda p: edit(p / CHARACTER, recipe={"save": {"keep": 1}}),
        CHOSEN,
    ),
    "checkpoints kept by score": (
        lambda p: edit(p / CHARACTER, recipe={"save": {"keep": "score:1"}}),
        CHOSEN,
    ),
    "number format of the files": (
        lambda p: edit(p / CHARACTER, recipe={"save": {"dtype": "fp16"}}),
        AFTER_DATA,
    ),
    "a seed that does not walk": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"walk_seed": False}}),
        {**EVERY_PREVIEW_OF_A_PROMPT, **AFTER_SAMPLES},
    ),
    "the seed of one prompt": (
        lambda p: replace(p, CHARACTER, "scale: 0.8", "scale: 0.8\n  seed: 7"),
        {**EVERY_PREVIEW_OF_A_PROMPT, **AFTER_SAMPLES},
    ),
    "the size of one prompt": (
        lambda p: replace(p, CHARACTER, "scale: 0.8", "scale: 0.8\n  width: 256\n  height: 192"),
        {**EVERY_PREVIEW_OF_A_PROMPT, **AFTER_SAMPLES},
    ),
    "a preview of the base": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"skip_first": False}}),
        FIRST_SCORES,
    ),
    "a preview of the base by force": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"force_first": True}}),
        FIRST_SCORES,
    ),
    "no previews": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"disable": True}}),
        {"choose_checkpoint": 1, "verify_checkpoint": 1, **REPORTED},
    ),
    "a picture left out": (
        lambda p: edit(p / CHARACTER, images={"source": "paperdoll", "count": 3, "exclude": ["medium-01"]}),
        {"write_prompts": 1, "lint_dataset": 1, "write_manifest": 1, **AFTER_DATA},
    ),
    "files touched": (lambda p: [os.utime(path) for path in p.rglob("*") if path.is_file()], {}),
    "a comment in YAML": (lambda p: replace(p, CHARACTER, "name: Mara", "# a comment\nname: Mara"), {}),
    "keys in another order": (lambda p: edit(p / CONFIG, base="mini", device="auto"), {}),
    "a default spelt out": (
        lambda p: replace(p, CONFIG, "recipe:\n", "recipe:\n  network:\n    rank: 32\n    alpha: 32\n"),
        {},
    ),
    "a docstring in the library": (
        reword_docstrings,
        {},
    ),
    "device and store": (lambda p: edit(p / CONFIG, device="cpu", store="work/elsewhere"), {}),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_costs_only_what_depends_on_it(project: Path, name: str) -> None:
    change, expected = EDITS[name]
    change(project)
    assert planned(project) == expected


def test_an_edit_of_a_further_set_costs_only_what_depends_on_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    further_set(project)
    monkeypatch.setenv("CHARLOOM_PYTHON", str(small_project.pretender(project)))
    made = snakemake(project, "--cores", "2", TARGET)
    assert made.returncode == 0, made.stderr
    assert planned(project) == {}
    assert (project / "results/mara/latents/others/a-2.safetensors").is_file()
    changes: list[tuple[Callable[[], object], dict[str, int]]] = [
        (lambda: further_set(project, weight=0.5), {"write_manifest": 1}),
        (
            lambda: further_set(project, resolutions=[64]),
            {"encode_latents": 2, "lint_dataset": 1, "write_manifest": 1},
        ),
        (
            lambda: further_set(project, default_caption="nobody"),
            {"take_set_caption": 1, "lint_dataset": 1, "encode_caption": 1, "write_manifest": 1},
        ),
        (
            lambda: (further_set(project), (project / "others/a-1.txt").write_text("a photo of another woman")),
            {"take_set_caption": 1, "lint_dataset": 1, "encode_caption": 1, "write_manifest": 1},
        ),
    ]
    for change, expected in changes:
        change()
        assert planned(project) == {**expected, **AFTER_DATA}
