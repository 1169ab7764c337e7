"""What the live page shows of a run."""

from __future__ import annotations

import json
import os
import time

import psutil
import pytest
import small_project

from charloom.core import last_run
from charloom.core.layout import results
from charloom.watch import logs, machine
from charloom.watch.metrics import Metrics
from charloom.watch.state import Watcher
from charloom.workflow import stale_locks


def progress(project, **values):
    path = project / "results/mara/training/progress.json"
    known = {"state": "running", "step": 60, "steps": 100, "loss": 0.1, "pid": os.getpid(), "updated": time.time()}
    path.write_text(json.dumps(known | values))


def test_a_run_before_anything_was_made(tmp_path):
    root = small_project.make(tmp_path / "project")
    state = Watcher(root).character("mara")
    assert state["training"]["state"] == "not started" and state["previews"] == [] and state["chosen"] is None
    assert {bar["done"] for bar in state["bars"]} == {0} and not any(one["there"] for one in state["checkpoints"])
    json.dumps(state, allow_nan=False)


@pytest.mark.parametrize(("lives", "said"), [(True, "being prepared"), (False, "not started")])
def test_before_training_a_run_that_lives_prepares_what_it_has_locked(tmp_path, lives, said):
    pid = os.getpid() if lives else 2**22 + 1
    root = small_project.make(tmp_path / "project")
    (root / ".snakemake/locks").mkdir(parents=True)
    (root / ".snakemake/locks/0.output.lock").write_text("results/mara/latents/a.safetensors\n")
    run = {"host": stale_locks._host(), "pid": pid, "started": psutil.Process().create_time()}
    (root / ".snakemake" / stale_locks.RUNS).write_text(json.dumps([run]))
    watcher = Watcher(root)
    assert watcher.character("mara")["training"]["state"] == said
    assert [card["training"]["state"] for card in watcher.everybody()["characters"] if card["name"] == "mara"] == [said]
    (root / ".snakemake/locks/0.output.lock").write_text("results/nika/latents/a.safetensors\n")
    assert Watcher(root).character("mara")["training"]["state"] == "not started"


def test_a_run_in_the_middle(project):
    progress(project, eta=12.5)
    state = Watcher(project).character("mara")
    assert (state["training"]["state"], state["training"]["step"], state["training"]["eta"]) == ("running", 60, 12.5)
    assert {"name": "checkpoints", "done": 1, "of": 2} in state["bars"]
    assert [(one["step"], one["there"]) for one in state["checkpoints"]] == [(50, True), (100, False)]
    assert state["scores"] == {"identity": [(50, 0.5)], "obedience": [(50, 0.75)]}
    assert state["curves"]["loss"][-1] == (60.0, round(1 / 60, 5))
    (newest,) = state["previews"]
    assert newest["step"] == 50 and newest["pictures"][0]["misses"] == ["<b>arms</b>"]
    assert newest["pictures"][0]["file"].startswith("/files/mara/samples/step-000050/01.png?")
    assert state["log"] == {"name": "train_segment.log", "lines": ["first", "90 %", "last <i>line</i>"]}


def test_a_trainer_that_died_is_not_running(project):
    progress(project, pid=2**22 + 12345, updated=time.time() - 1000)
    training = Watcher(project).character("mara")["training"]
    assert training["state"] == "crashed" and "start snakemake again" in training["problem"]


def test_a_quiet_trainer_that_lives_is_running(project):
    """It may be drawing previews, or sleep with the laptop."""
    progress(project, updated=time.time() - 1000)
    assert Watcher(project).character("mara")["training"]["state"] == "running"


def test_a_trial_counts_to_its_own_last_step(project):
    """As the terminal does; when it is over, what is left is the whole run."""
    for state, steps in (("running", 80), ("waiting", 100)):
        progress(project, state=state, trial=80, eta=2.0)
        training = Watcher(project).character("mara")["training"]
        assert (training["step"], training["steps"], training["eta"]) == (60, steps, 2.0)


def test_a_failure_is_told_in_the_trainers_words(project):
    progress(project, state="failed", problem="CUDA out of memory")
    training = Watcher(project).character("mara")["training"]
    assert (training["state"], training["problem"]) == ("failed", "CUDA out of memory")


def test_without_a_progress_file_the_records_tell(project):
    training = Watcher(project).character("mara")["training"]
    assert (training["state"], training["step"], training["eta"]) == ("running", 60, 20.0)
    os.utime(project / "results/mara/training/metrics.jsonl", (1, 1))
    assert Watcher(project).character("mara")["training"]["state"] == "stopped"


def test_the_newest_previews_stand_beside_the_last_ones(project):
    for step in (0, 100):
        folder = project / f"results/mara/samples/step-{step:06d}"
        folder.mkdir()
        small_project.picture(folder / "01.png", (64, 64))
    (project / "results/mara/samples/step-other").mkdir()
    assert [one["step"] for one in Watcher(project).character("mara")["previews"]] == [100, 50, 0]


