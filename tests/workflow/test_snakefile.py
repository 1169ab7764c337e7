"""The workflow as a whole: interpreters, profiles, linters, targets, and mistakes reported before any job starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_project
import yaml
from rerun_counts import AFTER_DATA
from small_project import TARGET, edit, planned, replace, snakemake

from charloom.cli import planning

CHARACTER = "config/characters/mara.yaml"
CONFIG = "config/config.yaml"


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project to edit."""
    return Path(shutil.copytree(finished, tmp_path / "project"))


def test_everything_from_nothing(tmp_path: Path) -> None:
    folder = small_project.make(tmp_path)
    result = snakemake(folder, "-n", code=small_project.ROOT)
    assert result.returncode == 0, result.stderr
    jobs = Counter(re.findall(r"^(\w+) +\d+$", result.stdout + result.stderr, flags=re.MULTILINE))
    assert {"make_source_image", "train_segment", "export_final", "write_report"} <= set(jobs)


def test_another_interpreter_changes_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_PYTHON", "/another/python")
    assert planned(project) == {}


@pytest.mark.parametrize("run_ahead", [0, 1])
def test_previews_come_before_the_next_start_of_the_trainer(
    project: Path, monkeypatch: pytest.MonkeyPatch, run_ahead: int
) -> None:
    """Unless one start makes every checkpoint: then one process draws for all of them."""
    edit(project / "config/bases/mini.yaml", run_ahead=run_ahead)
    monkeypatch.setenv("CHARLOOM_PYTHON", str(small_project.pretender(project)))
    made = snakemake(project, "--cores", "2", "--forcerun", "train_segment", "--", TARGET)
    assert made.returncode == 0, made.stderr
    text = made.stdout + made.stderr
    first, drawn, judged, second = (
        text.index(f"mara: {what}")
        for what in ("train to step 000050", "step 000050 draws", "scores of step 000050", "train to step 000100")
    )
    assert first < second < drawn < judged if run_ahead == 0 else first < drawn < judged < second


def test_a_training_that_is_tried_again_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this Snakemake itself, as without a cluster; and it stays made."""
    monkeypatch.setenv("CHARLOOM_PYTHON", str(small_project.pretender(project)))
    fails_once = 'import sys\nif "--attempt 1" in " ".join(sys.argv):\n    sys.exit("no memory")\n'
    replace(project, "pretender", "import sys\n", fails_once)
    checkpoint = "results/mara/checkpoints/step-000050.safetensors"
    made = snakemake(project, "--cores", "2", "--retries", "1", "--forcerun", "train_segment", "--", checkpoint)
    assert made.returncode == 0 and made.stderr.count("no memory") == 1, made.stderr
    again = snakemake(project, "-n", checkpoint)
    assert "Nothing to be done" in again.stdout + again.stderr


CONDA = """#!/bin/sh
# Stands in for conda: an environment is a folder with a python that tells where it looks for modules.
for last; do :; done
case "$*" in
    --version) echo conda 99.9.9 ;;
    info*) echo '{{"conda_prefix": "{folder}", "platform": "linux-64"}}' ;;
    config*) echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    env*) mkdir -p "$last/bin" && cp "{folder}/bin/python" "$last/bin" ;;
