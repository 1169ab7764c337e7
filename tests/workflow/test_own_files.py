"""The user's own files: their contents decide, not their dates, and they may have any names."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import small_project
from PIL import Image
from rerun_counts import CHOSEN
from small_project import TARGET, edit, snakemake

from charloom.base import locks
from charloom.config import project as config
from charloom.core.contents import Contents, remembered
from charloom.core.store import Store
from charloom.workflow import arguments, delivery, slices

CHARACTER = "config/characters/mara.yaml"
PICTURES = "pics{1} of $HOME"
AWKWARD = [
    "b{2}.png", "{wildcards.character}.png", "{{}}.png", "it's.png", 'a "quote".png', "$(touch hacked).png",
    "`touch hacked`.png", "back\\slash.png", "[a-z]*?.png", "-dash.png", "new\nline.png", "\U0001f98a.png",
    "%s & ; | # ~.png", "n" * 251 + ".png", os.fsdecode(b"latin-\xe9.png"), "trailing .png",
]  # fmt: skip

WORKER = """#!{python} -S
# Stands in for the interpreter of the jobs: hands on the user's file that it is given.
import json, sys
arguments = dict(zip(sys.argv, sys.argv[1:]))
file = json.loads(arguments.get("--user-file", "null"))
made = sys.argv[sys.argv.index("--output") if "--output" in sys.argv else 0 :]  # what stands before it is read
for flag, value in zip(made, made[1:]):
    if flag in ("--output", "--comparison", "--html", "--txt", "--record", "--validation", "--table",
                "--scores-plot", "--loss-plot", "--strip"):
        content = open(file, "rb").read() if file else value.encode()
        with open(value, "wb") as output:
            output.write(content)
