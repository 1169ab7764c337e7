"""`charloom comfy` against a server of its own that speaks the documented protocol, over real HTTP."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import small_project
from cli_helpers import call, said
from fake_comfyui import Fake, png, running
from small_project import run_script

from charloom.config import project
from charloom.deliver import server as client
from charloom.workflow import delivery


@pytest.fixture
def mara(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which Mara's workflows are made."""
    folder = small_project.make(tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(client, "POLL", 0.01)
    workflow = project.load(folder)
    settings = delivery.comfyui(workflow.characters["mara"], workflow.bases["mini"])
    (folder / "lock.json").write_text("{}")
    where = ("--results", "results/mara", "--lock", "lock.json")
    made = run_script("write_comfyui", "--settings", settings, *where, cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder / "results/mara/comfyui"


def test_the_picture_comes_back_and_is_named_by_workflow_and_seed(mara: Path) -> None:
    with running(Fake()) as fake:
        result = call("comfy", "mara", "--server", fake.url)
    assert result.exit_code == 0, said(result)
    assert (mara / "pictures/portrait-42.png").read_bytes() == png()
    (path, body), *rest = fake.asked
    assert path == "/prompt" and body["prompt"] == json.loads((mara / "portrait.api.json").read_text())
    assert body["client_id"]
    # What is only a preview is not fetched, and names are quoted.
    assert rest[-1] == ("/view", {"filename": "mara_1.png", "subfolder": "a b", "type": "output"})
    assert [path for path, _ in rest].count("/view") == 1


def test_prompt_and_seed_go_into_the_workflow(mara: Path) -> None:
    with running(Fake()) as fake:
        wanted = ("--workflow", "scenes", "--prompt", "a photo of {trigger} on a boat", "--seed", "7")
        result = call("comfy", "mara", "--server", fake.url, *wanted)
    assert result.exit_code == 0, said(result)
    nodes = fake.asked[0][1]["prompt"].values()
    assert [n["inputs"]["text"] for n in nodes if n["class_type"] == "CLIPTextEncode"] == ["a photo of m4ra on a boat"]
    assert [n["inputs"]["seed"] for n in nodes if n["class_type"] == "KSampler"] == [7]
    assert (mara / "pictures/scenes-7.png").is_file()


MOODS = {
    "nonsense": "unlike ComfyUI",
    "no http": "does not answer as ComfyUI does",
    "odd": "ComfyUI",
    "fails": "the workflow failed (KSampler: CUDA out of memory",
    "empty": "ended without a picture",
    "lost": "does not send its picture 'mara_1.png' (status 404)",
    "no picture": "bytes that are not a picture, ",
    "slow": "is not done after 0.1 s",
    "stalls": "no answer",
}


@pytest.mark.parametrize("mood", MOODS)
def test_a_server_in_trouble_is_one_line_and_nothing_is_written(
    mara: Path, monkeypatch: pytest.MonkeyPatch, mood: str
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.5)
    timeout = "0.1" if mood == "slow" else "10"
    with running(Fake(mood=mood)) as fake:
        result = call("comfy", "mara", "--server", fake.url, "--timeout", timeout)
    lines = [line for line in said(result).splitlines() if "queued" not in line]
    assert result.exit_code == 1 and len(lines) == 1 and lines[0].startswith(f"error: {fake.url}: "), lines
    assert MOODS[mood] in lines[0]
    assert not list(mara.glob("pictures/*"))


def test_a_server_without_the_lora_says_where_to_put_it(mara: Path) -> None:
    with running(Fake(loras=("other.safetensors",))) as fake:
        result = call("comfy", "mara", "--server", fake.url)
    assert (
        said(result)
        == f"error: {fake.url}: has no mara.safetensors; put it into ComfyUI/models/loras on that machine\n"
    )


def test_another_refusal_names_the_node(mara: Path) -> None:
    path = mara / "own.json"
    workflow = json.loads((mara / "portrait.api.json").read_text())
    next(node for node in workflow.values() if node["class_type"] == "KSampler")["inputs"]["steps"] = 99_999
    path.write_text(json.dumps(workflow))
    with running(Fake()) as fake:
        result = call("comfy", "mara", "--server", fake.url, "--workflow", str(path))
    assert "refuses the workflow at KSampler (node 9): Value bigger than max steps" in said(result)


def test_a_server_that_is_down_or_no_address_is_one_line(mara: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = call("comfy", "mara", "--server", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1 and "cannot be reached" in said(result) and "start ComfyUI" in said(result)
    for wrong in ("file:///etc/passwd", "http://", "http://localhost:port"):
        result = call("comfy", "mara", "--server", wrong)
        assert result.exit_code == 1 and "is not an address" in said(result), said(result)


def test_mistakes_are_told_before_anything_is_sent(mara: Path) -> None:
    (mara / "pictures").mkdir()
    (mara / "pictures/portrait-42.png").write_bytes(b"mine")
    (mara / "odd.json").write_text('{"1": {"class_type": "VAELoader", "inputs": {}}}')
    cases = {
        "exists already": ("mara",),
        "there is no config/characters/nobody.yaml": ("nobody",),
        "has 0 KSampler nodes": ("mara", "--workflow", str(mara / "odd.json")),
        "a workflow for the window": ("mara", "--workflow", str(mara / "portrait.json")),
    }
    with running(Fake()) as fake:
        for words, arguments in cases.items():
            result = call("comfy", *arguments, "--server", fake.url)
            assert result.exit_code == 1 and words in said(result), said(result)
    assert not fake.asked and (mara / "pictures/portrait-42.png").read_bytes() == b"mine"
