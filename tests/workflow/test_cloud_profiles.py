"""Profiles for clusters and for machines that are rented. The latter nobody has run, so at least Snakemake plans with
each plugin."""

from __future__ import annotations

import re
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


ASKS = {"kubernetes": "gpu_manufacturer", "aws-batch": "_gpus", "google-batch": "nvidia_gpu"}
"""By which resource a rule of a profile gets a GPU, where the rule's own ``gpu`` is not enough."""
SINGLE = {"train_segment": "previous=previous_checkpoint", "draw_reference": "image=RESULTS.reference,"}
"""Rules with at most one job of a character at a time, and what makes them so."""


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
    always = {"train_segment", *(rule for rule, one in slurm["set-resources"].items() if one.get("gpu"))}
    assert always <= wants <= always | {"caption_image"}
    grouped = {entry.partition("=")[0] for entry in asked["groups"]}
    assert {entry.partition("=")[0] for entry in slurm["groups"]} <= grouped


def bodies() -> dict[str, str]:
    """The text of every rule, with that of the rule that it uses."""
    texts = [path.read_text() for path in (ROOT / "rules").glob("*.smk")]
    body = r"(?m)^(?:use )?rule (?:(\w+) as )?(\w+)(?: with)?:\n((?:(?: .*)?\n)*)"
    found = [one for text in texts for one in re.findall(body, text)]
    own = {name: text for _, name, text in found}
    return {name: text + own.get(used, "") for used, name, text in found}


def on_gpu() -> set[str]:
    """Rules of which a job may take a GPU."""
    return {rule for rule, body in bodies().items() if re.search(r"^        gpu=", body, re.MULTILINE)}


@pytest.mark.parametrize("name", ["slurm", *PLUGINS])
def test_no_job_waits_for_a_sibling_while_it_holds_a_gpu(name: str) -> None:
    """Jobs of a script and character share a lock. They are one submitted job, in which they follow each other."""
    given = profile(name)
    groups = dict(one.split("=") for one in given["groups"])
    together = dict(one.split("=") for one in given["group-components"])
    found = set()
    for rule, body in bodies().items():
        script = re.search(r'"run (\w+) ', body)[1]
        text = (ROOT / "scripts" / f"{script}.py").read_text()
        if rule not in on_gpu() or not re.search(r"jobs\.(serve|stored)\(|\.lock\(", text):
            continue
        found.add(rule)
        if rule in SINGLE:
            assert SINGLE[rule] in body
            continue
        assert groups.get(rule, "").endswith("-{character}"), f"{rule} is in no group of its character"
        assert int(together[groups[rule]]) >= 10000 and given["set-resources"][rule]["alone"] == 1, rule
    assert len(found) >= 13 and {"caption_image", "encode_text", "score_checkpoint", *SINGLE} <= found


@pytest.mark.parametrize("name", ASKS)
def test_rules_whose_gpus_depend_on_the_character_get_them(name: str) -> None:
    """Kubernetes' plugin wants a maker wherever a rule names ``gpu``, even for none; the others look at their own."""
    asked = profile(name)["set-resources"]
    named = on_gpu()
    if name != "kubernetes":
        named -= {rule for rule, body in bodies().items() if "gpu=judge_gpus" in body}  # the CPU does for it
    assert {"caption_image", "train_segment"} < named and named <= {rule for rule in asked if ASKS[name] in asked[rule]}


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