"""


def names() -> list[str]:
    """Those of the awkward names that this file system allows."""
    return AWKWARD if sys.platform == "linux" else AWKWARD[:4] + ["[a-z].png", "-dash.png"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project with awkward names wherever there are names."""
    folder = small_project.make(tmp_path_factory.mktemp("own") / "pro{ject} $1")
    shots = [{**shot} for shot in small_project.CHARACTER["shots"]]
    shots[0]["file"] = "close{up}.png"
    entry = {"name": "more", "path": "se{t}s/'1'", "default_caption": "m4ra"}
    images = {"source": "folder", "path": PICTURES, "count": 3}
    edit(folder / CHARACTER, images=images, shots=shots, datasets=[entry])
    for place in (PICTURES, entry["path"]):
        (folder / place).mkdir(parents=True)
    for name in ("close{up}.png", "medium-01.jpg", "fullbody-01.png"):
        (folder / PICTURES / name).write_bytes(name.encode())
    (folder / PICTURES / "medium-01.txt").write_text("m4ra, by hand")
    for name in names():
        (folder / entry["path"] / name).write_bytes(os.fsencode(name))
    (folder / small_project.BASE["path"]).rename(folder / "resources/ba{s}e")
    (folder / "resources/judge{0}.bin").write_text("judge")
    edit(
        folder / "config/bases/mini.yaml",
        path="resources/ba{s}e",
        adapters={"v1": "resources/ba{s}e/adapter.safetensors"},
        judge="paperdoll",
        judge_weights="resources/judge{0}.bin",
    )
    edit(folder / "config/config.yaml", store="work/st{o}re's")
    worker = folder / "worker"
    worker.write_text(WORKER.format(python=sys.executable))
    worker.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLOOM_PYTHON", str(worker))
        done = snakemake(folder, "--cores", "2", TARGET, code=small_project.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_names_may_be_what_a_file_system_allows(made: Path) -> None:
    found = {path.read_bytes() for path in (made / "results/mara/dataset/more").glob("*.png")}
    assert found == {os.fsencode(name) for name in names()}
    assert (made / "results/mara/dataset/closeup-01.png").read_bytes() == b"close{up}.png"
    assert (made / "results/mara/dataset/medium-01.txt").read_text() == "m4ra, by hand"
    assert not list(made.rglob("hacked"))


def test_a_workflow_below_braces_is_one_line(tmp_path: Path) -> None:
    folder = small_project.add_code(small_project.make(tmp_path / "my{workflow}"))
    result = snakemake(folder, "-n", TARGET)
    assert result.returncode == 1
    assert f"error: {folder}: Snakemake cannot run" in result.stderr and "Traceback" not in result.stderr


def first_jobs(folder: Path) -> dict[str, int]:
    """Jobs that a dry run plans, of the rules that read the user's files."""
    result = snakemake(folder, "-n", TARGET, code=small_project.ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr and "Logging error" not in result.stderr
    table = result.stdout + result.stderr
    read_files = ("make_reference", "lock_base", "write_caption")
    read_files += ("convert_picture", "convert_set_picture", "take_set_caption")
    rows = dict(re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE))
    if rows and "train_segment" not in rows:
        assert set(rows) <= {"score_checkpoint", *CHOSEN, "total"}
        assert "score_checkpoint" in rows, table
        return {"score_checkpoint": int(rows["score_checkpoint"])}
    return {rule: int(number) for rule, number in rows.items() if rule in read_files}


def put(path: Path, content: bytes, years: int) -> None:
    """Put another file in its place, with a date of its own: as mv, cp -p, unzip and rsync do."""
    other = path.with_name("other")
    other.write_bytes(content)
    stamp = path.stat().st_mtime + years * 3e7 if path.exists() else 1e9
    os.utime(other, (stamp, stamp))
    os.replace(other, path)


def test_what_a_file_holds_decides_and_not_its_date(made: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(made, tmp_path / "project"))
    (project / "work/contents.json").write_text("{")  # a broken one is none
    assert first_jobs(project) == {}
    own = [path for place in (PICTURES, "se{t}s", "resources") for path in (project / place).rglob("*")]
    for years, jobs in ((2, {}), (-20, {})):
        for path in own:
            os.utime(path, (path.stat().st_mtime + years * 3e7,) * 2)
        assert first_jobs(project) == jobs
    put(project / "resources/judge{0}.bin", b"other", -20)
    assert first_jobs(project) == {"score_checkpoint": 2}
    put(project / PICTURES / "fullbody-01.png", b"other", -20)
    assert first_jobs(project) == {"convert_picture": 1}
    put(project / "se{t}s/'1'/-dash.png", b"other", 5)
    assert first_jobs(project) == {"convert_picture": 1, "convert_set_picture": 1}
    put(project / PICTURES / "medium-01.txt", b"m4ra, by another hand", -20)
    pictures = {"convert_picture": 1, "convert_set_picture": 1}
    assert first_jobs(project) == {**pictures, "write_caption": 1}
    put(project / PICTURES / "reference.png", b"reference", 0)
    put(project / "se{t}s/'1'/b{2}.txt", b"m4ra", 0)
    expected = {"make_reference": 1, **pictures, "write_caption": 1, "take_set_caption": 1}
    assert first_jobs(project) == expected
    put(project / "resources/ba{s}e/adapter.safetensors", b"{  }", -20)
    (project / PICTURES / "medium-01.txt").unlink()
    assert first_jobs(project) == {**expected, "lock_base": 1}
    # The same bytes as before by another name are what they were.
    put(project / PICTURES / "fullbody-01.png", b"fullbody-01.png", 3)
    (project / PICTURES / "fullbody-01.png").rename(project / PICTURES / "fullbody-01.webp")
    del expected["convert_picture"]
    assert first_jobs(project) == {**expected, "lock_base": 1}


def test_only_what_may_have_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        file.write_bytes(file.name.encode())
        os.utime(file, (1e9, 1e9))
    monkeypatch.setattr("charloom.core.contents.SETTLED", -1.0)
    kept, store = tmp_path / "work/contents.json", Store(tmp_path / "store")
    first = Contents(store, kept)
    before = [first.of(file) for file in files]
    first.save()
    read: list[Path] = []
    monkeypatch.setattr("charloom.core.contents.file_digest", lambda path: read.append(Path(path)) or "changed")
    again = Contents(store, kept)
    assert [again.of(file) for file in files] == before and not read
    put(files[1], b"2.png", 0)  # as long as before, with the date of before
    assert again.of(files[1]) == "changed" and read == [files[1]]
    assert again.of(None) == again.of(tmp_path / "none") == ""
    # Two processes that save at the same time lose nothing.
    other = Contents(store, kept)
    os.utime(files[2])
    other.of(files[2])
    again.save()
    other.save()
    read.clear()
    assert [Contents(store, kept).of(file) for file in files] == [before[0], "changed", "changed"] and not read


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1, "b": [1]}', "\0", '{"0.png": [1, 2, 3, 4, 5]}'])
def test_a_damaged_record_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("0.png").write_bytes(b"x")
    right = Contents(Store("store"), Path("none")).of("0.png")
    Path("kept").write_text(content)
    assert Contents(Store("store"), Path("kept")).of("0.png") == right
    Path("a-file").touch()
    unwritable = Contents(Store("store"), Path("a-file/kept"))
    unwritable._new = {"0.png": [0, 0, 0, 0, right]}
    unwritable.save()


