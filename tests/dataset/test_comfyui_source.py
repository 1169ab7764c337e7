"""Pictures from a ComfyUI next door: the workflow that is shipped, workflows of the user's, and servers in trouble."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_generators import ComfyUI, Fake, encoded, of_prompt, png, running
from PIL import Image

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset.sources import comfyui
from charloom.dataset.sources.orders import KIND, Order
from charloom.dataset.sources.purchases import Purchases
from charloom.dataset.sources.session import Session
from charloom.deliver import server as client

TEMPLATE = "image_flux2_klein_image_edit_4b_distilled.json"
OURS = "flux2-klein-4b"


@functools.cache
def nodes() -> list[dict[str, Any]]:
    """Every node of ComfyUI's own templates for FLUX.2, those of subgraphs included."""
    found = []
    for file in importlib.metadata.distribution("comfyui-workflow-templates-json").files or ():
        if file.suffix == ".json" and file.name.startswith("image_flux2"):
            workflow = json.loads(Path(str(file.locate())).read_text(encoding="utf-8"))
            parts = [workflow, *workflow.get("definitions", {}).get("subgraphs", ())]
            found += [{**node, "file": file.name} for part in parts for node in part["nodes"]]
    assert any(node["file"] == TEMPLATE for node in found)
    return found


def shipped() -> dict[str, Any]:
    return comfyui._workflow(OURS)


def test_every_node_of_the_shipped_workflow_is_one_of_comfyui_s_template() -> None:
    for number, node in shipped().items():
        theirs = [one for one in nodes() if one["type"] == node["class_type"]]
        assert any(one["file"] == TEMPLATE for one in theirs), node["class_type"]
        for one in theirs:
            wired = {slot["name"] for slot in one["inputs"] if "widget" not in slot}
            named = {slot["widget"]["name"] for slot in one["inputs"] if "widget" in slot}
            ours = {name for name, value in node["inputs"].items() if isinstance(value, list)}
            assert ours == wired, (number, node["class_type"])
            assert named <= set(node["inputs"]) | {"upload", "control_after_generate"}, node["class_type"]
            # As many widgets as the template has values, but for those that only the window has.
            values = [v for v in one.get("widgets_values") or () if v not in ("image", "randomize", "fixed")]
            assert len(values) <= len(node["inputs"]) - len(ours), node["class_type"]


def test_its_files_and_settings_are_those_of_the_template() -> None:
    by_kind = {node["class_type"]: node["inputs"] for node in shipped().values()}
    theirs = {node["type"]: node.get("widgets_values") for node in nodes() if node["file"] == TEMPLATE}
    assert by_kind["UNETLoader"]["unet_name"] == theirs["UNETLoader"][0]
    assert [by_kind["CLIPLoader"][k] for k in ("clip_name", "type", "device")] == theirs["CLIPLoader"]
    assert by_kind["VAELoader"]["vae_name"] == theirs["VAELoader"][0]
    assert [by_kind["Flux2Scheduler"][k] for k in ("steps", "width", "height")] == theirs["Flux2Scheduler"]
    assert by_kind["CFGGuider"]["cfg"] == theirs["CFGGuider"][0]
    assert by_kind["KSamplerSelect"]["sampler_name"] == theirs["KSamplerSelect"][0]


def test_its_links_join_outputs_and_inputs_of_one_type() -> None:
    workflow = shipped()
    kinds = {node["type"]: node for node in nodes()}
    for node in workflow.values():
        slots = {slot["name"]: slot["type"] for slot in kinds[node["class_type"]]["inputs"]}
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source, output = value
                assert kinds[workflow[source]["class_type"]]["outputs"][output]["type"] == slots[name]
    used = {value[0] for node in workflow.values() for value in node["inputs"].values() if isinstance(value, list)}
    assert set(workflow) - used == {number for number, n in workflow.items() if n["class_type"] == "SaveImage"}


def test_places_are_filled_by_what_stands_in_them() -> None:
    prompt = 'a "photo" of {seed} and {reference}\nwith \\ and €'
    filled = comfyui.fill(shipped(), prompt, "a.png", 7)
    by_kind = {node["class_type"]: node["inputs"] for node in filled.values()}
    # A prompt is never searched for places itself.
    assert by_kind["CLIPTextEncode"]["text"] == prompt and by_kind["LoadImage"]["image"] == "a.png"
    assert by_kind["RandomNoise"]["noise_seed"] == 7
    other = {"1": {"class_type": "X", "inputs": {"text": "photo, {prompt}, sharp", "list": ["{seed}"], "n": 3}}}
    assert comfyui.fill(other, "her", "a", 5)["1"]["inputs"] == {"text": "photo, her, sharp", "list": [5], "n": 3}
    assert comfyui.PLACES[0] in shipped()["7"]["inputs"]["text"]  # the workflow itself is as it was


