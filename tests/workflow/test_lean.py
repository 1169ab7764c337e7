"""What charloom spares Snakemake while it plans gives the same texts, and the same answers about functions."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake import common, jobs, rules
from snakemake.exceptions import RuleException
from snakemake.iocontainers import InputFiles, Params, Wildcards

from charloom.workflow import lean


@pytest.fixture
def applied() -> Iterator[None]:
    """Lean planning, undone afterwards: other tests in this process get Snakemake and the collector as they were."""
    before, threshold = jobs.Job.format_wildcards, gc.get_threshold()
    functions = common.get_function_params, rules.get_function_params
    lean.plan_lean()
    yield
    jobs.Job.format_wildcards = before
    common.get_function_params, rules.get_function_params = functions
    gc.set_threshold(*threshold)
    gc.unfreeze()


def job(dry: bool = True, **own: Any) -> SimpleNamespace:
    """What :meth:`Job.format_wildcards` uses of a job."""
    workflow = SimpleNamespace(globals={"COLOUR": "red", "threads": "hidden by the job's"}, dryrun=dry)
    made = {
        "dag": SimpleNamespace(workflow=workflow),
        "rule": SimpleNamespace(name="draw", workflow=workflow, lineno=1, snakefile="Snakefile"),
        "name": "draw",
        "input": InputFiles(fromdict={"image": "a b.png"}),
        "output": ["one.png", "two words.png"],
        "params": Params(fromdict={"settings": '{"a":1}'}),
        "_format_wildcards": Wildcards(fromdict={"character": "mara", "step": "000100"}),
        "threads": 3,
        "resources": SimpleNamespace(until=100),
        "log": ["draw.log"],
        "jobid": 7,
    }
    return SimpleNamespace(**{**made, **own})


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize(
    "pattern",
    [
        "{wildcards.character}: step {wildcards.step}",
        "run {input:q} {input.image:q} {output:q} {output[1]} --settings {params.settings:q} {params:q}",
        "{threads} {resources.until} {log} {jobid} {rule} {rulename} {name} {COLOUR} {bench_iteration} {{}}",
    ],
)
def test_texts_are_those_of_snakemake(pattern: str) -> None:
    one = job()
    assert jobs.Job.format_wildcards(one, pattern) == jobs.Job.format_wildcards.original(one, pattern)


@pytest.mark.usefixtures("applied")
def test_a_mistake_is_reported_in_the_words_of_snakemake() -> None:
    reports = []
    for function in (jobs.Job.format_wildcards, jobs.Job.format_wildcards.original):
        with pytest.raises(RuleException) as caught:
            function(job(), "{character}")
        reports.append(str(caught.value))
    assert reports[0] == reports[1]
    assert "wildcards.character" in reports[0]


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize("dry", [True, False])
def test_only_a_dry_run_repeats_what_it_has_formatted(dry: bool) -> None:
    """In a run, parameters may change between two looks at a job."""
    pattern, one = "{params.settings}", job(dry)
    before = jobs.Job.format_wildcards(one, pattern)
    one.params = Params(fromdict={"settings": "new"})
    assert jobs.Job.format_wildcards(one, pattern) == (before if dry else "new")
    assert jobs.Job.format_wildcards(job(dry, params=one.params), pattern) == "new"


class Source:
    def of(self, wildcards: Any, input: Any = 1) -> None:
        """A method."""


@pytest.mark.usefixtures("applied")
def test_parameters_of_functions_and_methods_are_remembered_apart() -> None:
    assert rules.get_function_params is common.get_function_params
    for _ in range(2):
        assert list(common.get_function_params(Source.of)) == ["self", "wildcards", "input"]
        assert list(common.get_function_params(Source().of)) == ["wildcards", "input"]
        assert list(common.get_function_params(lambda wildcards: 0)) == ["wildcards"]
