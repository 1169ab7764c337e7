"""What a dry run says: which jobs an edit costs, and how a mistake is told before any job starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import small_project
import yaml
from small_project import TARGET, edit, snakemake

CHARACTER = "config/characters/mara.yaml"
CONFIG = "config/config.yaml"
AFTER_SAMPLES = {"draw_grid": 2, "score_checkpoint": 2, "choose_checkpoint": 1, "write_report": 1, "export_final": 1}
REPORTED = {"write_report": 1, "export_final": 1}
FIRST_PREVIEW = {"sample_checkpoint": 2, "draw_grid": 1, "score_checkpoint": 1, "choose_checkpoint": 1, **REPORTED}
AFTER_DATA = {"train_segment": 2, "sample_checkpoint": 4, **AFTER_SAMPLES}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose every file was made by a pretender, with Snakemake's own records of it."""
    folder = small_project.add_code(small_project.make(tmp_path_factory.mktemp("workflow") / "project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLOOM_PYTHON", str(small_project.pretender(folder)))
        made = snakemake(folder, "--cores", "2", TARGET)
    assert made.returncode == 0, made.stderr
    assert planned(folder) == {}
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project to edit."""
    return Path(shutil.copytree(finished, tmp_path / "project"))


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs by rule that a dry run plans."""
    result = snakemake(folder, "-n", TARGET, *arguments)
    assert result.returncode == 0, result.stderr
    text = result.stdout + result.stderr
    if "Nothing to be done" in text:
        return {}
    table = text[text.index("Job stats:") :]
    rows = re.findall(r"^(\w+) +(\d+)$", table.split("total")[0], flags=re.MULTILINE)
    assert rows, text
    return {rule: int(number) for rule, number in rows}


def reword_docstrings(folder: Path) -> None:
    for name in ("captions", "crop", "lint"):
        path = folder / "charloom" / f"{name}.py"
        path.write_text(path.read_text().replace('"""', '"""Again. ', 1))


def replace(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


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
        {"encode_text": 1, "sample_checkpoint": 2, **AFTER_SAMPLES},
    ),
    "the strength of a preview": (
        lambda p: replace(p, CHARACTER, "scale: 0.8", "scale: 0.7"),
        {"sample_checkpoint": 2, **AFTER_SAMPLES},
    ),
    "the checkpoint": (lambda p: edit(p / CHARACTER, checkpoint=50), {"export_final": 1}),
    "more steps": (
        lambda p: replace(p, CONFIG, "steps: 100", "steps: 150"),
        {
            "train_segment": 1,
            "sample_checkpoint": 2,
            "draw_grid": 1,
            "score_checkpoint": 1,
            "choose_checkpoint": 1,
            "write_report": 1,
            "export_final": 1,
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
        {"encode_latents": 3, "write_manifest": 1, **AFTER_DATA},
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
        },
    ),
    "a data set more": (
        further_set,
        {
            "make_source_image": 2,
            "crop_watermark": 2,
            "write_caption": 2,
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
        {"choose_checkpoint": 1, **REPORTED},
    ),
    "checkpoints kept by score": (
        lambda p: edit(p / CHARACTER, recipe={"save": {"keep": "score:1"}}),
        {"choose_checkpoint": 1, **REPORTED},
    ),
    "number format of the files": (
        lambda p: edit(p / CHARACTER, recipe={"save": {"dtype": "fp16"}}),
        AFTER_DATA,
    ),
    "a seed that does not walk": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"walk_seed": False}}),
        {"sample_checkpoint": 2, **AFTER_SAMPLES},
    ),
    "the seed of one prompt": (
        lambda p: replace(p, CHARACTER, "scale: 0.8", "scale: 0.8\n  seed: 7"),
        {"sample_checkpoint": 2, **AFTER_SAMPLES},
    ),
    "the size of one prompt": (
        lambda p: replace(p, CHARACTER, "scale: 0.8", "scale: 0.8\n  width: 256\n  height: 192"),
        {"sample_checkpoint": 2, **AFTER_SAMPLES},
    ),
    "a preview of the base": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"skip_first": False}}),
        FIRST_PREVIEW,
    ),
    "a preview of the base by force": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"force_first": True}}),
        FIRST_PREVIEW,
    ),
    "no previews": (
        lambda p: edit(p / CHARACTER, recipe={"sample": {"disable": True}}),
        {"choose_checkpoint": 1, **REPORTED},
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
        (lambda: further_set(project, resolutions=[64]), {"encode_latents": 2, "write_manifest": 1}),
        (
            lambda: further_set(project, default_caption="nobody"),
            {"write_caption": 1, "lint_dataset": 1, "encode_caption": 1, "write_manifest": 1},
        ),
        (
            lambda: (further_set(project), (project / "others/a-1.txt").write_text("a photo of another woman")),
            {"write_caption": 1, "lint_dataset": 1, "encode_caption": 1, "write_manifest": 1},
        ),
    ]
    for change, expected in changes:
        change()
        assert planned(project) == {**expected, **AFTER_DATA}


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
    assert listed == [name for name in needed if not name.startswith(("snakemake", "typer", "rich"))]


def rules_with(words: str) -> set[str]:
    """Names of the rules whose text holds ``words``."""
    texts = [path.read_text() for path in (small_project.ROOT / "rules").glob("*.smk")]
    found = [re.findall(r"^rule (\w+):\n((?:.*\n)*?)(?=^\S|\Z)", text, flags=re.MULTILINE) for text in texts]
    return {name for rules in found for name, body in rules if words in body}


def test_the_cluster_profile_knows_every_rule() -> None:
    """Submitted are the rules that take a GPU or many cores; the others run where snakemake runs."""
    profile = yaml.safe_load((small_project.ROOT / "profiles/slurm/profile.yaml").read_text())
    snakefile = (small_project.ROOT / "Snakefile").read_text()
    local = set(re.findall(r"\w+", re.search(r"^localrules:\n((?: .*\n)+)", snakefile, flags=re.MULTILINE)[1]))
    assert len(rules_with("gpu=1")) == 6
    assert rules_with("gpu=1") == {name for name, asked in profile["set-resources"].items() if asked.get("gpu")}
    assert rules_with("threads: 64") == set(profile["set-threads"]) >= set(profile["set-resources"])
    assert rules_with("shell:") == local | set(profile["set-threads"])


def test_one_gpu_here_is_no_limit_on_a_cluster(project: Path) -> None:
    """The limit of the default profile, which Snakemake adds to every other one, counts for each host."""
    with open(project / "Snakefile", "a") as file:
        file.write('\nprint("local:", workflow.resource_scopes.is_local("gpu"), file=sys.stderr)\n')
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


def test_the_snakefile_imports_nothing_heavy(tmp_path: Path) -> None:
    folder = small_project.make(tmp_path)
    code = (
        "import sys; from charloom import arguments, bases, contents, notices, slices, sources, targets;"
        "from charloom.config import read; read('.');"
        "print(sorted({'torch', 'pandas', 'numpy', 'PIL', 'diffusers', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(small_project.ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_the_workflow_passes_the_linters() -> None:
    root = small_project.ROOT
    files = ["Snakefile", *sorted(str(path) for path in (root / "rules").glob("*.smk"))]
    formatted = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", *files], cwd=root, capture_output=True, text=True
    )
    assert formatted.returncode == 0, formatted.stderr


def test_snakemake_lint(project: Path) -> None:
    result = snakemake(project, "--lint")
    assert result.returncode == 0, result.stdout + result.stderr
