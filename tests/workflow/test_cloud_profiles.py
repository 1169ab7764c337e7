"""Profiles for machines that are rented: nobody has run them, so at least Snakemake plans with each plugin."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import small_project
import yaml
from small_project import TARGET, snakemake

ROOT = small_project.ROOT
PLUGINS = {
    "kubernetes": "snakemake_executor_plugin_kubernetes",
    "aws-batch": "snakemake_executor_plugin_aws_batch",
    "google-batch": "snakemake_executor_plugin_googlebatch",
    "vastai": "snakemake_executor_plugin_vastai",
}


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())


@pytest.mark.parametrize("name", PLUGINS)
def test_profiles_say_that_nobody_ran_them_and_forget_no_rule(name: str) -> None:
    text = (ROOT / "profiles" / name / "config.yaml").read_text()
    assert "NOT RUN BY US" in text
    slurm, asked = profile("slurm"), profile(name)
    assert set(asked["set-resources"]) == set(slurm["set-resources"])
    assert set(asked["set-threads"]) == set(slurm["set-threads"])
    wants = {rule for rule, one in asked["set-resources"].items() if set(one) & {"gpu", "_gpus", "nvidia_gpu"}}
    assert wants == {"train_segment", *(rule for rule, one in slurm["set-resources"].items() if one.get("gpu"))}
    grouped = {entry.partition("=")[0] for entry in asked["groups"]}
    assert {entry.partition("=")[0] for entry in slurm["groups"]} <= grouped


@pytest.mark.parametrize("name", PLUGINS)
def test_snakemake_plans_with_the_plugin(name: str, tmp_path: Path) -> None:
    """With a folder in place of the bucket, which a plan would ask for its files."""
    for plugin in (PLUGINS[name], "snakemake_storage_plugin_fs", "snakemake_storage_plugin_s3"):
        if not find_spec(plugin):
            pytest.skip(f"not run: pip install {plugin.replace('_', '-')}")
    folder = small_project.make(tmp_path / "project")
    storage = ["--default-storage-provider", "fs", "--default-storage-prefix", str(tmp_path / "bucket")]
    own = ["--config", "base=mini", f"store={tmp_path / 'store'}"]
    made = snakemake(folder, "-n", TARGET, "--profile", str(ROOT / "profiles" / name), *storage, *own, code=ROOT)
    assert made.returncode == 0, made.stdout + made.stderr
    text = made.stdout + made.stderr
    assert "train_segment" in text and "export_final" in text
