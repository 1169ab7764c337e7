# ruff: noqa: F811 (fixtures that are imported)
"""The charloom command: new, lint, plan, verify."""

from __future__ import annotations

import re

import pytest
import yaml
from cli_helpers import ROOT, call, root, said  # noqa: F401 (root is a fixture)

from charloom.cli import changes, planning
from charloom.config import notices, project, scaffold

# new


def test_new_writes_a_file_that_passes_the_checks_and_is_never_overwritten(root):
    result = call("new", "mara")
    assert result.exit_code == 0 and "written" in said(result) and "to do" not in said(result)
    sheet, final = (said(result).index(command) for command in ("results/mara/prompts.html", "--cores 2 mara"))
    assert said(result).index("charloom lint mara") < sheet < final
    character = project.load(root).characters["mara"]
    assert (character.name, character.trigger, len(character.shots)) == ("Mara", "m4ra", 30)
    assert len(character.sample_prompts) == 10 and "m4ra" in character.sample_prompts[0].text
    path = root / "config" / "characters" / "mara.yaml"
    path.write_text("mine")
    again = call("new", "mara")
    assert again.exit_code == 1 and "exists already" in said(again) and path.read_text() == "mine"


def test_new_takes_a_trigger_and_refuses_names_that_make_no_path(root):
    assert call("new", "tess", "--trigger", "t3ss").exit_code == 0
    assert project.load(root).characters["tess"].trigger == "t3ss"
    result = call("new", "Tess Two")
    assert result.exit_code == 1 and "for example tess-two" in said(result) and said(result).count("\n") == 1


@pytest.mark.parametrize("name", ["mara", "jo", "x", "k9", "bartholomew", "rhythm"])
def test_triggers_are_short_and_hold_a_digit(name):
    trigger = scaffold.trigger_for(name)
    assert 4 <= len(trigger) <= 6 and any(c.isdigit() for c in trigger) and trigger.isalnum()


def test_outside_the_workflow_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["new", "x"], ["lint", "x"], ["plan"], ["import-ai-toolkit", "x.yaml"]):
        result = call(*command)
        assert result.exit_code == 1 and "change to the folder of the workflow" in said(result)


# lint


def test_lint_of_a_good_file_and_of_a_wrong_name(root):
    result = call("lint", "leyla")
    assert result.exit_code == 0 and "30 shots" in said(result)
    assert "snakemake --cores 2 results/leyla/lint.json" in said(result)
    assert said(call("lint", "config/characters/leyla.yaml")) == said(result)
    for name in ("leila", "config/characters/leila.yaml"):
        result = call("lint", name)
        assert result.exit_code == 1 and "did you mean leyla?" in said(result)


def test_lint_reports_every_mistake_in_a_file(root):
    path = root / "config" / "characters" / "nika.yaml"
    path.write_text(path.read_text().replace("trigger: n1ka", "trigger: n1ka\nrecipee: {}"))
    result = call("lint", "nika")
    assert result.exit_code == 1 and "nika.yaml: recipee: unknown key; did you mean recipe?" in said(result)


def test_lint_asks_for_the_images_of_one_character_alone(root):
    for name in ("nika", "orla"):
        path = root / "config" / "characters" / f"{name}.yaml"
        images = {"source": "folder", "path": name}
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "images": images}))
    assert call("lint", "leyla").exit_code == 0
    result = call("lint", "nika")
    assert result.exit_code == 1
    assert said(result).startswith("warning: base paperdoll is a miniature") and said(result).count("\n") == 2
    assert said(result).endswith(
        "error: config/characters/nika.yaml: images.path: there is no folder nika; make it and put 30 images in it\n"
    )
    (root / "nika").mkdir()
    for shot in project.load(root).characters["nika"].shot_names:
        (root / "nika" / f"{shot}.PNG").touch()
    (root / "nika" / "notes.txt").touch()
    text = said(call("lint", "nika"))
    assert "30 shots" in text and "warning: nika/notes.txt: no picture has this name" in text
    assert text.count(".PNG: is empty; replace it") == 30


# plan

DRY = """
Job stats:
job    count

[now]
Job 97: leyla: caption fullbody-10
Reason: Params have changed since last execution: before, now
run write_caption --settings '{"caption": "Job 1: x --log logs/x"}' --output a 2> results/leyla/logs/write_caption/a.log
[now]
Job 3: leyla: embedding of fullbody-10
Reason: Input files updated by another job: results/leyla/dataset/fullbody-10.txt
run encode_text x --log results/leyla/logs/encode_caption/fullbody-10.log
[now]
Job 4: leyla: embedding of fullbody-09
Reason: Updated input files: config/captions/leyla/fullbody-09.txt; Input files updated by another job: a
run encode_text x --log results/leyla/logs/encode_caption/fullbody-09.log
[now]
Job 5: base paperdoll
Reason: Missing output files: work/bases/paperdoll.lock.json
Shell command: run lock_base x
[now]
Job 7: mara: picture img-1
Reason: Missing output files: results/mara/dataset/img-1.png
Shell command: stored 'my store/a.png' a.png || run convert_picture --output a.png 2> logs/convert_picture/img-1.log
[now]
Job 6: leyla: step 50
Reason: Forced execution
"""


