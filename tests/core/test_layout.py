"""Paths have one spelling, the one of charloom.core.layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from charloom.core.layout import WORK, Results, Work, lora_name, prepared_name, results, step_name, step_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("step", [0, 250, 999_999, 1_000_000])
def test_a_step_is_read_back_from_its_name(step: int) -> None:
    assert step_of(f"samples/{step_name(step)}") == step == step_of(Results("r").checkpoint(step))


def test_a_copy_made_by_hand_is_no_checkpoint(tmp_path: Path) -> None:
    made = Results(tmp_path)
    for step in ("000050", "000100", "000100 (copy)", "best"):
        made.samples(step).mkdir(parents=True)
        made.checkpoint(step).parent.mkdir(exist_ok=True)
        made.checkpoint(step).touch()
    assert made.checkpoints() == [made.checkpoint(50), made.checkpoint(100)]
    assert list(made.sampled_steps()) == [50, 100]


def test_a_lora_is_called_by_its_character_not_by_its_place() -> None:
    nika = results("nika")
    assert lora_name(nika.final) == lora_name(Path("/studio") / nika.final) == "nika"
    assert lora_name(nika.checkpoint(250)) == "nika-step-000250"
    names = ["final", "step-000250", "my-ink"]
    assert [lora_name(Path(f"{name}.safetensors")) for name in names] == names
    assert lora_name(Path("loras/step-1.safetensors")) == "step-1"


def test_the_pattern_of_a_rule_is_the_path_that_scripts_use() -> None:
    pattern, made = Results("results/{character}"), results("mara")
    values = {"character": "mara", "step": "000250", "prompt": "01", "shot": "more/a"}
    for of_rule, path in (
        (pattern.checkpoint("{step}"), made.checkpoint(250)),
        (pattern.sample("{step}", "{prompt}"), made.sample(250, "01")),
        (pattern.scores("{step}"), made.scores(250)),
        (pattern.grid("{step}"), made.grid(250)),
        (pattern.class_embedding("{shot}"), made.class_embedding("more/a")),
        (pattern.final, made.final),
    ):
        assert of_rule.as_posix().format(**values) == path.as_posix()
    log = pattern.log("train_segment", "{step}")
    assert log.format(**values) == made.log("train_segment", "000250") == "results/mara/logs/train_segment/000250.log"
    prepared = Work("work").prepared(prepared_name("{base}", "v1", "none"), ".json")
    assert prepared.as_posix().format(base="mini") == "work/bases/mini-v1-none.json"
    assert WORK.lock("mini").as_posix() == "work/bases/mini.lock.json"


def test_no_other_file_spells_the_name_of_a_checkpoint() -> None:
    files = [path for part in ("charloom", "scripts", "rules") for path in (ROOT / part).rglob("*.*")]
    found = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.suffix in (".py", ".smk") and re.search(r"step-[{*\[%]", path.read_text(encoding="utf-8"))
    ]
    assert found == ["charloom/core/layout.py"]
