"""The documentation: its links, commands, files and numbers are correct."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_project
import typer.main

from charloom.cli.main import app
from charloom.config import folder
from charloom.lora import loaders

ROOT = small_project.ROOT
README = ROOT / "README.md"
CI = ROOT / ".ci" / "run"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("resources/bases/*/*.md")])
EXAMPLE = "mara"
"""The character that pages make up."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text_of(page)), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{i}" if i else slug for slug, last in found.items() for i in range(last + 1)}


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text_of(page)))


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each call of ``program`` in shell blocks and inline code, placeholders filled in."""
    lines = [line for kind, block in FENCE.findall(text_of(page)) if kind == "sh" for line in block.splitlines()]
    for line in [*lines, *inline_code(page)]:
        filled = re.sub(r"<[a-z]+>", EXAMPLE, line)
        for part in re.split(r"&&|;|\|", re.sub(r"\s#.*", "", filled)):
            if part.strip().startswith(f"{program} "):
                yield shlex.split(part)[1:]


def dead_links(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no heading of it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


@pages
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_links_lead_somewhere_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """Where there is no clone, and no benchmarks; code that looks like a link stays."""
    folder.create(tmp_path / "studio")
    laid_out = sorted((tmp_path / "studio").rglob("*.md"))
    assert {page.name: links for page in laid_out if (links := dead_links(page))} == {}
    (tutorial,) = (page for page in laid_out if page.name == "tutorial.md")
    assert "[README](README.md#ten-words)" in text_of(tutorial)
    kept = "`x[0](gone.md)`\n```py\nx[0](gone.md)\n```\n"
    assert folder.with_links(f"{kept}[gone](gone.md#x)", "docs/a.md", {}) == f"{kept}gone"


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    made_up = re.compile(rf"\b{EXAMPLE}\b|<\w+>/|<(rule|name|shot|base)>")
    folders = "charloom|config|rules|scripts|tools|tests|benchmarks|profiles|envs|docs|resources"
    missing = [
        code
        for code in inline_code(page)
        if re.fullmatch(rf"({folders})/[\w./*-]*|\.ci/run", code)
        and not made_up.search(code)
        and not any(ROOT.glob(code.rstrip("/")))
    ]
    assert missing == []


@pages
def test_charloom_commands_exist(page: Path) -> None:
    known = typer.main.get_command(app).commands
    for name, *arguments in commands(page, "charloom"):
        assert name in known, f"charloom {name}"
        command = known[name]
        if arguments and arguments[0] in getattr(command, "commands", {}):
            command = command.commands[arguments[0]]
        if not command.context_settings.get("ignore_unknown_options"):
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in arguments if word.startswith("-")} <= options, f"charloom {name} {arguments}"


def test_extras_are_there_and_named_as_the_installed_charloom_takes_them() -> None:
    """``.[photo]`` means nothing outside of a clone; only what follows ``git clone``, and the tests, are inside."""
    extras = set(tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"])
    named = set()
    for file in [*PAGES, *(ROOT / "charloom").rglob("*.py"), *(ROOT / "config").rglob("*.yaml")]:
        text = re.sub(r"^```sh\n(?=[^`]*git clone)[^`]*^```", "", text_of(file), flags=re.M)
        assert not re.search(r"""pip install -e ["']\.\[(?!test\])""", text), file
        named |= {extra for extra in re.findall(r"""pip install ["']?charloom\[(\w+)\]""", text)}
    assert named and named <= extras


@pytest.fixture(scope="module")
def snakemake() -> argparse.ArgumentParser:
    return pytest.importorskip("snakemake.cli").get_argument_parser()


@pages
def test_snakemake_knows_the_options(page: Path, snakemake: argparse.ArgumentParser) -> None:
    for arguments in commands(page, "snakemake"):
        asked = snakemake.parse_args(arguments)  # ends the test with the parser's own words if an option is unknown
        profiles = [asked.profile] if isinstance(asked.profile, str) else asked.profile or []  # a list since some 9.x
        assert [name for name in profiles if not (ROOT / name / "config.yaml").is_file()] == [], arguments


def test_snakemake_knows_the_targets(tmp_path: Path, snakemake: argparse.ArgumentParser) -> None:
    calls = [arguments for page in PAGES for arguments in commands(page, "snakemake")]
    read = [snakemake.parse_args(arguments) for arguments in calls]
    # Experiments have a Snakefile of their own, and tests of their own.
    targets = {str(target) for one in read if "experiments" not in str(one.snakefile) for target in one.targets or []}
    folder = small_project.make(tmp_path)
    shutil.copy(ROOT / "config/characters/leyla.yaml", folder / "config/characters")
    shutil.copytree(ROOT / "config/styles", folder / "config/styles")
    small_project.edit(folder / "config/characters/mara.yaml", gallery=["{trigger}"])
    result = small_project.snakemake(folder, "-n", *sorted(targets), code=ROOT)
    assert targets and result.returncode == 0, result.stderr