def test_plan_groups_jobs_and_keeps_the_first_causes():
    found = {(group.who, group.rule): group for group in planning.groups(DRY)}
    assert found["leyla", "write_caption"].causes == {"its settings changed": 1}
    assert found["leyla", "encode_caption"].causes == {"follows from that": 1, "its input changed": 1}
    assert found["leyla", "encode_caption"].files == ["config/captions/leyla/fullbody-09.txt"]
    assert found["", "lock_base"].jobs == 1
    assert found["mara", "convert_picture"].jobs == 1  # by its rule, for which there is a price
    lines = planning.summary(list(found.values()))
    assert found["leyla", "step"].causes == {"forced": 1}
    assert lines[0].startswith("6 jobs to do") and lines[1] == "shared:"
    assert planning.summary([]) == ["Nothing to do: everything is up to date."]


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ("""'"a photo of m4ra"'""", """'"a photo of mx4ra"'""", ["its text changed"]),
        ("""'66397b98','{"trigger":"m4ra"}'""", """'0dab7320','{"trigger":"m4ra"}'""", ["its file changed"]),
        # What holds without a file goes with it.
        ("""'','{"default":"m4ra"}'""", """'66397b98','{"trigger":"m4ra"}'""", ["its file is new"]),
        ("""'66397b98','{"trigger":"m4ra"}'""", """'','{"default":"m4ra"}'""", ["its file is gone"]),
        ("""'','{"n":1,"seed":2}'""", """'66397b98','{"n":1,"seed":3}'""", ["its file is new", "seed 2 → 3"]),
    ],
)
def test_causes_are_told_apart(before: str, now: str, found: list[str]):
    assert changes.causes(f"Params have changed since last execution: before: {before} now: {now} ") == found


def test_plan_asks_snakemake(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # also where charloom is not installed
    for name in ("Snakefile", "rules", "scripts", "profiles", "envs"):
        (root / name).symlink_to(ROOT / name)
    text = said(call("plan", "nika"))
    assert "draw gallery" in text  # as `snakemake -n nika` lists it
    assert "train segment" in text and "not made yet" in text and "leyla:" not in text
    assert {"make reference", "encode caption", "encode text"} <= set(re.findall(r"^  (\w+ \w+) ", text, re.MULTILINE))
    wrong = call("plan", "results/nobody/final.safetensors")
    assert wrong.exit_code == 1
    assert said(wrong).startswith("error: nothing makes results/nobody/final.safetensors; name a character (")
    assert said(call("plan", "nikka")) == "error: nothing makes nikka; did you mean nika?\n"
    text = said(call("plan", "config/characters/nika.yaml"))
    assert "train segment" in text and "leyla:" not in text
    with_profile = call("plan", "nika", "--profile", "profiles/gpu-16gb")
    assert "train segment" in said(with_profile)
    if not notices.has_gpu():
        assert "wants a GPU, and none was found" in said(with_profile)
    both = said(call("plan", "nika", "leyla", "--profile", "profiles/gpu-16gb"))
    assert re.findall(r"^(\w+), time", both, re.MULTILINE) == ["nika", "leyla"]
    assert re.search("^time", said(with_profile), re.MULTILINE)
    unknown = call("plan", "results/nika/dataset/nobody.txt")
    assert said(unknown).startswith("error: nothing makes results/nika/dataset/nobody.txt; did you mean results/nika")
    assert said(unknown).count("\n") == 1 and unknown.exit_code == 1
    profile = call("plan", "nika", "--profile", "profiles/gpu-16g")
    assert said(profile).endswith("there is no such folder; did you mean profiles/gpu-16gb?\n")
    quiet = call("plan", "nika", "--quiet")
    assert said(quiet).startswith("error: plan: snakemake listed no jobs") and quiet.exit_code == 1


def test_plan_hands_options_on(root, monkeypatch):
    """A profile or --config may name another base, whose plan is another one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("Snakefile", "rules", "scripts", "profiles", "envs"):
        (root / name).symlink_to(ROOT / name)
    wrong = call("plan", "nika", "--config", "base=paperdol")
    assert said(wrong).startswith("error: config/config.yaml: base: there is no config/bases/paperdol.yaml; did you")
    wrong = call("plan", "nika", "--frobnicate")
    assert said(wrong).count("\n") == 1 and "unrecognized arguments: --frobnicate" in said(wrong)


# verify


def test_verify_says_what_is_wrong_with_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("verify", "absent.safetensors")
    assert result.exit_code == 1 and "there is no such file" in said(result)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    result = call("verify", "broken.safetensors")
    assert result.exit_code == 1 and "FAILED" in said(result)
