"""Captions by a captioner: described once, proposed as changes, accepted by hand or without asking."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import judge_models
import pytest
import small_project
from captioned import say
from small_project import edit, picture
from typer.testing import CliRunner

from charloom.cli.main import app
from charloom.config.project import load
from charloom.core.layout import Results
from charloom.dataset import caption_files
from charloom.workflow import caption_slices, describing, lint_files, slices

MARA = Path("config/characters/mara.yaml")
MADE = Results("results/mara")
SAID = {
    "closeup-01": "A close-up portrait of a young woman with curly black hair and full lips, wearing a red scarf, a "
    "watch.",
    "medium-01": "The image shows a woman laughing in a kitchen, a silver watch on her wrist.",
    "fullbody-01": "A woman seen from behind walks along a beach, her green eyes hidden, wearing a silver watch.",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mara with pictures of her own, and a tiny random model that describes them."""
    monkeypatch.chdir(small_project.make(tmp_path))
    Path("pics").mkdir()
    for seed, name in enumerate(SAID):
        picture(Path(f"pics/{name}.png"), (140, 130), seed)
    edit(MARA, images={"source": "folder", "path": "pics", "count": 3}, captions={"captioner": "owner/model"})
    return tmp_path


def charloom(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_proposals_are_shown_and_wait(project: Path) -> None:
    assert "3 pictures are not described yet: snakemake --cores 2 results/mara/captions.json" in charloom(
        "captions", "mara"
    )
    say(SAID)
    lines = charloom("captions", "mara").splitlines()
    at = lines.index("closeup-01")
    assert lines[at + 1].startswith("  [-a-] {+m4ra,+} close-up [-portrait photo of m4ra, a woman")
    assert lines[at + 1].rstrip().endswith("{+red scarf, a watch+}")
    assert lines[at + 2] == "  left out: full lips, curly black hair"
    assert lines[-1].startswith("3 wait: charloom captions mara --accept all")
    # Until somebody accepts one, the composed captions stand.
    character = load().characters["mara"]
    for name in SAID:
        assert lint_files.caption(character, name, project).startswith("a ")
        assert json.loads(slices.caption(character, name)).keys() == {"caption"}
    assert "note: captions: 3 texts of the captioner wait" in charloom("lint", "mara")


def test_what_is_taken_without_asking_is_what_the_check_judges(project: Path) -> None:
    say({**SAID, "medium-01": "A man and his dog in a garden, he smiles at the camera."})
    edit(MARA, captions={"captioner": "owner/model", "accept": "auto"})
    pictures = {one["name"]: one["caption"] for one in json.loads(charloom("lint", "mara", "--json"))["pictures"]}
    assert pictures["closeup-01"] == "m4ra, close-up portrait, wearing a red scarf, a watch"
    assert pictures["medium-01"].startswith("a medium shot photo of m4ra")  # what is refused is not taken
    Path("config/captions/mara").mkdir(parents=True)
    Path("config/captions/mara/closeup-01.txt").write_text("m4ra, by hand")
    pictures = {one["name"]: one["caption"] for one in json.loads(charloom("lint", "mara", "--json"))["pictures"]}
    assert pictures["closeup-01"] == "m4ra, by hand"


def test_the_noun_of_the_character_is_nothing_that_pictures_show(project: Path) -> None:
    for noun, found in {"gecko": set(), "lizard": {"gecko"}}.items():
        edit(MARA, noun=noun)  # the captioner is asked for it, so it is asked anew
        say({name: f"A gecko with a hat, place {number}." for number, name in enumerate(SAID)})
        unsaid = json.loads(charloom("captions", "mara", "--json"))["statistics"]["unsaid"]
        assert {term["term"] for term in unsaid} & {"gecko", "lizard"} == found and unsaid
        assert ("3 of 3 pictures show gecko" in charloom("lint", "mara")) == bool(found)


def test_accepting_writes_the_users_own_caption_and_keeps_history(project: Path) -> None:
    say(SAID)
    assert charloom("captions", "mara", "--accept", "closeup-01", "medium-01").splitlines() == [
        "config/captions/mara/closeup-01.txt: written",
        "config/captions/mara/medium-01.txt: written",
    ]
    assert Path("config/captions/mara/medium-01.txt").read_text() == (
        "m4ra laughing in a kitchen, a silver watch on her wrist\n"
    )
    character = load().characters["mara"]
    assert caption_slices.described(character) == ["fullbody-01"]
    assert [entry["picture"] for entry in caption_files.history(character)] == ["closeup-01", "medium-01"]
    # The eyes are not on a back view, so the clean-up has taken them out.
    assert charloom("captions", "mara", "--keep", "all").startswith("config/captions/mara/fullbody-01.txt")
    assert "seen from behind, standing with arms" in Path("config/captions/mara/fullbody-01.txt").read_text()
    assert caption_slices.described(load().characters["mara"]) == []
    assert "error: closeup-01: there is no proposal; describe pictures first" in charloom(
        "captions", "mara", "--accept", "closeup-01", code=1
    )


def test_all_takes_what_passes_the_check(project: Path) -> None:
    say({**SAID, "medium-01": "A man and his dog in a garden, he smiles at the camera."})
    lines = charloom("captions", "mara", "--accept", "all").splitlines()
    assert len([line for line in lines if line.endswith("written")]) == 2
    assert lines[-1] == "left: medium-01: says his, he of a woman"
    assert not Path("config/captions/mara/medium-01.txt").exists()
    # By name it is taken all the same: the user has seen it.
    charloom("captions", "mara", "--accept", "medium-01")
    assert Path("config/captions/mara/medium-01.txt").is_file()


def test_what_pictures_show_and_no_caption_says(project: Path) -> None:
    assert "described pictures" not in charloom("captions", "mara", "--tags")
    say(SAID)
    record = json.loads(charloom("captions", "mara", "--json"))
    unsaid = {term["term"]: term["pictures"] for term in record["statistics"]["unsaid"]}
    assert unsaid == {"watch": list(SAID)}
    assert "watch: closeup-01, medium-01, fullbody-01" in charloom("captions", "mara", "--tags")
    assert "warning: captions: 3 of 3 pictures show watch, and no caption says so" in charloom("lint", "mara")
    Path("config/captions/mara").mkdir(parents=True)
    Path("config/captions/mara/medium-01.txt").write_text("m4ra laughing in a kitchen, a silver watch")
    assert "no caption says so" not in charloom("lint", "mara")


def test_nobody_who_names_no_captioner_pays_for_one(project: Path) -> None:
    before = {name: slices.caption(load().characters["mara"], name) for name in SAID}
    edit(MARA, captions={})
    character = load().characters["mara"]
    assert {name: slices.caption(character, name) for name in SAID} == before
    assert caption_slices.described(character) == [] and caption_slices.taken(character) == []
    assert "names no captioner" in charloom("captions", "mara")


def test_an_edit_is_never_lost(project: Path) -> None:
    character = load().characters["mara"]
    path = caption_files.save(character, "medium-01", "m4ra  in a\nkitchen", by="you")
    assert path.read_text() == "m4ra in a kitchen\n"
    read = caption_files.version(path)
    path.write_text("m4ra in a garden")
    with pytest.raises(caption_files.Changed) as error:
        caption_files.save(character, "medium-01", "m4ra in a car", by="you", expected=read)
    assert error.value.text == "m4ra in a garden" == path.read_text()
    caption_files.save(character, "medium-01", "m4ra in a car", by="you", expected=caption_files.version(path))
    assert [(e["before"], e["after"]) for e in caption_files.history(character, "medium-01")] == [
        (None, "m4ra in a kitchen"),
        ("m4ra in a garden", "m4ra in a car"),
    ]


def test_a_run_describes_each_picture_once_and_takes_what_passes(project: Path) -> None:
    """The tiny model says nonsense, so that what it says is refused; what is stored in its place is taken."""
    model = judge_models.vision_language(project / "captioner")
    edit(MARA, captions={"captioner": {"model": "captioner", "longest": 16}, "accept": "auto"}, crop={"minimum": 64})
    targets = [f"results/mara/dataset/{name}.txt" for name in SAID]
    done = small_project.snakemake(project, "--cores", "1", *targets, code=small_project.ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    raw = {name: describing.text_of(MADE.raw_caption(name)) for name in SAID}
    entries = list(Path("work/store/raw-caption").glob("*/*.json"))
    assert len(entries) == 3 and all(raw.values())
    logs = [Path(MADE.log("caption_image", name)).read_text() for name in SAID]
    assert sum("describing 3 pictures" in log for log in logs) == 1, "one process describes them all"
    character = load().characters["mara"]
    for name in SAID:
        written = Path(f"results/mara/dataset/{name}.txt").read_text().strip()
        assert "m4ra" in written
        assert json.loads(slices.caption(character, name))["captioner"]["trigger"] == "m4ra"
    # Another picture, and only that one is asked about.
    times = {path: path.stat().st_mtime_ns for path in entries}
    picture(Path("pics/medium-01.png"), (140, 130), 9)
    done = small_project.snakemake(project, "--cores", "1", "results/mara/captions.json", code=small_project.ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list(Path("work/store/raw-caption").glob("*/*.json"))) == 4
    assert {path: path.stat().st_mtime_ns for path in entries} == times
    assert set(json.loads(MADE.proposals.read_text())["raw"]) == set(SAID)
    # Other weights behind the same path describe everything anew.
    (model / "generation_config.json").write_text('{"max_length": 99}')
    dry = small_project.snakemake(project, "-n", "results/mara/captions.json", code=small_project.ROOT)
    assert {line.split()[1] for line in dry.stdout.splitlines() if line.startswith("caption_image ")} == {"3"}


def test_the_caption_of_a_run_is_the_captioners_if_it_passes(project: Path) -> None:
    settings: dict[str, Any] = {"caption": "composed m4ra"}
    edit(MARA, captions={"captioner": "owner/model", "accept": "auto"})
    character = load().characters["mara"]
    said = {"A woman laughing in a kitchen": "m4ra laughing in a kitchen", "He waves to his dog": "composed m4ra"}
    for raw, expected in said.items():
        MADE.raw_caption("medium-01").parent.mkdir(parents=True, exist_ok=True)
        MADE.raw_caption("medium-01").write_text(json.dumps({"text": raw}))
        settings |= caption_slices.automatic(character, "medium-01")
        arguments = ["--settings", json.dumps(settings), "--output", "results/mara/dataset/medium-01.txt"]
        done = small_project.run_script("write_caption", *arguments, cwd=project)
        assert done.returncode == 0, done.stderr
        assert MADE.caption("medium-01").read_text() == f"{expected}\n"
    assert "the captioner's text is not taken" in done.stderr


def test_a_wrong_captioner_is_one_line(project: Path) -> None:
    for captioner, said in {
        "no/such/folder": "captions.captioner: there is no folder no/such/folder; correct it, or write owner/name",
        "pics": "pics: holds no model (config.json and *.safetensors); correct captions.captioner",
    }.items():
        edit(MARA, captions={"captioner": captioner})
        assert f"error: {said}" in charloom("captions", "mara", code=1)
    key = "sk-0123456789abcdef"
    for own, said in {
        ("ftp://x", "KEY"): "base_url: is not an address; write one that begins with https://",
        (f"https://me:{key}@host/v1", "KEY"): "base_url: holds a password or a key; remove it",
        (f"https://host/v1?api_key={key}", "KEY"): "base_url: holds a password or a key; remove it",
        ("http://example.org/v1", "KEY"): "base_url: would send the key unencrypted; use https://",
        ("https://host/v1", key): "key: must be the name of an environment variable in capitals, never the key itself",
    }.items():
        edit(MARA, captions={"captioner": {"model": "x", "base_url": own[0], "key": own[1]}})
        text = charloom("captions", "mara", code=1)
        assert f"captions.captioner.{said}" in text and key not in text
    assert os.environ.get("OPENAI_API_KEY") is None


def test_a_bundle_takes_the_captions_along_and_not_the_captioner(project: Path) -> None:
    from charloom.workflow import delivery

    words = {"captioner": "owner/model", "accept": "auto", "keep_words": ["lips"]}
    edit(MARA, captions=words, images={"source": "folder", "path": "pics", "count": 3, "masks": "auto"})
    workflow = load()
    about = json.loads(delivery.bundle(workflow.characters["mara"], workflow.bases["mini"]))
    assert about["captions"] == list(SAID)
    packed = about["character"]
    assert "keep_words" in packed and "owner/model" not in packed and "accept" not in packed
    assert "masks: resources/masks/mara" in packed and about["masks"] == list(SAID)


def test_the_price_of_what_is_left_is_said(project: Path) -> None:
    edit(MARA, captions={"captioner": {"model": "x", "base_url": "http://127.0.0.1:9/v1", "price": 0.02}})
    assert "3 pictures are not described yet (about 0.06 at your price)" in charloom("captions", "mara")