esac
"""


def test_conda_jobs_run_in_their_environment(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "conda/bin"
    programs.mkdir(parents=True)
    (programs / "conda").write_text(CONDA.format(folder=programs.parent))
    (programs / "activate").write_text('PATH="$1/bin:$PATH"\n')
    (programs / "python").write_text(
        f'#!/bin/sh\necho "$PYTHONPATH" > {tmp_path}/used\nexec {project}/pretender "$@"\n'
    )
    for name in ("conda", "python"):
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.delenv("CHARLOOM_PYTHON", raising=False)
    (project / "results/mara/prompts.html").unlink()
    made = snakemake(project, "--sdm", "conda", "--cores", "1", "results/mara/prompts.html")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "used").read_text() == f"{project}\n"


def test_the_conda_environment_holds_what_jobs_need() -> None:
    listed = yaml.safe_load((small_project.ROOT / "envs/charloom.yaml").read_text())["dependencies"][-1]["pip"]
    project = tomllib.loads((small_project.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["cuda"], *extras["optimizers"]]
    needed += dict.fromkeys([*extras["gemini"], *extras["openai"]])
    assert listed == [name for name in needed if not name.startswith(("snakemake", "typer", "rich"))]


def rules_with(words: str) -> set[str]:
    """Names of the rules whose text holds ``words``."""
    texts = [path.read_text() for path in (small_project.ROOT / "rules").glob("*.smk")]
    body = r"^(?:rule|use rule \w+ as) (\w+)(?: with)?:\n((?:.*\n)*?)(?=^\S|\Z)"
    found = [re.findall(body, text, flags=re.MULTILINE) for text in texts]
    return {name for rules in found for name, body in rules if words in body}


def test_the_cluster_profile_knows_every_rule() -> None:
    """Submitted are the rules that take a GPU or many cores; the others run where snakemake runs."""
    profile = yaml.safe_load((small_project.ROOT / "profiles/slurm/config.yaml").read_text())
    snakefile = (small_project.ROOT / "Snakefile").read_text()
    local = set(re.findall(r"\w+", re.search(r"^localrules:\n((?: .*\n)+)", snakefile, flags=re.MULTILINE)[1]))
    gpu, many_cores = rules_with("gpu=1") | rules_with("gpu=drawing_gpus"), rules_with("threads: HEAVY_THREADS")
    assert len(gpu) == 11
    # Preparing the base takes no share of a GPU here, but needs one there.
    assert rules_with("gpu=training_gpus") == {"train_segment"}
    on_gpu = {name for name, asked in profile["set-resources"].items() if asked.get("gpu")}
    assert gpu | {"prepare_base"} == on_gpu
    assert (
        many_cores | rules_with("threads: drawing_threads")
        == set(profile["set-threads"])
        >= set(profile["set-resources"])
    )
    text = "".join(path.read_text() for path in (small_project.ROOT / "rules").glob("*.smk"))
    used_as = {name: used for used, name in re.findall(r"^use rule (\w+) as (\w+) with:", text, flags=re.MULTILINE)}
    alike = {name: used for name, used in used_as.items() if name not in rules_with("threads:")}
    assert alike and set(alike) <= local and set(alike.values()) <= local  # they run as what they use
    assert rules_with("shell:") | set(used_as) == local | set(profile["set-threads"])


def test_one_gpu_here_is_no_limit_on_a_cluster(project: Path) -> None:
    """The limit of the default profile, which Snakemake adds to every other one, counts for each host."""
    with open(project / "Snakefile", "a") as file:
        file.write('\nprint("local:", workflow.resource_scopes.get("gpu") == "local", file=sys.stderr)\n')
    assert "local: True" in snakemake(project, "-n", TARGET).stderr


def test_settings_on_the_command_line_win(project: Path) -> None:
    assert planned(project, "--config", "recipe={network: {rank: 8}}") == AFTER_DATA


def test_mistakes_are_lines_and_nothing_starts(project: Path) -> None:
    before = {path: path.read_bytes() for path in (project / "results").rglob("*") if path.is_file()}
    replace(project, CONFIG, "recipe:\n", "recipe:\n  network:\n    rnak: 8\n")
    replace(project, CHARACTER, "a beige pantsuit", "a beige cape")
    result = snakemake(project, "--cores", "1", TARGET)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert lines == ["error: config/config.yaml: recipe.network.rnak: unknown key; did you mean rank?"]
    replace(project, CONFIG, "rnak: 8", "rank: 8")
    result = snakemake(project, "--cores", "1", TARGET)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: config/characters/mara.yaml: shots.fullbody-01.outfit: ")
    assert before == {path: path.read_bytes() for path in (project / "results").rglob("*") if path.is_file()}


def test_images_count_once_they_are_needed(tmp_path: Path) -> None:
    """The prompt sheet comes before the images, in any words; who has none yet stops nobody else."""
    folder = small_project.make(tmp_path)
    mira = {**small_project.CHARACTER, "trigger": "m1ra", "images": {"source": "folder", "path": "pics", "count": 3}}
    small_project.write_yaml(folder / "config/characters/mira.yaml", mira)
    small_project.write_yaml(folder / "config/characters/mora.yaml", {**small_project.CHARACTER, "trigger": "m0ra"})
    replace(folder, "config/characters/mora.yaml", "a beige pantsuit", "a wetsuit with orange fins")
    sheets = [f"results/{name}/prompts.html" for name in ("mira", "mora")]
    result = snakemake(folder, "-n", TARGET, *sheets, code=small_project.ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    for name, mistake in (("mira", "images.path: there is no folder pics"), ("mora", "shots.fullbody-01.outfit: the")):
        target = f"results/{name}/final.safetensors"
        result = snakemake(folder, "--cores", "1", TARGET, target, code=small_project.ROOT)
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("error: ")]
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert len(lines) == 1 and lines[0].startswith(f"error: config/characters/{name}.yaml: {mistake}")
    assert not (folder / "results").exists()


def said(result: subprocess.CompletedProcess[str], sign: str) -> list[str]:
    """The lines that begin so."""
    assert "Traceback" not in result.stderr + result.stdout
    return [line for line in (result.stderr + result.stdout).splitlines() if line.startswith(sign)]


def test_without_a_target_everybody_is_made_who_can_be(project: Path) -> None:
    """One line for each of the others, and no error; whoever is named has to be right."""
    images = {"source": "folder", "path": "pics", "count": 3}
    for name, changes in (("mira", {"images": images}), ("mora", {"checkpoint": 7})):
        person = {**small_project.CHARACTER, "trigger": f"{name}1", **changes}
        small_project.write_yaml(project / f"config/characters/{name}.yaml", person)
    (project / "config/characters/mura.yaml").write_text("name: [\n")
    (project / "config/characters/zo{e} $1.yaml").write_text("name: Zoe\n")
    (project / "config/characters/._mara.yaml").write_bytes(b"\xff")
    result = snakemake(project, "-n")
    assert result.returncode == 0 and not said(result, "error: ")
    starts = {
        "mira": "images.path: there is no folder pics",
        "mora": "checkpoint: step 7 is not saved",
        "mura": "line 1: a [ or { is opened and never closed",
        "zo{e} $1": "rename it",
    }
    lines = said(result, "left out: ")
    assert len(lines) == 4
    for line, (name, start) in zip(lines, starts.items(), strict=True):
        assert line.startswith(f"left out: {name}: config/characters/{name}.yaml: {start}")
    assert not re.search(r"^Job \d+: m[iou]ra", result.stdout + result.stderr, flags=re.MULTILINE)
    assert not said(snakemake(project, "-n", "mara"), "left out: ")
    for target in ("mora", "results/mura/prompts.html"):
        result = snakemake(project, "-n", target)
        assert result.returncode == 1
        (line,) = said(result, "error: ")
        name = "mora" if target == "mora" else "mura"
        assert line.startswith(f"error: config/characters/{name}.yaml: {starts[name]}")
    (project / "config/characters/mara.yaml").unlink()
    result = snakemake(project, "-n")
    assert result.returncode == 1 and len(said(result, "error: ")) == 4


NEAREST = {
    "marra": "mara",
    "mara.yaml": "mara",
    "results/marra/final.safetensors": TARGET,
    "results/mara/final.safetensor": TARGET,
    "results/mara/final": TARGET,
    "result/mara/report.html": "results/mara/report.html",
    "./results/mara/reports.html": "results/mara/report.html",
    "results/mara/dataset/closeup-1.txt": "results/mara/dataset/closeup-01.txt",
    "results/mara/checkpoints/step-000170.safetensors": "results/mara/checkpoints/step-000100.safetensors",
    "results/mara/samples/step-000100/03.png": "results/mara/samples/step-000100/02.png",
}


def test_names_of_characters_are_targets_and_wrong_ones_get_the_nearest(project: Path) -> None:
    assert planned(project, "mara", "--cores", "2", "--config", "device=cpu") == {}
    result = snakemake(project, "-n", *NEAREST)
    assert result.returncode == 1
    lines = [f"error: nothing makes {wrong}; did you mean {right}?" for wrong, right in NEAREST.items()]
    assert said(result, "error: ") == lines
    result = snakemake(project, "--profile", "profiles/default", "--cores", "1", "-n", "work/nothing")
    assert said(result, "error: ") == [
        "error: nothing makes work/nothing; name a character (mara) or a file made for one"
    ]


def test_what_to_know_beforehand_is_said_once_of_whoever_is_made(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mira = {**small_project.CHARACTER, "trigger": "m1ra"}
    small_project.write_yaml(project / "config/characters/mira.yaml", mira)
    (project / "charloom/config/notices.py").write_text(
        "def notices(character, base, *more):\n    return [f'{character.name} on {base.name} is a trial']\n"
        "def has_gpu(*_, **__):\n    return False\n"
        "def of_base(character, base):\n    return []\n"
    )
    for arguments in (("-n",), ("--cores", "1")):
        result = snakemake(project, *arguments, TARGET)
        assert result.returncode == 0
        assert said(result, "note: ") == ["note: mara: Mara on mini is a trial"]
    monkeypatch.setenv("PYTHONPATH", str(project))
    output = planning.dry_run(["mara", "mira"], project)
    assert planning.remarks(output) == [f"note: {name}: Mara on mini is a trial" for name in ("mara", "mira")]


def test_a_plan_names_the_knob_and_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(command: list[str], cwd: Path, **_: bool) -> subprocess.CompletedProcess[str]:
        return snakemake(cwd, *command[3:])

    monkeypatch.setattr(planning, "subprocess", SimpleNamespace(run=start))

    def why() -> dict[str, str]:
        output = planning.dry_run([TARGET], project)
        return {group.rule: ", ".join([*group.causes, *group.files]) for group in planning.groups(output)}

    assert planning.nothing_to_do(planning.dry_run([TARGET], project))
    replace(project, CHARACTER, "scale: 0.8", "scale: 0.7")
    assert not planning.nothing_to_do(planning.dry_run([TARGET], project))
    assert why()["sample_checkpoint"] == "scale 0.8 → 0.7"
    replace(project, CONFIG, "recipe:\n", "recipe:\n  network:\n    rank: 8\n")
    assert why()["train_segment"].startswith("network.rank 32 → 8")
    replace(project, CHARACTER, "a black hoodie", "a gray hoodie")
    (project / "resources/bases/mini/vae/config.json").write_text("{ }")
    found = why()
    assert found["write_caption"] == "caption changed"  # both are too long for a line
    assert found["make_source_image"] == "scene.color black → gray"
    assert found["lock_base"] == "its file changed"
    (project / "config/captions/mara").mkdir(parents=True)
    (project / "config/captions/mara/fullbody-01.txt").write_text("m4ra")
    assert "its file is new" in why()["write_caption"]


def test_the_snakefile_imports_nothing_heavy(tmp_path: Path) -> None:
    folder = small_project.make(tmp_path)
    common = (small_project.ROOT / "rules/common.smk").read_text()
    imports = re.findall(r"^(?:from charloom|import )\S*.*$", common, flags=re.MULTILINE)
    assert sum("charloom" in line for line in imports) > 5
    code = (
        "; ".join([*imports, "import sys", "read('.')"])
        + ";print(sorted({'torch', 'pandas', 'numpy', 'PIL', 'diffusers', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(small_project.ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_the_workflow_passes_the_linters() -> None:
    root = small_project.ROOT
    files = ["Snakefile", *sorted(map(str, [*root.glob("rules/*.smk"), root / "rules/experiments/Snakefile"]))]
    formatted = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", *files], cwd=root, capture_output=True, text=True
    )
    assert formatted.returncode == 0, formatted.stderr


def test_snakemake_lint(project: Path) -> None:
    result = snakemake(project, "--lint")
    assert result.returncode == 0, result.stdout + result.stderr


def test_scenes_are_drawn_for_who_has_some(tmp_path: Path) -> None:
    """By the gallery's page or the character's name; nothing else asks for them, and without the key nothing at all."""
    folder = small_project.make(tmp_path)

    def jobs(*targets: str) -> dict[str, int]:
        told = small_project.snakemake(folder, "-n", *targets, code=small_project.ROOT)
        assert told.returncode == 0, told.stderr
        table = (told.stdout + told.stderr).split("Job stats:")[1].split("total")[0]
        return {name: int(number) for name, number in re.findall(r"^(\w+_gallery) +(\d+)$", table, re.MULTILINE)}

    page = "results/mara/gallery/index.html"
    refused = small_project.snakemake(folder, "-n", page, code=small_project.ROOT)
    assert refused.returncode == 1 and "config/characters/mara.yaml: gallery: is missing" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert jobs("mara", "results/mara/bundle.zip") == {}
    (folder / "ink.safetensors").touch()
    inked = {"prompt": "{trigger} at sea", "styles": [{"file": "ink.safetensors"}]}
    edit(folder / "config/characters/mara.yaml", gallery=[inked, "{trigger} at home"])
    assert jobs(small_project.TARGET) == {}
    for target in ("mara", page, "results/mara/bundle.zip"):
        assert jobs(target) == {"draw_gallery": 2, "write_gallery": 1}
    near = small_project.snakemake(folder, "-n", "results/mara/gallery/03.png", code=small_project.ROOT)
    assert near.returncode == 1 and "nothing makes results/mara/gallery/03.png; did you mean" in near.stderr


@pytest.mark.parametrize("profile", sorted((small_project.ROOT / "profiles").glob("*/config.yaml")), ids=str)
def test_a_profile_says_nothing_twice(profile):
    """YAML would silently take the last."""
    above: list[tuple[int, str]] = []
    seen = set()
    for line in profile.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"^( *)([A-Za-z_-]+):", line):
            depth = len(found[1])
            above = [one for one in above if one[0] < depth] + [(depth, found[2])]
            path = tuple(name for _, name in above)
            assert path not in seen, path
            seen.add(path)