RUN_BY = {
    "captions": "workflow/test_captioner.py",  # an API by fake_chat
    "comfy": "deliver/test_comfyui_server.py",  # ComfyUI by fake_comfyui
    "convert": "lora/test_lora_convert.py",
    "doctor": "cli/test_install.py",  # GPUs and the hub by stand-ins
    "draw": "cli/test_draw.py",
    "images": "workflow/test_sources_walks.py",  # generators by generator_shop
    "import-ai-toolkit": "interop/test_aitoolkit.py",
    "init": "cli/test_install.py",
    "lint": "workflow/test_lint_files.py",
    "merge": "lora/test_lora_combine.py",
    "new": "cli/test_new.py",
    "plan": "cli/test_cli.py",
    "publish": "deliver/test_publish.py",  # the hub by fake_hub
    "ship": "cli/test_steering.py",
    "stop": "cli/test_steering.py",
    "store": "cli/test_store_commands.py",
    "try": "cli/test_steering.py",
    "unpack": "deliver/test_unpack.py",
    "verify": "cli/test_cli.py",
    "watch": "watch/test_server.py",  # without the loop that serves
}
"""By command of charloom, the test that runs it, with each option that the pages show."""
RUN_ELSEWHERE = {
    "--config": "workflow/test_snakefile.py",
    "--forcerun": "workflow/test_snakefile.py",
    "--lint": "workflow/test_snakefile.py",
    "--profile": "workflow/test_snakefile.py",
    "--report": "workflow/test_snakemake_report.py",
    "--sdm": "workflow/test_snakefile.py",
}
"""The same for options of Snakemake's that do something."""
OTHER_PROGRAMS = {
    "dot": "not run: Graphviz lays out the picture in the documentation",
    "export": "by the tests of generators, as an environment variable",
    "git": "not run: the address is the reader's",
    "hf": "not run: it downloads; the cache that it fills is made by hand in tests/judge",
    "mypy": ".ci/run",
    "pip": ".ci/run and cli/test_install.py; builds for CUDA are not installed by a test",
    "pip-audit": "not run: it asks a service on the internet",
    "pre-commit": "not run: the checks of .ci/run for each commit",
    "py": "not run: Windows",
    "pytest": ".ci/run",
    "python": "experiments, faults/test_faults.py, hostile/test_hostile.py, dataset/test_dataset.py",
    "python3": ".ci/run",
    "ruff": ".ci/run",
    "sed": "not run: it colours the picture in the documentation",
    "snakefmt": ".ci/run",
    "sudo": "not run: it changes the system",
    "unshare": "hostile/test_hostile.py, without the network cut",
}


def lines_of(page: Path) -> Iterator[str]:
    """The commands of its shell blocks, without comments, one each."""
    for kind, block in FENCE.findall(text_of(page)):
        if kind == "sh":
            for line in re.sub(r"\s#.*", "", block.replace("|\n", "&& ")).splitlines():
                yield from filter(None, (part.strip() for part in line.split("&&")))


@pages
def test_every_command_is_run_by_a_test(page: Path) -> None:
    for name, *arguments in commands(page, "charloom"):
        text = text_of(ROOT / "tests" / RUN_BY[name])
        assert re.search(rf'"{name}"', text), f"{RUN_BY[name]} does not run charloom {name}"
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            assert f'"{option}' in text, f"{RUN_BY[name]} does not try {option}"
    for arguments in commands(page, "snakemake"):
        for option in RUN_ELSEWHERE.keys() & set(arguments):
            assert option in text_of(ROOT / "tests" / RUN_ELSEWHERE[option])
    programs = {line.split()[0] for line in lines_of(page)} - {"charloom", "snakemake", ".", "cd"}
    assert programs <= set(OTHER_PROGRAMS)


def test_further_options_of_snakemake_are_taken(tmp_path: Path, snakemake: argparse.ArgumentParser) -> None:
    """Those that change how a run is done, each with all that stands beside it, as a dry run."""
    calls = {
        tuple(call) for page in PAGES for call in commands(page, "snakemake") if "rules/experiments" not in str(call)
    }
    tried = RUN_ELSEWHERE.keys() | {"--cores"}
    further = {call for call in calls if {word for word in call if word.startswith("--")} - tried}
    folder = small_project.make(tmp_path)
    shutil.copy(ROOT / "config/characters/leyla.yaml", folder / "config/characters")
    for call in sorted(further):
        result = small_project.snakemake(folder, "-n", *call, code=ROOT)
        assert result.returncode == 0, (call, result.stderr)
    assert {"--resources", "--rulegraph", "--scheduler"} <= {word for call in further for word in call}


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= 120


