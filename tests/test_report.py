"""Grids, charts, and the page about a character."""

from __future__ import annotations

import json
import re
import struct
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from charloom.core.errors import UserError
from charloom.judge import choice
from charloom.report import charts, grid, pictures, scores
from charloom.report import page as html
from charloom.report.gather import gather, header, tier

PROMPT = "a full body photo of n1ka, a woman with short red hair, dancing, wearing a <red> gown & scarf"


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


class Tags(HTMLParser):
    """Checks that elements close in order, and collects links out of the page."""

    VOID = {"meta", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]

    def handle_startendtag(self, tag, attrs):
        pass  # <line .../>: opened and closed at once

    def handle_endtag(self, tag):
        while self.open and self.open[-1] != tag and self.open[-1] in ("p", "li", "td", "tr"):
            self.open.pop()
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


@pytest.fixture
def results(tmp_path) -> Path:
    """A small but complete results folder of a character with markup in its words."""
    root = tmp_path / "results" / "nika"
    for folder in ("dataset", "scores", "checkpoints", "training", "benchmarks/train_segment"):
        (root / folder).mkdir(parents=True)
    picture(1).save(root / "reference.png")
    for i, name in enumerate(("closeup-01", "medium-01", "fullbody-01")):
        picture(i).save(root / "dataset" / f"{name}.png")
        shot = {"c": "a close-up portrait", "m": "a medium shot", "f": "a full body"}[name[0]]
        (root / "dataset" / f"{name}.txt").write_text(f"{shot} photo of n1ka, a woman with red hair, smiling <b>\n")
    rows = []
    for step, identity in ((50, 0.5), (100, 0.95)):
        (root / "samples" / f"step-{step:06d}").mkdir(parents=True)
        document = {
            "character": "nika",
            "step": step,
            "backend": "paperdoll",
            "weights": "ab12",
            "misses": {},
            "rows": [],
        }
        for prompt in ("01", "02"):
            picture(step).save(root / "samples" / f"step-{step:06d}" / f"{prompt}.png")
            values = {"identity_relative": identity, "obedience": 0.9, "bleed": 0.0, "detail": 1.0, "contrast": 0.2}
            for metric, value in values.items():
                key = {"prompt": prompt, "seed": 42, "strength": 1.0}
                document["rows"].append({**key, "metric": metric, "value": value})
                rows.append({**document["rows"][-1], "step": step})
        document["misses"]["01"] = ["outfit: asked for gown, got hoodie"]
        (root / "scores" / f"step-{step:06d}.json").write_text(json.dumps(document))
        text = json.dumps({"__metadata__": {"charloom.provenance": '{"base_digest":"c0ffee"}', "ss_steps": str(step)}})
        head = text.encode()
        (root / "checkpoints" / f"step-{step:06d}.safetensors").write_bytes(
            struct.pack("<Q", len(head)) + head + bytes(5000)
        )
    (root / "validation.json").write_text(json.dumps(choice.choose(rows, [50, 100])))
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 101)]
    lines.insert(50, json.dumps({"step": 50, "holdout": {"on 0.50": 0.3, "off 0.50": 0.5}}))
    (root / "training" / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 101, "lo')
    finding = {"level": "warning", "where": "plan", "what": "too few <profiles>"}
    (root / "lint.json").write_text(json.dumps({"errors": 0, "warnings": 1, "findings": [finding]}))
    (root / "benchmarks" / "train_segment" / "000050.tsv").write_text("s\th:m:s\tmax_rss\n61.5\t0:01:01\t1500.5\n")
    (root / "benchmarks" / "train_segment" / "000100.tsv").write_text("s\th:m:s\tmax_rss\n0.4\t0:00:00\tNA\n")
    return root


@pytest.fixture
def settings() -> dict:
    return {
        "character": "nika",
        "name": "Nika <script>",
        "trigger": "n1ka",
        "base": "paperdoll",
        "base_source": "resources/bases/paperdoll",
        "concept": 'A "quoted" concept & more',
        "shots": ["closeup-01", "medium-01", "fullbody-01"],
        "prompts": [{"name": name, "text": PROMPT, "seed": 42, "scale": 1.0} for name in ("01", "02")],
        "steps": [50, 100],
        "recipe_settings": {"network": {"type": "lora", "rank": 16}, "train": {"steps": 100, "ema": False, "lr": 1e-3}},
    }


def test_an_adapter_that_has_not_moved_is_the_first_thing_said(results: Path, settings: dict) -> None:
    path = results / "training" / "metrics.jsonl"
    chosen = json.loads((results / "validation.json").read_text())["step"]
    for step, said in ((chosen - 1, False), (chosen, True)):
        line = json.dumps({"step": step, "adapter": {"of_adamw": 0.001, "problem": "it has not <moved>"}})
        path.write_text(f"{line}\n")
        assert ("it has not &lt;moved&gt;" in html.page(gather(results, settings))) == said


def test_page_is_whole_and_self_contained(results, settings):
    text = html.page(gather(results, settings))
    tags = Tags()
    tags.feed(text)
    assert tags.outside == []
    assert tags.open == ["html"] or tags.open == []
    assert len(text.encode()) < 4e6
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
    entries = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    head = json.dumps({f"diffusion_model.layers.0.{name}": entry for name, entry in entries.items()}).encode()
    file = results / "checkpoints/step-000100.safetensors"
    file.write_bytes(struct.pack("<Q", len(head)) + head)
    text = html.page(gather(results, settings))
    assert ("LoraLoaderModelOnly" in text) == known and "ZImagePipeline" in text
    assert ("it does not fit Z-Image-Turbo" in text) != known


def test_the_snippet_asks_for_the_character(results, settings):
    """The first prompt has no trigger and no identity: it is there to compare with."""
    settings["prompts"][0]["text"] = "a photo of a dog"
    path = results / "scores/step-000100.json"
    document = json.loads(path.read_text())
    document["rows"] = [r for r in document["rows"] if (r["prompt"], r["metric"]) != ("01", "identity_relative")]
    path.write_text(json.dumps(document))
    text = html.page(gather(results, settings))
    assert unescape(re.search(r"<pre>(.*?)</pre>", text, re.S)[1]).count("n1ka,") == 1
    told = re.findall(r'<span class="told">(.*?)</span>', text)
    told = [text.replace("\N{NO-BREAK SPACE}", " ") for text in told]
    assert told == ["id 0.50 · prompt 0.90", "prompt 0.90", "id 0.50 · prompt 0.90", "id 0.95 · prompt 0.90"]


def test_the_snippet_is_python(results, settings):
    text = html.page(gather(results, settings))
    code = unescape(re.search(r"<pre>(.*?)</pre>", text, re.S)[1])
    compile(code, "snippet", "exec")
    assert '"results/nika/final.safetensors"' in code and "n1ka" in code and "guidance_scale=0" in code


def test_every_word_from_outside_is_escaped(results, settings):
    text = html.page(gather(results, settings))
    assert "Nika &lt;script&gt;" in text and "Nika <script>" not in text
    assert "smiling <b>" not in text and "<red>" not in text and '"quoted"' not in text
    assert text.count("<script>") == 1


def test_page_with_next_to_nothing(tmp_path, settings):
    root = tmp_path / "results" / "nika"
    root.mkdir(parents=True)
    (root / "validation.json").write_text(json.dumps(choice.choose([], [50])))
    text = html.page(gather(root, {**settings, "shots": [], "steps": []}))
    assert "No samples were drawn" in text and "Why step 50" in text and "Training loss" not in text
    assert scores.comparison(gather(root, {**settings, "steps": []})).size == (256, 256)


def test_a_missing_choice_is_said_in_a_line(tmp_path, settings):
    with pytest.raises(UserError, match="validation.json: cannot be read"):
        gather(tmp_path, settings)


def test_material(results, settings):
    material = gather(results, settings)
    assert [shot.tier for shot in material.shots] == ["close-up", "medium", "full-body"]
    assert material.loss[0] == (1, 1.0) and len(material.loss) == 100
    (stage,) = material.stages
    assert (stage.name, stage.jobs, round(stage.seconds, 1), stage.memory) == ("train_segment", 2, 61.9, 1500.5)
    assert material.header["ss_steps"] == "100" and material.file_bytes > 5000


def test_header_of_what_is_no_lora(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff" * 30)
    assert header(tmp_path / "x") == {} == header(tmp_path / "absent")


def test_tier_from_caption_or_name():
    assert tier("img-7", "a medium shot photo of x") == "medium"
    assert tier("fullbody-03", "") == "full-body"
    assert tier("img", "") == "other"


def test_checkpoint_grid_is_deterministic_and_marked():
    cells = [
        grid.Cell(f"{i:02d}", "full body, dancing in the rain with a very long description " * 3, picture(i))
        for i in range(7)
    ]
    image = grid.checkpoint_grid(cells, title="Nika, step 50", subtitle="8 steps")
    assert image.tobytes() == grid.checkpoint_grid(cells, title="Nika, step 50", subtitle="8 steps").tobytes()
    assert image.width > 5 * 64
    single = grid.checkpoint_grid(cells[:1], title="x")
    assert single.width < image.width
    with pytest.raises(UserError):
        grid.checkpoint_grid([], title="x")


def test_grids_take_other_shapes_and_name_broken_files(tmp_path):
    wide = grid.checkpoint_grid(
        [grid.Cell("01", "", picture(0, (96, 48))), grid.Cell("02", "", picture(1, (48, 96)))], title="x"
    )
    assert wide.height > wide.width / 3
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="a.png: is no picture that can be read"):
        grid.checkpoint_grid([grid.Cell("01", "", tmp_path / "a.png")], title="x")


def test_comparison_grid_highlights_the_chosen_column():
    rows = [("01", "dancing"), ("02", "sleeping")]
    columns = [(f"step {s}", [picture(s), None]) for s in (50, 100)]
    image = grid.comparison_grid(rows, columns, chosen=1, title="Nika")
    mark = tuple(int(grid.MARK[i : i + 2], 16) for i in (1, 3, 5))
    counts = [
        (np.asarray(i) == mark).all(axis=-1).sum() for i in (image, grid.comparison_grid(rows, columns, title="Nika"))
    ]
    assert counts[0] > counts[1] + 1000


def test_words_are_wrapped_to_the_width():
    font = grid._font(16)
    lines = grid.wrap("one two three four five six seven eight nine ten eleven twelve", font, 120, 2)
    assert len(lines) == 2 and lines[-1].endswith("…")
    assert all(font.getlength(line) <= 120 for line in lines)
    assert grid.wrap("short", font, 120, 2) == ["short"]
    assert font.getlength(grid.wrap("Donaudampfschifffahrtsgesellschaftskapitän", font, 90, 1)[0]) <= 90


def test_short_leaves_out_what_all_prompts_share():
    assert grid.short(PROMPT, "n1ka") == "full body, dancing, wearing a <red> gown & scarf"
    assert grid.short("a medium shot photo of n1ka, waving", "n1ka") == "medium shot, waving"
    assert (
        grid.short("a full body photo of n1ka, frontal view, a straw hat", "n1ka")
        == "full body, frontal view, a straw hat"
    )


def test_pictures_shrink_to_the_budget(tmp_path):
    paths = []
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (400, 300, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(noise).save(paths[-1])
    small = pictures.embed(paths, 60_000)
    assert sum(map(len, small.values())) <= 60_000
    large = pictures.embed(paths, 10_000_000)
    assert sum(map(len, large.values())) > sum(map(len, small.values()))
    assert pictures.embed([], 10) == {}


def test_chart_draws_every_line_and_skips_what_is_not_finite():
    lines = [charts.Line("A", [(0, 0.5), (1, float("nan")), (2, 0.7)], 0), charts.Line("B", [], 1)]
    svg = charts.line_chart(lines, title="T", mark=1)
    assert svg.count("<polyline") == 1 and svg.count("<circle") == 2 and 'class="mark"' in svg
    assert "nan" not in svg and charts.line_chart([], title="T") == ""
    assert charts.line_chart([charts.Line("A", [(5, 0.5)], 0)], title="T").count("<circle") == 1


@pytest.mark.parametrize("low, high", [(0, 1), (0.03, 0.0301), (-5, 3000), (0, 7e-6)])
def test_ticks_are_round_and_inside(low, high):
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 8
    assert low - 1e-9 <= found[0] and found[-1] <= high + 1e-9


def test_thin_keeps_the_mean():
    points = [(i, float(i % 7)) for i in range(1000)]
    thinned = charts.thin(points, 100)
    assert len(thinned) == 100
    assert np.mean([y for _, y in thinned]) == pytest.approx(np.mean([y for _, y in points]), abs=0.05)


def test_style_has_a_colour_for_every_line():
    from charloom.report.style import CSS

    assert len(re.findall(r"--c3:", CSS)) == 2
