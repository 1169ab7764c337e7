"""How a character was last run, for commands beside that run."""

from __future__ import annotations

from pathlib import Path

import pytest

from charloom.core import last_run

PROFILE = ["--profile", "profiles/gpu-16gb", "--cores", "8"]


def test_it_is_remembered_for_each_character(tmp_path: Path) -> None:
    config = {"base": "z-image-turbo", "recipe": {"memory": 14.5}, "shard": "1/2"}
    last_run.remember(["mara", "leyla"], config, [*PROFILE, "mara"], tmp_path)
    last_run.remember(["leyla"], {}, ["--cores", "2", "leyla"], tmp_path)
    mara = last_run.of(tmp_path, "mara")
    assert mara == last_run.LastRun(tuple(PROFILE), {"base": "z-image-turbo", "recipe": {"memory": 14.5}})
    assert last_run.of(tmp_path, "leyla") == last_run.LastRun(("--cores", "2"), {})
    assert last_run.again(tmp_path, "mara", "mara") == "snakemake --profile profiles/gpu-16gb --cores 8 mara"


@pytest.mark.parametrize("content", [None, "", "[]", '{"config": 1}', '{"options": 3}'])
def test_nothing_is_known_of_others_or_from_a_damaged_file(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / last_run.RECORDS).mkdir(parents=True)
        (tmp_path / last_run.RECORDS / "mara.json").write_text(content)
    assert last_run.of(tmp_path, "mara") == last_run.LastRun()
    assert last_run.again(tmp_path, "mara", "mara") == "snakemake --cores 2 mara"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mara", *PROFILE, "--notemp"], PROFILE),
        (["-c4", "--profile=a", "results/x"], ["-c4", "--profile=a"]),
        (["-call", "mara"], ["-call"]),
        (["mara", "--config", "base=b", "device=c", "-j", "3"], ["-j", "3", "--config", "base=b", "device=c"]),
        (["mara", "-C", "base=a b", "--quiet"], ["--config", "base=a b"]),
        (["mara", "--config"], []),
        (["--configfile", "a.yaml", "b.yaml", "-c2"], ["-c2", "--configfile", "a.yaml", "b.yaml"]),
    ],
)
def test_what_is_kept_of_a_call(arguments: list[str], expected: list[str]) -> None:
    assert last_run.kept(arguments) == expected


def test_a_target_comes_before_settings() -> None:
    """Snakemake takes whatever follows --config for a setting."""
    assert last_run.command(["-c2", "--config", "base=a b"], "mara") == "snakemake -c2 mara --config 'base=a b'"


def test_cores_alone_are_no_settings() -> None:
    assert last_run.cores_given(["--cores=4"]) and last_run.cores_given(["-c4"]) and not last_run.cores_given(["-C"])
    assert not last_run.sets(["--cores", "4", "-n"]) and last_run.sets(["--profile=a"]) and last_run.sets(["-C", "a=b"])
    cores = ["-j", "3", "-c4", "-jall", "--jobs=2"]
    assert last_run.without_cores(["--profile", "a", *cores, "b"]) == ["--profile", "a", "b"]


@pytest.mark.parametrize(
    ("options", "elsewhere"),
    [
        ([], False),
        (["--profile", "cluster"], True),
        (["--executor", "slurm"], True),
        (["-e", "slurm", "mara"], True),
        (["--executor=slurm", "--profile", "gone"], True),
        (["--profile", "cluster", "--executor", "local"], False),
        (["-elocal", "--profile=cluster"], False),
    ],
)
def test_the_executor_of_the_call_comes_before_that_of_the_profile(
    tmp_path: Path, options: list[str], elsewhere: bool
) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/config.yaml").write_text("executor: slurm\n")
    assert last_run.on_other_machines(options, tmp_path) is elsewhere
