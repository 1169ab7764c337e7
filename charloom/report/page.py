"""The page about one character: the choice and its reasons, every sample, the data set, the run, the settings.

It is one self-contained HTML file: pictures are embedded small, charts are inline SVG, nothing is fetched. This module
turns the material from ``gather`` into plain values; ``templates/report.html.j2`` lays them out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from charloom.core import words
from charloom.core.layout import Results
from charloom.dataset import prompts
from charloom.report import charts, comparison, curves, judgement, pictures, snippets, strengths
from charloom.report.gather import Material
from charloom.report.grid import short
from charloom.report.numbers import duration, leaves, size
from charloom.report.templating import render
from charloom.zimage.shapes import Z_IMAGE_WIDTH

IMAGES_BUDGET = 2_000_000
"""Characters of all embedded training images together."""

ROWS = 12
"""With more checkpoints than this, the verdicts are folded."""

SHOWN = 240
"""Training images shown from a larger data set: a spread over all of it, and all that previews copy."""

_TIERS = {"close-up": "Close-ups", "medium": "Medium shots", "full-body": "Full body", "": "Others"}
_NETWORKS = {"lora": "LoRA", "lokr": "LoKr", "dora": "DoRA"}


def page(material: Material) -> str:
    """The whole page as text."""
    m = material
    tiers = _tiers(m)
    return render(
        "report.html.j2",
        id=m.id,
        name=m.name,
        trigger=m.trigger,
        style=m.kind == "style",
        concept=m.concept,
        notices=m.notices,
        reference=pictures.uri(pictures.encode(m.reference, 384)) if m.reference else "",
        facts=_facts(m),
        warnings=[*filter(None, [m.unmoved]), *m.choice.get("warnings", ())],
        advice=m.choice.get("advice", ()),
        step=m.choice["step"],
        why=m.choice.get("why", ()),
        others=judgement.others(m),
        verdicts=judgement.verdicts(m),
        rows=ROWS,
        failures=judgement.failures(m),
        passed=judgement.passed(m),
        judged=m.choice["step"] in m.scores,
        unscored=judgement.unscored(m) if any(m.samples.values()) else [],
        judges=judgement.judges(m),
        samples=comparison.samples(m),
        strengths=strengths.strip(m),
        gallery=m.gallery,
        use=_use(m),
        charts=[
            (chart.title, Markup(charts.svg(chart)), Markup(charts.svg(chart, charts.NARROW)))
            for chart in curves.scores(m) + curves.loss(m)
        ],
        images=len(m.images),
        shown=sum(len(tier["images"]) for tier in tiers),
        tiers=tiers,
        checked=bool(m.lint),
        findings=[[str(f.get("level", "")), str(f.get("where", "")), said(f)] for f in m.lint.get("findings", ())],
        knobs=leaves(m.recipe),
        costs=_costs(m),
        gpu_memory=size(m.gpu_bytes) if m.gpu_bytes else "",
        provenance=_provenance(m),
        versions=list(m.versions.items()),
        files=_files(m),
    )


def _facts(m: Material) -> list[tuple[str, str, bool]]:
    """The facts beside the name: (name, value, whether it is code)."""
    network = m.recipe.get("network", {})
    shipped = m.strengths.get("step")  # strengths are tried with the checkpoint that ships
    kind = _NETWORKS.get(network.get("type", ""), "")
    facts = [
        ("Trigger", m.trigger, True),
        ("Recommended", f"step {m.choice['step']} of {m.recipe.get('train', {}).get('steps', '?')}", False),
        ("Ships", f"step {shipped}, your choice" if shipped not in (None, m.choice["step"]) else "", False),
        ("File", f"results/{m.id}/final.safetensors", True),
        ("Size", size(m.file_bytes) if m.file_bytes else "", False),
        ("Base", m.base, False),
        ("Network", f"{kind}, rank {network['rank']}" if kind and "rank" in network else "", False),
    ]
    return [fact for fact in facts if fact[1]]


def _use(m: Material) -> dict[str, Any]:
    """Values for the instructions for diffusers and ComfyUI."""
    sample = m.recipe.get("sample", {})
    knobs = {
        "steps": sample.get("steps", 8),
        "width": sample.get("width", 1024),
        "height": sample.get("height", 1024),
        "guidance": float(sample.get("guidance", 1.0)),
        "seed": sample.get("seed", 42),
        "negative": sample.get("negative", ""),
        "source": m.base_source or m.base,
    }
    return {
        **knobs,
        **_snippets(m, snippets.Drawing(**knobs)),
        "comfyui": m.width in (None, Z_IMAGE_WIDTH),
        "model_width": m.width,
    }


def _snippets(m: Material, how: snippets.Drawing) -> dict[str, str]:
    """Python with diffusers: the character alone, and in turn with another; or the style alone, and on a character."""
    chosen = m.samples.get(m.choice["step"], {})
    prompt = next(
        (p.text for p in m.prompts if p.name in chosen and (not m.trigger or words.count(p.text, m.trigger))),
        prompts.scene("close-up", m.trigger or "a woman", **m.spoken_of),
    )
    strength = m.strengths.get("recommended")
    one = snippets.character(m.id, prompt, how, strength)
    street = prompts.scene("medium", "{trigger}", **m.spoken_of)
    turns = snippets.two_characters(m.id, m.trigger, how, street)
    two = snippets.stacked(m.id, m.trigger, how) if m.kind == "style" else turns
    return {"snippet": one, "two": two, "draw": snippets.command(m.id, prompt, strength)}


def _tiers(m: Material) -> list[dict[str, Any]]:
    """The training images by tier."""
    copies = judgement.copied(m)
    every = max(1, -(-len(m.images) // SHOWN))
    shown = [image for index, image in enumerate(m.images) if index % every == 0 or image.name in copies]
    paths = [image.picture for image in shown if image.picture.is_file()]
    embedded = pictures.embed(paths, IMAGES_BUDGET, (320, 256, 192, 160, 128, 96))
    findings = [f for f in m.lint.get("findings", ()) if f.get("level") in ("error", "warning")]
    tiers = []
    for tier, title in _TIERS.items():
        images = [
            {
                "name": image.name,
                "source": embedded.get(image.picture, ""),
                "caption": image.caption,
                "words": short(image.caption, m.trigger),
                "file": _link(m, image.picture),
                "warnings": [
                    *(warning(f, image.name) for f in findings if about(f, image.name)),
                    *(f"nearly copied by the preview of prompt {prompt}" for prompt in copies.get(image.name, ())),
                ],
            }
            for image in shown
            if image.tier == tier
        ]
        if images:
            tiers.append({"title": title, "images": images})
    return tiers


def about(finding: Mapping[str, Any], name: str) -> bool:
    """Whether a finding of the data set's check is about an image: shown by it, or named in its text."""
    shown = finding.get("pictures") or ()
    if len(shown) > 2:
        return False  # about the set as a whole
    text = f"{finding.get('where', '')} {finding.get('what', '')}"
    return name in shown or bool(re.search(rf"(?<![\w/-]){re.escape(name)}(?![\w/-])", text))