WRONG = {
    "missing.json": (None, "there is no such workflow"),
    "word": (None, "there is no word; write flux2-klein-4b, or a file"),
    "window.json": ('{"nodes": []}', "is a workflow for the window"),
    "broken.json": ("{", "is not readable as JSON"),
    "without.json": ('{"1": {"class_type": "X", "inputs": {"a": "{prompt}"}}}', "has no {reference} and no {seed}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_workflow_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, words = WRONG[name]
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(UserError) as caught:
        comfyui.open({"workflow": name, "server": "http://127.0.0.1:1", "timeout": 1.0})
    assert words in str(caught.value) and "\n" not in str(caught.value)


class Studio:
    """A session with a ComfyUI."""

    def __init__(self, folder: Path, fake: Fake) -> None:
        self.store, self.file = Store(folder / "store"), folder / "purchases.jsonl"
        self.reference = folder / "reference.png"
        self.reference.write_bytes(png(999))
        self.how = {"server": fake.url, "workflow": OURS, "timeout": 0.3}
        self.said: list[str] = []

    def order(self, number: int, attempt: int = 0) -> Order:
        settings = {"source": "comfyui", "workflow": "d", "seed": 42, "prompt": f"picture {number}"}
        return Order(f"shot-{number:02d}", settings, attempt, self.reference, file_digest(self.reference))

    def get(self, *orders: Order) -> dict[str, str]:
        session = Session(
            self.store,
            Purchases(self.file),
            self.said.append,
            lambda: comfyui.open(self.how),
            pause=lambda seconds: None,
        )
        return session.get(orders)

    def kept(self, order: Order) -> bytes:
        return self.store.path(KIND, order.key, ".png").read_bytes()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(client, "POLL", 0.01)
    monkeypatch.setattr(ComfyUI, "uploads", {})
    with running(ComfyUI, Fake()) as one:
        yield one


@pytest.fixture
def studio(tmp_path: Path, fake: Fake) -> Studio:
    return Studio(tmp_path, fake)


def test_reference_prompt_and_seed_arrive_and_the_picture_is_kept(studio: Studio, fake: Fake) -> None:
    first, again, other = studio.order(1), studio.order(1, attempt=1), studio.order(2)
    assert studio.get(first, again, other) == {}
    assert [one.prompt for one in fake.asked] == ["picture 1", "picture 1", "picture 2"]
    assert all(one.pictures == [png(999)] for one in fake.asked)
    seeds = [node["inputs"]["noise_seed"] for one in fake.asked for node in one.body.values()
             if node["class_type"] == "RandomNoise"]  # fmt: skip
    assert seeds == [first.seed, again.seed, other.seed] and len(set(seeds)) == 3
    assert studio.kept(first) == of_prompt("picture 1", 0) and studio.kept(again) == of_prompt("picture 1", 1)


TROUBLE: dict[str, Any] = {
    "busy": 503,
    "429": 429,
    "text": b"<html>",
    "truncated": png(3)[:-300],
    "blank": encoded(Image.new("RGB", (64, 64))),
}


@pytest.mark.parametrize("mood", TROUBLE)
def test_what_may_pass_is_asked_for_again(studio: Studio, fake: Fake, mood: str) -> None:
    fake.moods = [TROUBLE[mood]]
    order = studio.order(1)
    assert studio.get(order) == {} and len(fake.asked) == 2
    assert studio.kept(order) == of_prompt("picture 1", 1)


def test_a_server_that_stalls(studio: Studio, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.45)
    fake.moods = ["stalls"]
    assert studio.get(studio.order(1)) == {} and len(fake.asked) >= 2


STOPS = {
    "refused": "has no flux-2-klein-4b-fp8.safetensors; put it into ComfyUI/models/diffusion_models",
    "fails": "the workflow failed",
    "slow": "is not done after 0.3 s",
}


@pytest.mark.parametrize("mood", STOPS)
def test_what_will_not_pass_ends_the_run(studio: Studio, fake: Fake, mood: str) -> None:
    fake.moods = ["well", mood]
    with pytest.raises(UserError) as caught:
        studio.get(studio.order(1), studio.order(2), studio.order(3))
    assert STOPS[mood] in str(caught.value) and len(fake.asked) == 2
    assert studio.kept(studio.order(1))
    if mood == "slow":
        assert "images.comfyui.timeout" in str(caught.value)


def test_a_server_that_is_not_there_is_named_by_its_setting(studio: Studio) -> None:
    studio.how["server"] = "http://127.0.0.1:9"
    with pytest.raises(UserError, match=r"correct images\.comfyui\.server"):
        studio.get(studio.order(1))
    studio.how["server"] = "ftp://x"
    with pytest.raises(UserError, match=r"^images\.comfyui\.server ftp://x: is not an address"):
        studio.get(studio.order(1))