def test_weights_are_read_by_the_job_and_then_only_when_they_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("charloom.core.contents.LARGE", 4)
    weights, store, kept = Path("weights.bin"), Store("store"), Path("work/contents.json")

    def token() -> str:
        contents = Contents(store, kept)
        found = contents.of(weights)
        contents.save()
        return found

    weights.write_bytes(b"12345678")
    os.utime(weights, (1e9, 1e9))
    reads = monkeypatch.setattr("charloom.core.contents.file_digest", None)
    first = token()
    assert reads is None and token() == first  # nothing was read
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("charloom.core.contents.LARGE", 4)
    remembered(weights, store)  # the job
    assert token() == first
    os.utime(weights)
    assert token() == first and "which may have changed" in capsys.readouterr().err
    assert token() == first and not capsys.readouterr().err
    put(weights, b"87654321", -20)
    second = token()
    assert second != first and token() == second
    put(weights, b"123", 0)
    assert token() not in (first, second)


def test_no_argument_grows_with_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = small_project.make(tmp_path)
    (folder / "many").mkdir()
    for number in range(10_000):
        (folder / f"many/a picture with a name as it comes out of a camera {number}.jpg").touch()
    edit(folder / CHARACTER, datasets=[{"name": "many", "path": "many", "default_caption": "m4ra"}])
    workflow = config.load(".")
    mara, base = workflow.characters["mara"], workflow.bases["mini"]
    assert len(mara.image_names) == 10_003
    with_base = (slices.score, slices.report, delivery.final)
    own = (
        slices.prompt_sheet, slices.lint, slices.text_encoder, slices.swap, slices.manifest, slices.train, slices.grid,
        slices.choice, slices.engine, slices.other_texts, slices.other_samples,
    )  # fmt: skip
    texts = [slice_(mara) for slice_ in own] + [slice_(mara, base) for slice_ in with_base]
    assert max(map(len, texts)) > 400_000
    for text in texts:
        said = arguments.shortened(text, write=True)
        assert len(said) <= arguments.LONGEST and arguments.value(said) == json.loads(text)
    written = sorted(Path("work/settings").iterdir())
    assert [arguments.shortened(text, write=False) for text in texts] and sorted(
        Path("work/settings").iterdir()
    ) == written
    assert len(locks.local_files(base.path, base.adapters)) < 10


