"""The shortcuts for Snakemake's planning give the same texts, and the same answers about functions."""

from __future__ import annotations

import asyncio
import atexit
import copy
import gc
import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_project import TARGET, add_code, make, replace, snakemake
from snakemake import common, io, jobs, rules
from snakemake.exceptions import RuleException
from snakemake.logging import DefaultFilter, logger
from snakemake.settings.enums import Quietness
from waiting_alone import finished_alone

from charloom.core.errors import UserError
from charloom.planning import graph, lean, memory, swaps

if not lean.OLDEST <= lean._release() < lean.BELOW:
    pytest.skip("this release of Snakemake plans as it is", allow_module_level=True)

from snakemake.iocontainers import InputFiles, Namedlist, Params, Wildcards  # noqa: E402

import_module("snakemake.cli")  # as the command does, which is the only order in which its modules import each other


@pytest.fixture
def applied() -> Iterator[None]:
    """Lean planning, undone afterwards: other tests in this process get Snakemake and the collector as they were."""
    threshold, handlers, level = gc.get_threshold(), list(logger.handlers), logger.level
    lean.plan_lean()
    yield
    swaps.undo()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    atexit.unregister(gc.freeze)
    gc.set_threshold(*threshold)
    gc.unfreeze()


def test_what_a_release_does_not_have_is_left_alone() -> None:
    class Job:
        __slots__ = ()

    def change() -> None:
        swaps.getter(Job, "_gone", lambda reads: reads)
        raise KeyError("of a table")

    swaps.each(change)
    assert not hasattr(Job, "_gone")


