"""The report of a character."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from charloom.core.errors import UserError
from charloom.judge import choice
from charloom.report import charts, comparison, curves, palette, snippets
from charloom.report.gather import Material, TrainingImage, gather
from charloom.report.page import page


class Tags(HTMLParser):
    """Checks that elements close in order, and collects links out of the page."""

    VOID = {"meta", "link", "img", "input", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and self.leads_out(k, v)]

    def leads_out(self, key: str, value: str) -> bool:
        """Whether it is anything but an embedded picture, or a link to a part of the page or a file beside it."""
        if value.startswith(("data:", "#")):
            return False
        return key == "src" or bool(re.match(r"[a-z]+:|/|\.\.", value, re.IGNORECASE))

    def handle_startendtag(self, tag, attrs):
        pass  # <line .../>: opened and closed at once

    def handle_endtag(self, tag):
        while self.open and self.open[-1] != tag and self.open[-1] in ("p", "li", "td", "tr"):
            self.open.pop()
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


def test_an_adapter_that_has_not_moved_is_reported_first(results: Path, settings: dict) -> None:
    path = results / "training" / "metrics.jsonl"
    chosen = json.loads((results / "validation.json").read_text())["step"]
    for step, said in ((chosen - 1, False), (chosen, True)):
        line = json.dumps({"step": step, "adapter": {"of_adamw": 0.001, "problem": "it has not <moved>"}})
        path.write_text(f"{line}\n")
        assert ("it has not &lt;moved&gt;" in page(gather(results, settings))) == said


def test_the_curve_ends_with_the_last_step_of_the_recipe(results: Path, settings: dict) -> None:
    assert max(step for step, _ in gather(results, settings).loss) == 100
    settings["recipe_settings"]["train"]["steps"] = 50  # lowered since
    assert max(step for step, _ in gather(results, settings).loss) == 50


def test_page_is_whole_and_self_contained(results, settings):
    text = page(gather(results, settings))
    tags = Tags()
    tags.feed(text)
    assert tags.outside == []
    assert tags.open == ["html"] or tags.open == []
    assert len(text.encode()) < 15e6
    for wanted in ("Why step 100", "n1ka", "resources/bases/paperdoll", "LoraLoaderModelOnly", "Training loss",
                   "Loss on held-out images",
                   "1 min 02 s", "c0ffee", "train.ema", "prefers-color-scheme: dark", "outfit: asked for gown",
                   "too few &lt;profiles&gt;", "step 100 of 100"):  # fmt: skip
        assert wanted in text, wanted
    assert text.count("data:image/webp") == 1 + 3 + 4


@pytest.mark.parametrize(
    ("shapes", "known"),
    [
        ({"attention.to_q.lora_A.weight": [16, 3840]}, True),
        ({"attention.to_q.lora_A.weight": [16, 192]}, False),
        ({"feed_forward.w1.lora_A.weight": [16, 192]}, False),
        ({"attention.to_k.lokr_w1": [8, 12], "attention.to_k.lokr_w2_a": [24, 4], "attention.to_k.lokr_w2_b": [4, 16]},
         False),
        ({"attention.to_k.lokr_w1": [8, 60], "attention.to_k.lokr_w2": [24, 64]}, True),
        ({}, True),
    ],
)  # fmt: skip
def test_comfyui_is_only_named_for_bases_that_it_knows(results, settings, shapes, known):
    tensors = {f"diffusion_model.layers.0.{name}": np.zeros(shape, "float16") for name, shape in shapes.items()}
    save_file(tensors, results / "checkpoints/step-000100.safetensors")
    text = page(gather(results, settings))
    assert ("LoraLoaderModelOnly" in text) == known and "ZImagePipeline" in text
    assert ("it does not fit Z-Image-Turbo" in text) != known


def test_the_snippet_asks_for_the_character(results, settings):
    """The first prompt has no trigger and no identity; it is there for comparison."""
    settings["prompts"][0]["text"] = "a photo of a dog"
    path = results / "scores/step-000100.json"
    document = json.loads(path.read_text())
    document["rows"] = [r for r in document["rows"] if (r["prompt"], r["metric"]) != ("01", "identity_relative")]
    path.write_text(json.dumps(document))
    text = page(gather(results, settings))
    assert unescape(re.search(r"<h3>diffusers</h3><pre>(.*?)</pre>", text, re.S)[1]).count("n1ka,") == 1
    found = re.findall(r'<span class="scores">(.*?)</span>', text)
    found = [text.replace("\N{NO-BREAK SPACE}", " ") for text in found]
    assert found == [f"{own}prompt 0.90" for own in ("identity 0.50 · ", "", "identity 0.50 · ", "identity 0.95 · ")]


def test_the_command_draws_what_the_page_shows(results, settings):
    text = page(gather(results, settings))
    command = unescape(re.search(r"<h3>charloom</h3><pre>(.*?)</pre>", text, re.S)[1])
    program, verb, who, prompt, *options = shlex.split(command)
    assert [program, verb, who] == ["charloom", "draw", "nika"] and options == ["--count", "4"]
    assert prompt == settings["prompts"][0]["text"] and "LoRA, rank" in text
    assert snippets.command("nika", "n1ka", 0.8).endswith(" n1ka --count 4 --strength 0.8")


def test_a_checkpoint_chosen_by_hand_is_named_where_strengths_were_tried(results, settings):
    for step, said in ((100, False), (50, True)):
        (results / "strengths.json").write_text(json.dumps({"step": step, "recommended": 0.9, "why": ["It is best."]}))
        text = page(gather(results, settings))
        assert ("Of step 50, which ships" in text) == ("<dd>step 50, your choice</dd>" in text) == said


def test_what_did_not_fail_of_a_style_is_said_of_a_style(results, settings):
    path = results / "scores/step-000100.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "misses": {}}))
    for kind, words in (("style", "is drawn in the style"), ("character", "shows the character and what its prompt")):
        assert f"Nothing that was scored: every preview {words}" in page(gather(results, settings | {"kind": kind}))


def test_every_file_that_is_made_beside_the_page_is_listed(results, settings):
    """Those that are made after it too."""
    text = page(gather(results, settings))
    assert {"final.safetensors", "comparison.png"} <= set(re.findall(r'<li><a href="([^"]+)"', text))
    assert not (results / "comparison.png").exists()


def test_the_snippet_is_python(results, settings):
    text = page(gather(results, settings))
    code = unescape(re.search(r"<h3>diffusers</h3><pre>(.*?)</pre>", text, re.S)[1])
    compile(code, "snippet", "exec")
    assert '"results/nika/final.safetensors"' in code and "n1ka" in code and "guidance_scale=0" in code


def poisoned(value):
    """The value with markup at the end of every string in it."""
    if isinstance(value, dict):
        return {key: poisoned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner) for inner in value]
    return f"{value}<x-y z='1' q=\"2\">&" if isinstance(value, str) else value


def test_every_word_from_outside_is_escaped(results, settings):
    clean = page(gather(results, settings))
    for path in (results / "validation.json", results / "lint.json"):
        path.write_text(json.dumps(poisoned(json.loads(path.read_text()) | {"warnings": ["a"], "advice": ["b"]})))
    for path in (results / "scores").iterdir():
        document = json.loads(path.read_text())
        words = {key: document[key] for key in ("misses", "backend", "weights")}
        path.write_text(json.dumps(document | poisoned(words)))
    for path in (results / "dataset").glob("*.txt"):
        path.write_text(poisoned(path.read_text()))
    tensors, metadata = {"x": np.zeros(1, "float32")}, {"title": "t", "charloom.provenance": '{"base":"<x-y>"}'}
    save_file(tensors, results / "checkpoints/step-000100.safetensors", poisoned(metadata) | {"json": "<x-y>"})
    names = {key: settings[key] for key in ("character", "shots", "prompts")}
    names["prompts"] = [{**prompt, "text": poisoned(prompt["text"])} for prompt in settings["prompts"]]
    text = page(gather(results, poisoned(settings | {"notices": ["n"]}) | names))
    assert "<x-y" not in text and text.count("&lt;x-y") > 40
    for quote in "\"'":  # no raw quote could end an attribute
        assert f"z={quote}1" not in text and f"q={quote}2" not in text
    tags = Tags()
    tags.feed(text)
    assert tags.outside == [] and text.count("<script>") == clean.count("<script>") == 1


def test_page_with_next_to_nothing(tmp_path, settings):
    root = tmp_path / "results" / "nika"
    root.mkdir(parents=True)
    (root / "validation.json").write_text(json.dumps(choice.choose([], [50])))
    text = page(gather(root, {**settings, "shots": [], "steps": []}))
    assert (
        "None were drawn" in text
        and "What was not scored" not in text
        and "Why step 50" in text
        and "Training loss" not in text
    )
    assert comparison.grid(gather(root, {**settings, "steps": []})).size == (256, 256)


def test_a_missing_choice_is_reported_in_one_line(tmp_path, settings):
    with pytest.raises(UserError, match="validation.json: cannot be read"):
        gather(tmp_path, settings)


def test_material(results, settings):
    material = gather(results, settings)
    assert [image.tier for image in material.images] == ["close-up", "medium", "full-body"]
    assert material.loss[0] == (1, 1.0) and len(material.loss) == 100 == len(material.smoothed)
    (cost,) = material.costs
    assert (cost.rule, cost.jobs, round(cost.seconds, 1), cost.memory) == ("train_segment", 2, 61.9, 1500.5)
    assert material.header["ss_steps"] == "100" and material.file_bytes > 5000


@pytest.mark.parametrize("content", [b"\xff" * 30, b"", None])
def test_a_broken_checkpoint_has_no_header(results, settings, content):
    path = results / "checkpoints/step-000100.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    material = gather(results, settings)
    assert (material.header, material.width) == ({}, None)
    assert "Why step 100" in page(material)


@pytest.mark.parametrize("content", ["", "s\th:m:s\tmax_rss\n", "nothing\n1\n", "s\tmax_rss\n1\t2\t3\t4\n5\t6\t7\n"])
def test_a_broken_benchmark_file_costs_only_itself(results, settings, content):
    (results / "benchmarks/lint_dataset.tsv").write_text(content)
    costs = {cost.rule: cost for cost in gather(results, settings).costs}
    assert costs["train_segment"].jobs == 2 and costs["train_segment"].memory == 1500.5
    page(gather(results, settings))


def test_images_are_grouped_by_the_tier_in_the_character_file(results, settings):
    """Whatever their captions and names say; without tiers there are no headings."""
    for shot in settings["shots"]:
        (results / "dataset" / f"{shot['name']}.txt").write_text("my close-up of n1ka")
    headings = re.compile(r'<h3 class="tier">(.*?) <span>(\d+)</span></h3>')
    assert headings.findall(page(gather(results, settings))) == [
        ("Close-ups", "1"),
        ("Medium shots", "1"),
        ("Full body", "1"),
    ]
    settings["shots"] = [{**shot, "tier": ""} for shot in settings["shots"]]
    text = page(gather(results, settings))
    assert headings.findall(text) == [] and text.count("<figure>") == 3


def test_every_colour_is_defined_for_light_and_dark(results, settings):
    text = page(gather(results, settings))
    assert palette.LIGHT.keys() == palette.DARK.keys()
    assert set(re.findall(r"var\(--([\w-]+)\)", text)) - {"n", "at"} <= palette.LIGHT.keys()


def test_the_same_results_give_the_same_files(results, settings, tmp_path):
    for folder in ("a", "b"):
        material = gather(results, settings)
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "page.html").write_text(page(material))
        charts.save_png(curves.scores(material) + curves.loss(material), tmp_path / folder / "all.png", "")
    names = [path.name for path in sorted((tmp_path / "a").iterdir())]
    assert names == ["all.png", "page.html"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(("number", "shown"), [(240, 240), (241, 121), (10_000, 239)])
def test_of_a_large_data_set_some_pictures_of_everywhere_are_shown(number: int, shown: int) -> None:
    images = [TrainingImage(f"i-{index}", "", f"caption {index}.", Path("none.png")) for index in range(number)]
    text = page(Material("mara", "Mara", "m4ra", "mini", {"step": 1}, images=images))
    assert len(set(re.findall(r"caption (\d+)\.", text))) == shown
    assert (f"{number} pictures with their captions; {shown} of them are shown." in text) is (shown < number)


@pytest.mark.parametrize(
    ("spoken_of", "words"),
    [
        ({}, "a medium shot photo of {trigger}, smiling, city street"),
        ({"class": "creature", "look": "drawn", "noun": "fox"}, "a medium shot drawing of {trigger}, city street"),
        ({"class": "style", "look": "painted"}, "a medium shot of a city street, in {trigger} style"),
    ],
)
def test_python_to_copy_speaks_of_the_class(spoken_of: dict[str, str], words: str) -> None:
    text = page(Material("mara", "Mara", "m4ra", "mini", {"step": 1}, spoken_of=spoken_of))
    assert words in unescape(text)
