"""A project of one character in the middle of its training."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import board_project
import pytest
import small_project

from charloom.config.project import load
from charloom.core import files
from charloom.core.layout import WORK, results
from charloom.core.store import Store
from charloom.workflow import samples, slices, training

CHARACTER = "config/characters/mara.yaml"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Mara after the first of two checkpoints, with its previews and scores."""
    root = small_project.make(tmp_path / "project")
    made = root / "results" / "mara"
    for folder in ("checkpoints", "samples/step-000050", "scores", "training", "logs", "dataset"):
        (made / folder).mkdir(parents=True)
    (made / "checkpoints/step-000050.safetensors").write_bytes(b"x")
    for prompt in ("01", "02"):
        small_project.picture(made / f"samples/step-000050/{prompt}.png", (64, 64))
    rows = [
        {"prompt": prompt, "metric": metric, "value": value}
        for prompt in ("01", "02")
        for metric, value in (("identity", 0.4), ("identity_relative", 0.5), ("obedience", 0.75), ("bleed.outfit", 1.0))
    ]
    document = {"step": 50, "rows": rows, "misses": {"01": ["<b>arms</b>"]}}
    (made / "scores/step-000050.json").write_text(json.dumps(document))
    lines = [json.dumps({"step": n, "loss": 1 / n, "smoothed": 0.5, "rate": 2.0}) for n in range(1, 61)]
    (made / "training/metrics.jsonl").write_text("\n".join(lines) + "\n")
    (made / "logs/train_segment.log").write_text("first\n10 %\r90 %\nlast <i>line</i>\n")
    return root


@pytest.fixture
def ahead(project: Path) -> Path:
    """Mara trained to step 150 of 200 by a trainer that still runs: all but step 50 is in the store alone."""
    small_project.edit(
        project / "config/config.yaml", recipe={**small_project.CONFIG["recipe"], "train": {"steps": 200}}
    )
    made, lock = results("mara", project), {"name": "mini", "components": {"transformer": {}, "vae": {}}}
    workflow = load(project)
    character, store = workflow.characters["mara"], Store(project / workflow.store)
    record = project / WORK.prepared(slices.prepared_name(character), ".json")
    files.write_json(project / WORK.lock("mini"), lock)
    files.write_json(record, {"digest": "0" * 64})
    files.write_json(made.manifest, {"items": []})
    for prompt in character.prompt_names:
        files.write_text(made.prompt_embedding(prompt), prompt)
    told = {"state": "running", "step": 160, "steps": 200, "first": 0, "saved": 150, "started": 1.0, "pid": os.getpid()}
    files.write_json(made.progress, told | {"updated": time.time()})
    slice_ = json.loads(slices.train(character))
    settings = training.settings_of(slice_, every=50, last=200)
    run = training.key(settings, slice_, made.manifest, files.read_json(record))
    previews = samples.Previews(made.root, lock, store)
    for step in (100, 150):
        with store.put(training.KIND, training.entry(run, step), ".safetensors") as path:
            path.write_bytes(b"%d" % step)
        checkpoint = store.path(training.KIND, training.entry(run, step), ".safetensors")
        for number, one in enumerate(previews.of(step, slices.samples(character), checkpoint)):
            with store.put(samples.KIND, one.key, ".png") as path:
                small_project.picture(path.with_suffix(".png"), (128, 128), seed=step + number).replace(path)
    return project


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set to work on, in the current folder."""
    return board_project.make(tmp_path / "project", monkeypatch)


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Serves a project; gives its address."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra [watch]")
    from charloom.watch import serve
    from charloom.watch.app import Server

    running = []

    def start(root: Path) -> str:
        listener = serve.bound(None)
        server = Server(root, listener.getsockname()[1], pause=0.05)
        config = uvicorn.Config(server.app(), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        one = uvicorn.Server(config)
        thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((one, thread))
        return f"http://127.0.0.1:{server.port}"

    yield start
    for one, thread in running:
        one.should_exit = True
        thread.join(10)
        assert not thread.is_alive()  # Ctrl+C ends it, though a page is open