@pytest.mark.usefixtures("applied")
def test_all_that_is_replaced_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that a release of Snakemake drops costs speed or order alone, which nobody would notice otherwise."""
    lost: list[str] = []

    def counted(call: Any, name: str) -> None:
        before = len(swaps._DONE)
        call()
        if len(swaps._DONE) == before:
            lost.append(name)

    def noted(swap: Any) -> Any:
        return lambda owner, name, made: counted(partial(swap, owner, name, made), f"{owner.__name__}.{name}")

    for way in ("method", "function", "getter"):
        monkeypatch.setattr(swaps, way, noted(getattr(swaps, way)))
    monkeypatch.setattr(swaps, "each", lambda *changes: [counted(change, change.__name__) for change in changes])
    swaps.undo()
    lean.plan_lean()
    assert lost == []


@pytest.mark.parametrize("plain", ["asked for", "9.26.1", "10.0.1"])
def test_snakemake_can_be_left_as_it_is(monkeypatch: pytest.MonkeyPatch, plain: str) -> None:
    if plain == "asked for":
        monkeypatch.setenv("CHARLOOM_PLAN", "plain")
    else:
        monkeypatch.setattr("snakemake.__version__", plain)
    before = jobs.Job.format_wildcards, common.get_function_params, gc.get_threshold()
    lean.plan_lean()
    assert (jobs.Job.format_wildcards, common.get_function_params, gc.get_threshold()) == before


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


def planned(folder: Path) -> list[str]:
    """The lines of a dry run, with every command and reason; Snakemake visits jobs and names files in any order."""
    said = snakemake(folder, "-n", "-p", TARGET)
    assert said.returncode == 0, said.stderr
    changing = re.compile(r"^\[|^ *(Date|Workflow ID|Command): ")
    lines = [line for line in (said.stdout + said.stderr).splitlines() if not changing.match(line)]
    return sorted(" ".join(sorted(re.split("[ ,;]+", line))) for line in lines)


@pytest.mark.parametrize("state", ["nothing made", "all made", "made otherwise"])
def test_plans_are_those_of_snakemake(state: str, finished: Path, tmp_path: Path) -> None:
    if state == "nothing made":
        folder = add_code(make(tmp_path))
    else:
        folder = Path(shutil.copytree(finished, tmp_path / "project"))
    if state == "made otherwise":
        replace(folder, "config/config.yaml", "recipe:\n", "recipe:\n  network:\n    rank: 8\n")
        (folder / "results/mara/dataset/medium-01.png").write_text("another")
        next((folder / "results/mara/latents").iterdir()).unlink()
    found = planned(folder)
    replace(folder, "rules/common.smk", "lean.plan_lean()\n", "")
    assert found == planned(folder)
    assert (state == "all made") == any("Nothing" in line for line in found)


@pytest.mark.usefixtures("applied")
def test_a_file_has_the_flags_of_its_pattern_and_those_given_later() -> None:
    plain, flagged = io.IOFile("a", rule=None), io.IOFile(io.flag("a", "temp"), rule=None)
    for pattern, temporary in ((plain, False), (flagged, True)):
        made = io.IOFile("b", rule=None)
        made.clone_flags(pattern)
        outer = io.IOFile(made, rule=None)
        assert (
            io.is_flagged(made, "temp") is io.is_flagged(outer, "temp") is rules.is_flagged(made, "temp") is temporary
        )
        assert io.get_flag_value(made, "temp") is (True if temporary else None)
        made.flags["ancient"] = True
        assert io.is_flagged(made, "ancient") and made.is_ancient and not pattern.is_ancient
        assert (str(made), made == "b", hash(made)) == ("b", True, hash("b"))
    assert not io.is_flagged("a", "temp") and not io.is_flagged(len, "temp")


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        ((["a", "b"],), {}),
        ((), {"fromdict": {"character": "mara", "index": 3, "sort": "up"}}),
        ((InputFiles(fromdict={"image": "a", "lock": "b"}),), {}),
        ((InputFiles(["a"]),), {"plainstr": True}),
        (([io.IOFile(io.flag("a", "temp"), rule=None)],), {"plainstr": True}),
        ((["{a,[0-9]}"],), {"strip_constraints": True}),
        ((["a"],), {"custom_map": str.upper}),
    ],
)
def test_lists_of_a_job_are_those_of_snakemake(arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    ours = InputFiles(*arguments, **options)
    swaps.undo()
    theirs = InputFiles(*arguments, **options)
    assert (list(ours), ours._names, dict(ours.items())) == (list(theirs), theirs._names, dict(theirs.items()))
    assert list(map(type, ours)) == list(map(type, theirs))
    lean.plan_lean()
    if "index" not in ours._names:
        for made in (ours, copy.deepcopy(ours)):
            with pytest.raises(AttributeError, match="index"):
                made.index("a")
            assert made.get("index") is None


@pytest.mark.usefixtures("applied")
def test_jobs_of_a_rule_share_the_names_of_what_they_read() -> None:
    known: dict[Any, Any] = {}
    source, other, made = io.IOFile(len, rule=None), io.IOFile(len, rule=None), []

    def concretize(item: Any, wildcards: Any, source: Any, incomplete: bool) -> Any:
        made.append(item)
        return io.IOFile(item, rule=None)

    once = partial(graph._once, known, concretize)
    assert once("a", {}, source, False) is once("a", {"step": 2}, source, False)
    assert once("a", {}, other, False) is not once("a", {}, source, False)
    assert once("a{step}", {}, source, False) is not once("a{step}", {}, source, False)
    assert once(Path("a"), {}, source, False) is once("a", {}, source, False)
    assert once("b", {}, source, True) is not once("b", {}, source, True)
    assert made == ["a", "a", "a{step}", "a{step}", "b", "b"]
    pattern, same = io.IOFile("a", rule=None), io.IOFile("a", rule=None)
    assert once(pattern, {}, None, False) is once(pattern, {}, None, False)
    assert once(pattern, {}, None, False) is not once(same, {}, None, False)


def test_who_reads_a_job_and_what_a_job_reads_are_one_set() -> None:
    dependencies: Any = defaultdict(partial(defaultdict, set))
    readers = graph.Readers(dependencies)
    for name in ("a.png", "b.png"):
        dependencies["train"]["encode"].add(name)
        readers["encode"]["train"].add(name)
    dependencies["score"]["encode"].add("c.png")
    readers["encode"]["score"].add("c.png")
    assert readers["encode"] == {"train": {"a.png", "b.png"}, "score": {"c.png"}}
    assert readers["encode"]["train"] is dependencies["train"]["encode"]
    assert not readers["train"]


@pytest.mark.parametrize(("files", "one"), [(("a.png", "a.png"), True), (("a.png", "b.png"), False)])
def test_jobs_that_read_the_same_files_of_a_job_share_one_set(files: tuple[str, str], one: bool) -> None:
    dependencies: Any = defaultdict(partial(defaultdict, set))
    dag = SimpleNamespace(_dependencies=dependencies, depending=graph.Readers(dependencies))
    for reader, file in zip(("train", "score"), files, strict=True):
        dependencies[reader]["encode"].add(file)
        dag.depending["encode"][reader].add(file)
        memory.share_files(dag, reader)
    sets = [dependencies[reader]["encode"] for reader in ("train", "score")]
    assert sets == [{file} for file in files]
    assert (sets[0] is sets[1]) is one
    assert all(dag.depending["encode"][reader] is dependencies[reader]["encode"] for reader in ("train", "score"))


@pytest.mark.usefixtures("applied")
def test_a_file_has_no_flags_until_the_first_is_given() -> None:
    made = io.IOFile("a", rule=None)
    assert made.flags == {} and type(made._file) is str
    flags = made.flags
    flags.update(ancient=True)
    flags["temp"] = True
    assert made.flags == {"ancient": True, "temp": True} and made.is_ancient and made == "a"


def test_tasks_that_wait_for_nothing_are_done_when_they_are_made() -> None:
    done: list[str] = []

    async def look(name: str, wait: bool) -> str:
        if wait:
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.sleep(9), 0.001)
        done.append(name)
        return name

    async def looked() -> list[str]:
        async with memory.Eager() as group:
            tasks = [group.create_task(look(name, name == "first")) for name in ("first", "second")]
            assert done == ["second"]
        return [task.result() for task in tasks]

    assert finished_alone(looked()) == ["first", "second"] and done == ["second", "first"]


@pytest.mark.parametrize("wait", [True, False])
def test_a_task_that_fails_ends_the_group(wait: bool) -> None:
    async def fail() -> None:
        if wait:
            await asyncio.sleep(0)
        raise UserError("no")

    async def failed() -> None:
        async with memory.Eager() as group:
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        finished_alone(failed())
    assert [str(one) for one in caught.value.exceptions] == ["no"]


class Listener(logging.Handler):
    """Keeps the records that it gets."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__()
        self.got: list[Any] = []
        kinds = {Quietness.RULES} if quiet else set()
        self.addFilter(DefaultFilter(kinds, debug_dag=False, verbose=False, dryrun=True, printshellcmds=True))

    def emit(self, record: logging.LogRecord) -> None:
        self.got.append(record.event)


