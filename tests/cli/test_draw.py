"""``charloom draw``: which LoRA it uses, how files are named, and a line for every mistake."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_project
import torch
from cli_helpers import call, said
from lora_helpers import ship
from PIL import Image
from small_project import edit

from charloom.base import locks
from charloom.cli import draw, drawing
from charloom.config.project import load
from charloom.core import files
from charloom.core.errors import UserError
from charloom.core.layout import results
from charloom.core.store import Store
from charloom.core.tensors import read_safetensors, write_safetensors
from charloom.lora.convert import convert
from charloom.lora.network import Network

PROMPT = "a medium shot photo of {trigger}, kitchen"
NETWORK = Network(rank=4, alpha=4)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Mara with a locked base, two checkpoints of three, and nothing else."""
    folder = small_project.make(tmp_path_factory.mktemp("draw") / "project")
    shutil.rmtree(folder / small_project.BASE["path"])
    shutil.copytree(tiny_base, folder / small_project.BASE["path"])
    recipe = {**small_project.BASE["recipe"], "sample": {"width": 64, "height": 64, "steps": 2}}
    edit(folder / "config/bases/mini.yaml", adapters={}, recipe={**recipe, "training_adapter": "none"})
    edit(folder / "config/config.yaml", device="cpu", recipe={"train": {"steps": 150}, "save": {"every": 50}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lock = locks.lock({"name": "mini", "path": small_project.BASE["path"], "adapters": {}}, Store("work/store"))
        files.write_json(Path("work/bases/mini.lock.json"), lock)
        for step, strength in ((50, 0.3), (100, 1.0)):
            path = results("mara").checkpoint(step)
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors, header = read_safetensors(ship(folder / "x.safetensors", NETWORK))
            scaled = {name: t * strength if "lora_B" in name else t for name, t in tensors.items()}
            write_safetensors(path, scaled, header)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, with no picture drawn yet."""
    monkeypatch.chdir(project)
    made = results("mara")
    shutil.rmtree(made.root / "drawn", ignore_errors=True)
    made.final.unlink(missing_ok=True)
    return made.root / "drawn"


def run(*arguments: str) -> str:
    done = call("draw", "mara", *arguments)
    assert done.exit_code == 0, said(done)
    return said(done)


def refused(*arguments: str) -> str:
    done = call("draw", "mara", *arguments)
    assert done.exit_code == 1
    (line,) = [line for line in said(done).splitlines() if line.startswith("error: ")]
    assert "Traceback" not in said(done)
    return line


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image).astype(int)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoint_draws_until_there_is_a_finished_file(here: Path) -> None:
    text = run(PROMPT)
    assert "note: mara is not finished; step 100 of 150 draws" in text and "results/mara/drawn/42.png" in text
    shutil.copy(results("mara").checkpoint(50), results("mara").final)
    text = run(PROMPT, "--seed", "42")
    assert "not finished" not in text and names(here) == ["42-2.png", "42.png"]
    assert np.abs(pixels(here / "42.png") - pixels(here / "42-2.png")).max() > 8
    with Image.open(here / "42-2.png") as image:
        assert image.info["parameters"].startswith("a medium shot photo of m4ra, kitchen <lora:mara:1>\nSteps: 2, ")


def test_seeds_go_on_and_nothing_is_overwritten(here: Path) -> None:
    run(PROMPT, "a photo of {trigger}, beach", "--count", "2")
    assert names(here) == ["42.png", "43.png", "44.png", "45.png"]
    before = (here / "42.png").read_bytes()
    run(PROMPT, "--seed", "42", "--size", "80x64", "--steps", "1", "--strength", "0.5")
    assert (here / "42.png").read_bytes() == before
    with Image.open(here / "42-2.png") as image:
        assert image.size == (80, 64) and "<lora:mara-step-000100:0.5>\nSteps: 1, " in image.info["parameters"]
    run(PROMPT)
    assert "46.png" in names(here)
    # The same seed and settings: the same picture.
    run(PROMPT, "--seed", "42", "--output", "elsewhere")
    assert np.array_equal(pixels(Path("elsewhere/42.png")), pixels(here / "42.png"))


def test_checkpoints_side_by_side(here: Path) -> None:
    text = run(PROMPT, "--checkpoints", "0,50,100", "--seed", "5")
    singles = [f"5-{name}.png" for name in ("base", "step-000050", "step-000100")]
    assert names(here) == sorted(["5-checkpoints.png", *singles]) and "side by side" in text
    found = [pixels(here / name) for name in singles]
    assert all(np.abs(a - b).max() > 3 for a, b in zip(found, found[1:], strict=False))
    with Image.open(here / "5-checkpoints.png") as page, Image.open(here / singles[2]) as last:
        assert page.width > 3 * 64 and "parameters" in last.info
        # The last column shows the last checkpoint.
        right = np.array(page.convert("RGB")).astype(int)[:, -90:]
    windows = np.lib.stride_tricks.sliding_window_view(right, (8, 8, 3))
    assert np.abs(windows - found[2][20:28, 20:28]).max(axis=(-1, -2, -3)).min() == 0


def test_styles_and_files_of_other_programs(here: Path, tmp_path: Path) -> None:
    made = convert(results("mara").checkpoint(50), "kohya")
    write_safetensors(tmp_path / "theirs.safetensors", made.tensors, made.metadata)
    run(PROMPT, "--seed", "1", "--checkpoint", "50")
    run(PROMPT, "--seed", "1", "--lora", str(tmp_path / "theirs.safetensors"))
    assert np.abs(pixels(here / "1-2.png") - pixels(here / "1.png")).max() <= 1
    run(PROMPT, "--seed", "1", "--checkpoint", "100", "--style", f"{tmp_path / 'theirs.safetensors'}=0.5")
    with Image.open(here / "1-3.png") as image:
        assert "<lora:mara-step-000100:1> <lora:theirs:0.5>" in image.info["parameters"]
    assert np.abs(pixels(here / "1-3.png") - pixels(here / "1.png")).max() > 3


def test_a_style_of_the_workflow_brings_its_trigger_and_must_fit_the_base(here: Path) -> None:
    style = {"kind": "style", "name": "Ink", "trigger": "1nk", "images": {"source": "paperdoll", "look": "ink"},
             "sample_prompts": ["a cat, {trigger}"]}  # fmt: skip
    path = Path("config/styles/ink.yaml")
    try:
        small_project.write_yaml(path, style)
        assert "ink is not finished; to train it, run snakemake" in refused(PROMPT, "--style", "ink")
        results("ink").root.mkdir(parents=True)
        shutil.copy(results("mara").checkpoint(50), results("ink").final)
        run(PROMPT, "a 1nk drawing of {trigger}", "--seed", "1", "--style", "ink=0.5")
        run(PROMPT, "--seed", "2", "--style", f"{results('ink').final}=0.7")
        with Image.open(here / "2.png") as image:
            assert image.info["parameters"].startswith(
                "a medium shot photo of m4ra, kitchen <lora:mara-step-000100:1> <lora:ink:0.7>"
            )
        for name, text in (
            ("1.png", "1nk, a medium shot photo of m4ra, kitchen"),
            ("1-2.png", "a 1nk drawing of m4ra"),
        ):
            with Image.open(here / name) as image:
                assert image.info["parameters"].startswith(f"{text} <lora:mara-step-000100:1> <lora:ink:0.5>")
        shutil.copy("config/bases/mini.yaml", "config/bases/other.yaml")
        edit(path, base="other")
        assert "--style ink: ink is made for base other, mara for mini" in refused(PROMPT, "--style", "ink")
        edit(path, sample_prompts=[])
        assert "--style ink: config/styles/ink.yaml: sample_prompts" in refused(PROMPT, "--style", "ink")
    finally:
        shutil.rmtree("config/styles")
        shutil.rmtree(results("ink").root, ignore_errors=True)
        Path("config/bases/other.yaml").unlink(missing_ok=True)


def test_lines_are_drawn_as_they_come(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["/seed 9", PROMPT, "/strength 0.5", "/size 64x80", "/steps 1", "/show", "a [trigger]", "/sede 3",
             "/count x", "/checkpoint 70", "/checkpoint 50", "/seed next", PROMPT, "/quit", PROMPT]  # fmt: skip
    monkeypatch.setattr(draw, "typed", lambda: iter(f"{line}\n" for line in lines))
    loads = []
    from charloom.engine import previews as engine

    load = engine.load_transformer
    monkeypatch.setattr(engine, "load_transformer", lambda *a, **k: loads.append(1) or load(*a, **k))
    text = run("--repl")
    assert names(here) == ["42.png", "9.png"] and len(loads) == 1
    with Image.open(here / "42.png") as image:
        assert image.size == (64, 80) and "<lora:mara-step-000050:0.5>\nSteps: 1, " in image.info["parameters"]
    for line in ("mara-step-000100, 64x80, 1 steps, strength 0.5, seed 9, count 1",
                 "error: [trigger] would be drawn literally",
                 "error: /sede: no such command", "error: /count x: give a number",
                 "error: mara has no checkpoint of step 70; use one of 50, 100"):  # fmt: skip
        assert line in text


def test_a_typed_prompt_without_the_trigger_is_noted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "typed", lambda: iter(["foo bar\n", PROMPT]))
    assert run("--repl").count("note: no {trigger} in the prompt, so it may show somebody else: foo bar") == 1


def test_only_a_trigger_that_exists_can_be_missing(here: Path) -> None:
    mara, noted = load().characters["mara"], []
    for one in (mara, replace(mara, is_style=True), replace(mara, is_style=True, trigger="")):
        draw.warn("a house", one, noted.append)
    before = "note: no {trigger} in the prompt, so it may"
    assert noted == [f"{before} show somebody else: a house", f"{before} be in another style: a house"]


def test_a_character_may_be_named_by_its_file(here: Path) -> None:
    done = call("draw", "config/characters/mara.yaml", "a [trigger]")
    assert "would be drawn literally" in said(done)


def test_prompts_of_a_file(here: Path) -> None:
    Path("prompts.txt").write_text("# a remark\n\na photo of {trigger}\nsomebody else\n")
    text = run("--prompts", "prompts.txt")
    assert names(here) == ["42.png", "43.png"] and "note: no {trigger} in the prompt" in text


def test_an_expression_sheet(here: Path) -> None:
    Path("faces.txt").write_text("".join(f"a close-up photo of {{trigger}}, {face}, studio\n" for face in "abcdef"))
    text = run("--prompts", "faces.txt", "--seed", "7", "--sheet")
    assert names(here) == sorted(["7.png", *(f"7-{i}.png" for i in range(2, 7)), "7-sheet.png"])
    assert "results/mara/drawn/7-sheet.png  all on one" in text
    page = pixels(here / "7-sheet.png")
    assert page.shape[1] > 5 * 64  # five in a row, the sixth below
    for stem in ("7", "7-6"):
        inner = pixels(here / f"{stem}.png")[20:28, 20:28]
        windows = np.lib.stride_tricks.sliding_window_view(page, (8, 8, 3))
        assert np.abs(windows - inner).max(axis=(-1, -2, -3)).min() == 0
    assert "leave --sheet out" in refused(PROMPT, "--checkpoints", "50,100", "--sheet")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "there is no prompt"),
        ([" "], "the prompt is empty"),
        (["{trigger}", "on", "a", "bridge"], "put quotes around the prompt: '{trigger} on a bridge'"),
        (["a [trigger]"], "[trigger] would be drawn literally; did you mean {trigger}?"),
        ([PROMPT, "--size", "1000x700"], "sides must be multiples of 16 from 64 to 4096; take 992x704, the nearest"),
        (["{trigger}，在桥上", "{trigger}在海边", "--size", "big"], "--size big: give pixels as 1024 or 1920x1088"),
        ([PROMPT, "--size", "big"], "--size big: give pixels as 1024 or 1920x1088"),
        ([PROMPT, "--checkpoint", "75"], "mara has no checkpoint of step 75; use one of 50, 100"),
        ([PROMPT, "--checkpoints", "50,x"], "--checkpoints 50,x: give steps with commas between them"),
        ([PROMPT, "--checkpoint", "50", "--checkpoints", "50"], "give one of them"),
        ([PROMPT, "--lora", "no.safetensors"], "no.safetensors: there is no such file"),
        ([PROMPT, "--lora", "~nosuchuser/x.safetensors"], "~nosuchuser/x.safetensors: there is no such file"),
        ([PROMPT, "--style", "~nosuchuser/x.safetensors"], "~nosuchuser/x.safetensors: there is no such file"),
        ([PROMPT, "--style", "inkk"], "--style inkk: there is no config/styles/inkk.yaml"),
        ([PROMPT, "--style", "mara"], "mara is a character, not a style; give its file instead: results/mara/final."),
        ([PROMPT, "--style", "ink=x"], "--style ink=x: the strength must be a number"),
        ([PROMPT, "--prompts", "no.txt"], "no.txt: there is no such file"),
    ],
)
def test_a_mistake_is_a_line(here: Path, arguments: list[str], line: str) -> None:
    assert line in refused(*arguments)
    assert not here.exists()


def test_a_misspelt_name_is_answered_with_the_nearest(here: Path) -> None:
    done = call("draw", "marra", PROMPT)
    assert done.exit_code == 1 and "did you mean mara?" in said(done)


@pytest.mark.parametrize("what", ["wide", "truncated", "pickled", "nothing of an adapter", "no module of the base"])
def test_a_file_that_cannot_draw_is_named(here: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "other.safetensors"
    whole = results("mara").checkpoint(50).read_bytes()
    stem = "diffusion_model.layers.0.attention.to_q"
    pair = {f"{stem}.lora_A.weight": torch.ones(4, 96), f"{stem}.lora_B.weight": torch.ones(96, 4)}
    if what == "truncated":
        path.write_bytes(whole[:-64])
    elif what == "pickled":
        torch.save({"x": torch.ones(3)}, path)
    elif what == "wide":
        write_safetensors(path, pair, {})
    elif what == "nothing of an adapter":
        write_safetensors(path, {"model.weight": torch.ones(3)}, {})
    else:
        write_safetensors(path, {key.replace("layers.0", "layers.7"): value for key, value in pair.items()}, {})
    line = refused(PROMPT, "--lora", str(path))
    words = {
        "truncated": "it is cut off",
        "pickled": "it is a pickle",
        "nothing of an adapter": "not those of an adapter",
    }
    assert "other.safetensors: " in line and words.get(what, "base") in line


def test_without_a_lock_or_a_checkpoint_the_command_that_makes_it_is_told(here: Path, tmp_path: Path) -> None:
    made = results("mara").root / "checkpoints"
    made.rename(tmp_path / "checkpoints")
    try:
        assert "mara has no checkpoint yet; to train it, run snakemake" in refused(PROMPT)
        lock = Path("work/bases/mini.lock.json")
        text = lock.read_text()
        lock.unlink()
        assert "mara has no checkpoint yet; to train it, run snakemake" in refused(PROMPT)
    finally:
        (tmp_path / "checkpoints").rename(made)
    try:
        assert "mini.lock.json: is missing; to make it: snakemake" in refused(PROMPT)
    finally:
        lock.write_text(text)


def test_a_full_disk_is_a_line_and_what_was_drawn_stays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = Image.Image.save, []

    def full(self: Any, path: Any, *a: Any, **k: Any) -> None:
        if saved:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(path)
        save(self, path, *a, **k)

    monkeypatch.setattr(Image.Image, "save", full)
    line = refused(PROMPT, "--count", "2")
    assert "43.png: the disk is full" in line and names(here) == ["42.png"]


def test_names_of_files(tmp_path: Path) -> None:
    assert drawing.next_seed(tmp_path / "none", 42) == 42
    for name in ("42.png", "7-step-50.png", "120-2.png", "notes.txt", "x9.png"):
        (tmp_path / name).touch()
    assert drawing.next_seed(tmp_path, 42) == 121
    assert [drawing.reserve(tmp_path, "42").name for _ in range(2)] == ["42-2.png", "42-3.png"]
    with pytest.raises(UserError, match="is a file, not a folder"):
        drawing.reserve(tmp_path / "notes.txt", "1")


def test_sizes() -> None:
    assert draw.size("1024") == (1024, 1024) and draw.size("1920x1088") == draw.size("1920 × 1088") == (1920, 1088)
