"""ComfyUI workflows are what ComfyUI's own templates are made of: node by node, widget by widget, link by link."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charloom.base import locks
from charloom.config import project
from charloom.deliver import comfyui
from charloom.deliver.graph import KINDS, WINDOW_ONLY
from charloom.workflow import delivery
from charloom.zimage import flow

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "image_z_image_turbo.json"
NOTE = "MarkdownNote"


@functools.cache
def templates() -> dict[str, dict[str, Any]]:
    """ComfyUI's templates with a node that ours have, by file name."""
    found = {}
    for file in importlib.metadata.distribution("comfyui-workflow-templates-json").files or ():
        # The Z-Image ones, and one with a LoRA: parsing all of them takes a second that nobody needs.
        if (
            file.suffix == ".json"
            and file.parent.name == "templates"
            and file.name.startswith(("image_z_image", "image-qwen"))
        ):
            found[file.name] = json.loads(Path(str(file.locate())).read_text(encoding="utf-8"))
    assert TEMPLATE in found
    return found


def nodes_of(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All nodes, those of subgraphs included."""
    yield from workflow["nodes"]
    for part in workflow.get("definitions", {}).get("subgraphs", ()):
        yield from part["nodes"]


@functools.cache
def theirs(kind: str) -> list[dict[str, Any]]:
    """Nodes of a type in ComfyUI's templates; the Turbo template's alone if it has one."""
    turbo = [node for node in nodes_of(templates()[TEMPLATE]) if node["type"] == kind]
    return turbo or [node for one in templates().values() for node in nodes_of(one) if node["type"] == kind]


def about(character: str = "leyla", base: str = "z-image-turbo", **changes: Any) -> dict[str, Any]:
    workflow = project.load(ROOT, overrides={"base": base})
    slice_ = json.loads(delivery.comfyui(workflow.characters[character], workflow.bases[base]))
    return {"shift": locks.SHIFT, **slice_, **changes}


@pytest.fixture(params=comfyui.WORKFLOWS)
def graph(request: pytest.FixtureRequest) -> Any:
    return comfyui.workflow(request.param, about())


def test_every_node_is_one_of_comfyui(graph: Any) -> None:
    for node in graph.as_ui()["nodes"]:
        for known in theirs(node["type"]):
            plain = [(i["name"], i["type"]) for i in known["inputs"] if "widget" not in i]
            assert [(i["name"], i["type"]) for i in node["inputs"]] == plain, node["type"]
            if node["type"] != "SaveImage":  # newer versions give it an output, which older ones lack
                assert [(o["name"], o["type"]) for o in node["outputs"]] == [
                    (o["name"], o["type"]) for o in known["outputs"]
                ]
        assert theirs(node["type"]), f"{node['type']} is in none of ComfyUI's templates"


def test_widgets_stand_in_comfyui_s_order(graph: Any) -> None:
    for node in graph.as_ui()["nodes"]:
        names, values = KINDS[node["type"]].widgets, node["widgets_values"]
        for known in theirs(node["type"]):
            wanted = known["widgets_values"] or []
            assert [type(v) if not isinstance(v, int | float) else float for v in values] == [
                type(v) if not isinstance(v, int | float) else float for v in wanted
            ], node["type"]
            # Of the inputs that a template has made of widgets it gives the names, in their order.
            told = [i["widget"]["name"] for i in known["inputs"] if "widget" in i]
            places = [names.index(name) for name in told if name in names]
            assert set(told) <= set(names) and places == sorted(places), node["type"]
    order = KINDS["KSampler"].widgets
    assert order[:3] == ("seed", "control_after_generate", "steps")
    assert (
        dict(zip(order, theirs("KSampler")[0]["widgets_values"], strict=True))["control_after_generate"] == "randomize"
    )


def test_links_join_outputs_and_inputs_of_one_type(graph: Any) -> None:
    ui = graph.as_ui()
    nodes = {node["id"]: node for node in ui["nodes"]}
    assert len(nodes) == ui["last_node_id"] and len(ui["links"]) == ui["last_link_id"]
    seen = set()
    for number, source, output, target, slot, kind in ui["links"]:
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][slot]["type"] == kind
        assert number in nodes[source]["outputs"][output]["links"] and nodes[target]["inputs"][slot]["link"] == number
        assert nodes[source]["order"] < nodes[target]["order"]
        seen.add(number)
    assert {i["link"] for node in ui["nodes"] for i in node["inputs"]} == seen
    assert all(output["links"] for node in ui["nodes"] for output in node["outputs"])


def test_both_formats_say_the_same(graph: Any) -> None:
    ui, api = graph.as_ui(), graph.as_api()
    shown = {str(node["id"]): node for node in ui["nodes"] if node["type"] != NOTE}
    assert set(api) == set(shown)
    links = {link[0]: link for link in ui["links"]}
    for number, node in api.items():
        kind = KINDS[node["class_type"]]
        assert node["class_type"] == shown[number]["type"]
        widgets = dict(zip(kind.widgets, shown[number]["widgets_values"], strict=True))
        wired = {i["name"]: [str(links[i["link"]][1]), links[i["link"]][2]] for i in shown[number]["inputs"]}
        assert node["inputs"] == {k: v for k, v in widgets.items() if k not in WINDOW_ONLY} | wired


def test_model_files_and_folders_are_those_of_the_template() -> None:
    ours = {node["type"]: node for node in comfyui.workflow("portrait", about()).as_ui()["nodes"]}
    for kind in ("UNETLoader", "CLIPLoader", "VAELoader"):
        assert ours[kind]["widgets_values"] == theirs(kind)[0]["widgets_values"]
        assert ours[kind]["properties"]["models"] == theirs(kind)[0]["properties"]["models"]
    assert ours["CLIPLoader"]["widgets_values"][1] == "lumina2"


def values(name: str, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    """Inputs of the API format by node type."""
    out: dict[str, list[dict[str, Any]]] = {}
    for node in comfyui.workflow(name, about(**changes)).as_api().values():
        out.setdefault(node["class_type"], []).append(node["inputs"])
    return out


def test_each_workflow_draws_what_it_promises() -> None:
    sizes = {"portrait": (1024, 1024, 8), "scenes": (1920, 1088, 36), "character-and-style": (1920, 1088, 36)}
    for name, (width, height, steps) in sizes.items():
        found = values(name)
        (sampler,), (latent,), (text,) = found["KSampler"], found["EmptySD3LatentImage"], found["CLIPTextEncode"]
        assert (latent["width"], latent["height"], sampler["steps"]) == (width, height, steps)
        assert (sampler["cfg"], sampler["sampler_name"], sampler["scheduler"]) == (1.0, "euler", "simple")
        assert "l3yla" in text["text"] and found["ModelSamplingAuraFlow"][0]["shift"] == locks.SHIFT == flow.SHIFT
        assert found["LoraLoaderModelOnly"][0]["lora_name"] == "leyla.safetensors"
        note = next(n for n in comfyui.workflow(name, about()).as_ui()["nodes"] if n["type"] == NOTE)
        assert "res_multistep" in note["widgets_values"][0]


def test_the_character_comes_first_and_the_style_on_top() -> None:
    api = comfyui.workflow("character-and-style", about()).as_api()
    loras = {number: node["inputs"] for number, node in api.items() if node["class_type"] == "LoraLoaderModelOnly"}
    (character,), (style,) = (
        [n for n, i in loras.items() if i["lora_name"] == f"{s}.safetensors"] for s in ("leyla", "style")
    )
    assert loras[style]["model"] == [character, 0] and api[loras[character]["model"][0]]["class_type"] == "UNETLoader"
    assert (loras[character]["strength_model"], loras[style]["strength_model"]) == (1.0, comfyui.STYLE_STRENGTH)


def test_guidance_needs_a_negative_prompt() -> None:
    assert "ConditioningZeroOut" in values("portrait") and len(values("portrait", cfg=4.0)["CLIPTextEncode"]) == 2


def test_the_miniature_is_named_in_the_note() -> None:
    note = comfyui.workflow("portrait", about(base="paperdoll")).as_ui()["nodes"][-1]["widgets_values"][0]
    assert "miniature" in note


def test_no_node_hides_another(graph: Any) -> None:
    boxes = [(x, y - 30, x + w, y + h) for n in graph.as_ui()["nodes"] for (x, y), (w, h) in [(n["pos"], n["size"])]]
    for index, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:index]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_the_same_character_gives_the_same_bytes(graph: Any) -> None:
    again = comfyui.workflow(graph.name.split("/")[1], about())
    assert json.dumps(graph.as_ui()) == json.dumps(again.as_ui())