def said(finding: Mapping[str, Any]) -> str:
    """What a finding says, and what to do about it."""
    return "; ".join(str(finding[key]) for key in ("what", "remedy") if finding.get(key))


def warning(finding: Mapping[str, Any], name: str) -> str:
    """The text of a finding below the image ``name``; a finding about another image names that one."""
    return said(finding) if name in finding["where"] else f"{finding['where']}: {said(finding)}"


def _link(m: Material, path: Path) -> str:
    """A link from the page to a file in the same folder; empty if there is no such file."""
    return quote(path.relative_to(m.folder).as_posix()) if path.is_file() else ""


def _files(m: Material) -> list[tuple[str, str]]:
    """The files beside the page, as (link, what it is)."""
    made = Results(m.folder)
    final = made.final.relative_to(m.folder).as_posix()  # made after the page, like the two others
    found = [
        (_link(m, path), words)
        for path, words in (
            (made.prompt_page, "the prompts of the data set"),
            (made.score_table, "every score of every preview"),
            (made.validation, "the choice, for programs"),
            (made.metrics, "loss by step"),
            (made.lint, "what the check of the data set found"),
            (made.manifest, "the data set, with checksums"),
        )
    ]
    later = [(final, "the LoRA")]
    if m.samples:
        later.append((made.comparison.relative_to(m.folder).as_posix(), "all previews on one picture"))
    if m.gallery:
        later.append((made.gallery.relative_to(m.folder).as_posix(), f"{m.gallery} scenes that it draws"))
    return [*later, *(one for one in found if one[0])]


def _costs(m: Material) -> list[dict[str, Any]]:
    """The time and memory of each stage; ``share`` is the percentage of the longest."""
    longest = max((cost.seconds for cost in m.costs), default=0.0) or 1.0
    return [
        {
            "stage": cost.rule.replace("_", " "),
            "share": round(100 * cost.seconds / longest, 1),
            "time": duration(cost.seconds),
            "jobs": cost.jobs,
            "memory": size(cost.memory * 2**20) if cost.memory else "",
        }
        for cost in m.costs
    ]


def _provenance(m: Material) -> list[tuple[str, str]]:
    """The file's metadata, and who judged it."""
    try:
        provenance = json.loads(m.header.get("charloom.provenance", "{}"))
    except ValueError:
        provenance = {}
    rows = [*leaves(provenance), *((key, value) for key, value in m.header.items() if key != "charloom.provenance")]
    for name, key in (("judge", "backend"), ("judge weights", "weights")):
        rows += [(name, value) for value in [next((d[key] for d in m.scores.values() if d.get(key)), "")] if value]
    return rows