def test_what_the_trainer_has_just_drawn_is_shown_at_once(project):
    folder = project / "results/mara/training/newest"
    folder.mkdir()
    small_project.picture(folder / "02.png", (64, 64))
    assert [one["step"] for one in Watcher(project).character("mara")["previews"]] == [50]  # whose they are is unknown
    (folder / "step.json").write_text('{"step": 100}')
    newest, before = Watcher(project).character("mara")["previews"]
    assert (newest["step"], before["step"]) == (100, 50)
    assert [one["file"].split("?")[0] for one in newest["pictures"]] == ["/files/mara/training/newest/02.png"]
    (folder / "step.json").write_text('{"step": 50}')
    assert [one["step"] for one in Watcher(project).character("mara")["previews"]] == [50]


def test_a_copied_checkpoint_leaves_the_page_up(project):
    """Beside the step it is a copy of: that is what file managers do."""
    made = project / "results/mara"
    (made / "checkpoints/step-000050 (copy).safetensors").write_bytes(b"x")
    (made / "samples/step-000050 (copy)").mkdir()
    state = Watcher(project).character("mara")
    assert [(one["step"], one["there"]) for one in state["checkpoints"]] == [(50, True), (100, False)]


def test_a_picture_that_is_removed_during_a_look_costs_only_itself(project, monkeypatch):
    """Snakemake deletes a preview before it draws it again."""
    watcher, made = Watcher(project), project / "results/mara"
    found = watcher._made

    def then_removed(character):
        seen = found(character)
        (made / "samples/step-000050/01.png").unlink(missing_ok=True)
        return seen

    monkeypatch.setattr(watcher, "_made", then_removed)
    (newest,) = watcher.character("mara")["previews"]
    assert [one["prompt"] for one in newest["pictures"]] == ["02"]
    small_project.picture(made / "samples/step-000050/01.png", (64, 64))
    (card,) = watcher.everybody()["characters"]
    assert [one["prompt"] for one in card["pictures"]] == ["02"]


def test_the_page_says_how_a_checkpoint_was_chosen_as_the_terminal_does(project):
    path = project / "results/mara/validation.json"
    for how, words in (("rule", "by scores"), ("fallback", "the best available"), ("latest", "the newest")):
        path.write_text(json.dumps({"step": 50, "how": how}))
        assert Watcher(project).character("mara")["how"] == words


def test_broken_files_of_a_crash_cost_only_themselves(project):
    made = project / "results/mara"
    (made / "scores/step-000050.json").write_text('{"rows": [{"metric": "identity"}, 7, null], "misses": 3')
    (made / "training/progress.json").write_text("[1]")
    (made / "validation.json").write_text("")
    (made / "training/metrics.jsonl").write_text(
        '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": NaN}\nx\n{"step": 3, "lo'
    )
    state = Watcher(project).character("mara")
    assert state["scores"] == {} and state["curves"]["loss"] == [(1.0, 0.5)]
    json.dumps(state, allow_nan=False)


def test_all_characters_broken_ones_too(project):
    (project / "config/characters/oops.yaml").write_text("name: [")
    watcher = Watcher(project)
    cards = {card["name"]: card for card in watcher.everybody()["characters"]}
    assert cards["mara"]["training"]["step"] == 60 and len(cards["mara"]["pictures"]) == 2
    assert "oops.yaml" in cards["oops"]["problem"] and "oops" in watcher.character("oops")["problem"]
    assert watcher.character("nobody")["problem"]


def test_a_mistake_in_the_configuration_leaves_the_page_up(project):
    watcher = Watcher(project)
    watcher.config()
    (project / "config/config.yaml").write_text("base: [")
    watcher.forget()
    state = watcher.character("mara")
    assert state["training"]["step"] == 60 and "config.yaml" in state["problem"]


def test_what_the_last_run_set_is_shown(project):
    """A profile sets the base and the number formats for its call alone; what cannot be read any more is left out."""
    (project / "config/bases/other.yaml").write_bytes((project / "config/bases/mini.yaml").read_bytes())
    noors = {**small_project.CHARACTER, "trigger": "n00r"}
    small_project.write_yaml(project / "config/characters/noor.yaml", noors)
    settings = {"base": "other", "store": "elsewhere", "recipe": {"train": {"steps": 150}}}
    last_run.remember(["mara"], settings, ["--profile", "profiles/gpu-16gb"], project)
    last_run.remember(["noor"], {"base": "gone"}, [], project)
    watcher = Watcher(project)
    mara, noor = watcher.character("mara"), watcher.character("noor")
    assert (mara["base"], [one["step"] for one in mara["checkpoints"]]) == ("other", [50, 100, 150])
    assert (noor["base"], [one["step"] for one in noor["checkpoints"]]) == ("mini", [50, 100])
    people, broken, problem = watcher.config()
    assert watcher.base_of(people["mara"]).name == "other" and not broken and not problem
    assert watcher.store_of(people["mara"]).root == project / "elsewhere"