def test_rules_hand_over_no_list_of_files() -> None:
    text = "".join(path.read_text() for path in (small_project.ROOT / "rules").glob("*.smk"))
    lists = set(re.findall(r"^ +(\w+)=(?:files_of|shippable_checkpoints)", text, flags=re.MULTILINE))
    handed = set(re.findall(r"{input\.(\w+)", text))
    assert {"images", "captions", "scores", "checkpoints"} <= lists and handed
    assert not handed & lists and "{input:" not in text and "{input}" not in text


def test_one_process_makes_what_its_siblings_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_project.make(tmp_path)
    (folder / "pics").mkdir()
    (folder / "more").mkdir()
    small_project.picture(folder / "pics/closeup-01.png", (140, 130), 0)
    for number in range(12):
        small_project.picture(folder / f"more/{number}.jpg", (130, 140), number + 1)
        (folder / f"more/{number}.txt").write_text(f"m4ra in place {number}")
    shots = small_project.CHARACTER["shots"][:1]
    sets = [{"name": "more", "path": "more"}]
    edit(folder / CHARACTER, images={"source": "folder", "path": "pics", "count": 1}, shots=shots, datasets=sets)
    edit(folder / CHARACTER, crop={"right": 8, "bottom": 4, "minimum": 64})
    python = folder / "python"
    python.write_text(f'#!/bin/sh\necho "$1" >> starts\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("CHARLOOM_PYTHON", str(python))
    names = ["closeup-01", *(f"more/{number}" for number in range(12))]
    made = [f"results/mara/dataset/{name}{ending}" for name in names for ending in (".png", ".txt")]

    def starts() -> dict[str, int]:
        (folder / "starts").write_text("")
        done = snakemake(folder, "--cores", "1", *made, code=small_project.ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        scripts = [Path(line).stem for line in (folder / "starts").read_text().splitlines()]
        return {name: scripts.count(name) for name in sorted(set(scripts))}

    assert starts() == {"convert_picture": 2, "take_caption": 1, "write_caption": 1}  # the folder, and the set
    assert not (folder / "results/mara/source").exists()
    for name, size in {"closeup-01": (132, 126), "more/7": (130, 140)}.items():
        with Image.open(folder / f"results/mara/dataset/{name}.png") as image:
            assert image.size == size
    assert (folder / "results/mara/dataset/more/7.txt").read_text() == "m4ra in place 7\n"
    small_project.picture(folder / "more/7.jpg", (150, 140), 99)
    (folder / "more/8.txt").write_text("m4ra elsewhere")
    assert starts() == {"convert_picture": 1, "take_caption": 1}


def test_a_large_set_is_checked(tmp_path: Path) -> None:
    """For real: 600 pictures whose names alone are longer than any command may be on Windows."""
    folder = small_project.make(tmp_path)
    generator = np.random.default_rng(0)
    (folder / "many").mkdir()
    edit(
        folder / CHARACTER,
        crop={"right": 0, "bottom": 0},
        datasets=[{"name": "many", "path": "many", "default_caption": "m4ra"}],
    )
    data = folder / "results/mara/dataset"
    (data / "many").mkdir(parents=True)
    for shot in small_project.CHARACTER["shots"]:
        pixels = generator.integers(0, 255, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"{shot['name']}.png")
        (data / f"{shot['name']}.txt").write_text(f"a photo of m4ra, {shot['outfit']}\n")
    picture = data / f"{small_project.CHARACTER['shots'][0]['name']}.png"
    for number in range(600):
        name = f"a-picture-with-a-long-name-of-{number:06d}"
        (folder / f"many/{name}.png").touch()
        (data / f"many/{name}.png").write_bytes(picture.read_bytes())
        (data / f"many/{name}.txt").write_text("m4ra\n")
    done = snakemake(folder, "--cores", "1", "-p", "results/mara/lint.json", code=small_project.ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    findings = json.loads((folder / "results/mara/lint.json").read_text())["findings"]
    assert sum("the same image" in one["what"] for one in findings) == 600
    assert "--settings @work/settings/" in done.stdout + done.stderr