def test_the_readme_has_both_commands_and_ci_runs_the_tests_as_it_says() -> None:
    blocks = "".join(block for _, block in FENCE.findall(text_of(README)))
    job = "pip install -e . && snakemake --cores 2 results/leyla/final.safetensors"
    tests = 'pip install -e ".[test]" && pytest'
    assert {job, tests} <= set(blocks.splitlines())
    lines = text_of(CI).replace("python -m pip", "pip").replace(" --quiet", "").splitlines()
    install, run = tests.split(" && ")
    assert lines.index(install) < lines.index(run) == len(lines) - 1


def test_the_picture_of_the_rules_shows_all_of_them() -> None:
    shown = set(re.findall(r">(\w+)</text>", text_of(ROOT / "docs/dag.svg")))
    text = "\n".join(text_of(path) for path in ROOT.glob("rules/*.smk"))
    rules = set(re.findall(r"^rule (\w+):", text, re.M))  # without `use rule`, which draws nothing of its own
    # Not Leyla's: those of differential preservation, of all characters, of the judge auto, of validation.drift, of
    # whole folders, and what only somebody asks for.
    elsewhere = {"encode_class_caption", "write_index", "lock_judge", "study_references", "sample_drift", "score_drift"}
    elsewhere |= {"write_comfyui", "make_bundle", "compare_results", "convert_picture", "take_caption"}
    # Nor those of captioners, of masks, and of generators.
    elsewhere |= {"caption_image", "propose_captions", "make_mask"}
    elsewhere |= {"draw_reference", "generate_reference", "generate_picture"}
    assert shown - {"leyla"} == rules - elsewhere


def row(text: str, start: str) -> list[str]:
    """The cells of the one table row that begins with ``start``."""
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip(" *") for cell in found.split("|")[1:-1]]


def test_steps_are_quoted_as_they_were_measured() -> None:
    text = text_of(ROOT / "docs/measurements.md")
    lines = [json.loads(line) for line in text_of(ROOT / "benchmarks/results/train_step.json").splitlines()]
    for start, about in (("budget 9 GiB", "default"), ("budget 6.5 GiB", "swap")):
        measured = {line["size"]: line["seconds"] for line in lines if line["configuration"] == about}
        assert [float(cell) for cell in row(text, start)[1:4]] == pytest.approx(
            [measured[size] for size in (512, 768, 1024)], abs=6e-4
        )


def test_ratios_follow_from_the_table() -> None:
    text = text_of(ROOT / "docs/measurements.md")
    small, large = (float(row(text, f"charloom a0f1716 | budget {n} GiB")[6]) for n in (9, 32))
    slow = float(row(text, "ai-toolkit")[6])
    others = [float(row(text, f"musubi-tuner 30c658c | {start}")[6]) for start in ("fp8_base", "the same without")]
    ratios = sorted((others[0] / small, others[1] / large))
    words = " ".join(text.split())
    assert f"{slow / small:.1f} times (9 GiB) and {slow / large:.1f} times (32 GiB) as fast as ai-toolkit's" in words
    assert f"{ratios[0]:.1f} to {ratios[1]:.1f} times as fast as the fastest" in words
    words = " ".join(text_of(README).split())
    said = f"a step is {slow / small:.1f} times as fast as in ai-toolkit ({slow / large:.1f} times with 32 GiB)"
    assert said in words and "about twice as fast" in words and [f"{ratio:.0f}" for ratio in ratios] == ["2", "2"]


def test_loaders_are_named_as_they_were_tried() -> None:
    def whole(loader: str, kind: str) -> tuple[str, str]:
        traits = {"alpha", "alpha is the rank", "A/B", "same in the header", "attention", "usual modules"}
        rows = [found for found in loaders.about("diffusion_model", kind, traits) if found.loader == loader]
        (good,) = [found for found in rows if found.result == loaders.WHOLE]
        return good.first, good.last

    text, table = " ".join(text_of(README).split()), text_of(ROOT / "docs/z-image-turbo.md")
    (first, _), (oldest, newest) = whole("ComfyUI", "lora"), whole("diffusers", "lora")
    assert f"ComfyUI from {first} on and in diffusers {oldest} to {newest}" in text
    assert row(table, "LoRA")[1:3] == [f"from {first} on", f"{oldest} to {newest}"]
    (first, _), (oldest, _), _ = (whole(loader, "lokr") for loader in ("ComfyUI", "diffusers", "SD.Next"))
    assert f"LoKr needs ComfyUI {first}, diffusers {oldest} or" in text
    assert row(table, "LoKr")[1].startswith(f"from {first}") and row(table, "LoKr")[2].startswith(oldest)