def test_metrics_are_read_as_they_grow(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.read()
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, ')
    metrics.read()
    with path.open("a") as file:
        file.write('"loss": 0.25}\n')
    metrics.read()
    assert metrics.loss == {1: 0.5, 2: 0.25}
    with path.open("a") as file:  # an earlier checkpoint was taken up again
        file.write('{"step": 1, "loss": 0.125}\n')
    metrics.read()
    assert metrics.loss == {1: 0.125}
    path.write_text('{"step": 9, "loss": 1}\n')
    metrics.read()
    assert metrics.loss == {9: 1.0}


def test_gpus_are_read_from_the_drivers_answer():
    answer = "NVIDIA H100, PCIe, 1024, 81559, 97\nold card, [N/A], 12, 3\n\nTitan, 1, 2, [N/A]\n"
    first, second = machine.parse(answer)
    assert first == {"name": "NVIDIA H100, PCIe", "used": 2**30, "total": 81559 * 2**20, "busy": 97}
    assert (second["name"], second["busy"]) == ("Titan", None)


def test_a_huge_log_is_read_from_its_end(tmp_path):
    (tmp_path / "a.log").write_text("x" * 200_000 + "\nend\n")
    found = logs.newest(tmp_path)
    assert found["lines"][-1] == "end" and len("".join(found["lines"])) <= logs.BYTES
    assert logs.newest(tmp_path / "none") == {"name": "", "lines": []}


def test_what_a_running_trainer_has_saved_is_there(ahead):
    """Its checkpoints and previews become files of the workflow only when it has ended."""
    state = Watcher(ahead).character("mara")
    assert [(one["step"], one["there"]) for one in state["checkpoints"]] == [
        (50, True), (100, True), (150, True), (200, False),
    ]  # fmt: skip
    assert [(one["step"], len(one["pictures"])) for one in state["previews"]] == [(150, 2), (100, 2), (50, 2)]
    done = {bar["name"]: (bar["done"], bar["of"]) for bar in state["bars"]}
    assert (done["checkpoints"], done["previews"]) == ((3, 4), (6, 8))
    (card,) = Watcher(ahead).everybody()["characters"]
    assert [one["file"].startswith("/previews/mara/") for one in card["pictures"]] == [True, True]


def test_what_the_run_before_has_left_is_not_shown_of_this_one(ahead):
    """A caption was changed, and the whole character is trained again: the old files lie there until it has ended."""
    made, before = results("mara", ahead), time.time() - 3600
    for step in (50, 100, 150, 200):
        left = [made.checkpoint(step), made.scores(step), made.sample(step, "01"), made.sample(step, "02")]
        left[0].write_bytes(b"of the run before")
        left[1].write_text(json.dumps({"rows": [{"prompt": "01", "metric": "identity", "value": 0.9}]}))
        left[2].parent.mkdir(exist_ok=True)
        for path in left[2:]:
            small_project.picture(path, (64, 64))
        for path in left:
            os.utime(path, (before, before))
    verdicts = [{"step": 100, "verdict": "overfit"}]
    made.validation.write_text(
        json.dumps({"step": 200, "how": "rule", "why": ["It is the latest."], "verdicts": verdicts})
    )
    os.utime(made.validation, (before, before))
    progress(ahead, steps=200, step=160, first=0, saved=150, started=before + 60)
    state = Watcher(ahead).character("mara")
    assert (state["chosen"], state["why"], {one["verdict"] for one in state["checkpoints"]}) == (None, [], {""})
    assert [one["there"] for one in state["checkpoints"]] == [True, True, True, False]
    shown = {one["step"]: [picture["file"][:15] for picture in one["pictures"]] for one in state["previews"]}
    assert shown == {150: ["/previews/mara/"] * 2, 100: ["/previews/mara/"] * 2}
    assert state["scores"] == {"identity": [(50, 0.9)]}  # whose checkpoint is no newer: that it is old is not known
    progress(ahead, steps=200, step=200, first=0, saved=200, started=before + 60, state="finished")
    made.sample(75, "01").parent.mkdir()  # of a run that saved at other steps
    small_project.picture(made.sample(75, "01"), (64, 64))
    state = Watcher(ahead).character("mara")
    assert [one["step"] for one in state["previews"]] == [200, 150, 100, 50]
    assert state["chosen"] == 200


def test_a_lock_file_that_is_being_written_costs_the_store_alone(ahead):
    (ahead / "work/bases/mini.lock.json").write_text('{"name": "mini"}')
    state = Watcher(ahead).character("mara")
    assert [one["step"] for one in state["previews"]] == [50]


def test_prompts_are_shown_with_their_texts(project):
    assert Watcher(project).character("mara")["prompts"]["01"].startswith("a medium shot photo of m4ra, laughing")