class Counter(Listener):
    """Takes jobs themselves."""

    def takes_job(self, job: Any) -> None:
        self.got.append(job.jobid)


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize("listening", [[], [Listener(quiet=True)], [Counter()], [Counter(), Listener()], [Listener()]])
def test_only_who_listens_is_told_of_a_job(listening: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told, worded = [], []
    swaps.undo()
    monkeypatch.setattr(jobs.Job, "log_info", lambda self: told.append(self.jobid))
    lean.plan_lean()
    logger.handlers[:] = listening

    class Rule:
        is_checkpoint = is_handover = False

    class Job(SimpleNamespace):
        @property
        def message(self) -> str:
            worded.append(self.jobid)
            return ""

    for number in (1, 2):
        dag = SimpleNamespace(workflow=SimpleNamespace(dryrun=True))
        jobs.Job.log_info(Job(rule=Rule, dag=dag, jobid=number, shellcmd=""))
    counters = [one for one in listening if isinstance(one, Counter)]
    if any(not one.filters[0].quiet and one not in counters for one in listening):
        assert told == [1, 2]
    else:
        assert told == []
        assert worded == [1], "the texts of a rule are checked once"
        assert all(one.got == [1, 2] for one in counters)


def test_everything_can_be_undone() -> None:
    before = {
        owner: dict(vars(owner)) for owner in (jobs.Job, io._IOFile, Namedlist, rules.Rule, rules, io, common, jobs)
    }
    lean.plan_lean()
    assert any(dict(vars(owner)) != was for owner, was in before.items())
    lean.plan_lean()
    swaps.undo()
    gc.unfreeze()
    atexit.unregister(gc.freeze)
    for owner, was in before.items():
        assert {name for name, value in vars(owner).items() if was.get(name, owner) is not value} <= {
            "__warningregistry__"
        }
