"""The page about one character: the choice and its reasons, every sample, the data set, the run, the settings.

One self-contained HTML file: pictures are embedded small, charts are inline SVG, nothing is fetched. Turns the
material that ``gather`` read into plain values; ``templates/report.html.j2`` says how they look.
"""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from charloom.core import words
from charloom.report import charts, comparison, curves, pictures, snippets
from charloom.report.gather import Material
from charloom.report.grid import short
from charloom.report.numbers import duration, leaves, size
from charloom.report.templating import render
from charloom.zimage.shapes import Z_IMAGE_WIDTH

IMAGES_BUDGET = 700_000
"""Characters of all embedded training images together."""

_TIERS = {"close-up": "Close-ups", "medium": "Medium shots", "full-body": "Full body", "": "Others"}


def page(material: Material) -> str:
    """The whole page as text."""
    m = material
    return render(
        "report.html.j2",
        id=m.id,
        name=m.name,
        trigger=m.trigger,
        concept=m.concept,
        notices=m.notices,
        reference=pictures.uri(pictures.encode(m.reference, 384)) if m.reference else "",
        facts=_facts(m),
        warnings=[*filter(None, [m.unmoved]), *m.choice.get("warnings", ())],
        advice=m.choice.get("advice", ()),
        step=m.choice["step"],
        why=m.choice.get("why", ()),
        verdicts=comparison.verdicts(m),
        samples=comparison.samples(m),
        use=_use(m),
        charts=[(chart.title, Markup(charts.svg(chart))) for chart in curves.scores(m) + curves.loss(m)],
        images=len(m.images),
        tiers=_tiers(m),
        checked=bool(m.lint),
        findings=[[str(f.get(key, "")) for key in ("level", "where", "what")] for f in m.lint.get("findings", ())],
        knobs=leaves(m.recipe),
        costs=_costs(m),
        gpu_memory=size(m.gpu_bytes) if m.gpu_bytes else "",
        provenance=_provenance(m),
    )


def _facts(m: Material) -> list[tuple[str, str, bool]]:
    """(name, value, whether it is code) of what stands beside the name."""
    network = m.recipe.get("network", {})
    facts = [
        ("Trigger", m.trigger, True),
        ("Recommended", f"step {m.choice['step']} of {m.recipe.get('train', {}).get('steps', '?')}", False),
        ("File", f"results/{m.id}/final.safetensors", True),
        ("Size", size(m.file_bytes) if m.file_bytes else "", False),
        ("Base", m.base, False),
        ("Network", f"{network['type']}, rank {network['rank']}" if {"type", "rank"} <= set(network) else "", False),
    ]
    return [fact for fact in facts if fact[1]]


def _use(m: Material) -> dict[str, Any]:
    """What the instructions for diffusers and ComfyUI need to know."""
    sample = m.recipe.get("sample", {})
    knobs = {
        "steps": sample.get("steps", 8),
        "width": sample.get("width", 1024),
        "height": sample.get("height", 1024),
        "guidance": float(sample.get("guidance", 1.0)),
        "seed": sample.get("seed", 42),
        "source": m.base_source or m.base,
    }
    return {
        **knobs,
        **_snippets(m, snippets.Drawing(**knobs)),
        "comfyui": m.width in (None, Z_IMAGE_WIDTH),
        "model_width": m.width,
    }


def _snippets(m: Material, how: snippets.Drawing) -> dict[str, str]:
    """Python that draws the character with diffusers, alone and in turn with another one."""
    chosen = m.samples.get(m.choice["step"], {})
    prompt = next(
        (p.text for p in m.prompts if p.name in chosen and words.count(p.text, m.trigger)),
        f"a close-up portrait photo of {m.trigger}, smiling",
    )
    return {"snippet": snippets.character(m.id, prompt, how), "two": snippets.two_characters(m.id, m.trigger, how)}


def _tiers(m: Material) -> list[dict[str, Any]]:
    """The training images by tier."""
    paths = [image.picture for image in m.images if image.picture.is_file()]
    embedded = pictures.embed(paths, IMAGES_BUDGET, (320, 256, 192, 160, 128, 96))
    tiers = []
    for tier, title in _TIERS.items():
        images = [
            {
                "name": image.name,
                "source": embedded.get(image.picture, ""),
                "caption": image.caption,
                "words": short(image.caption, m.trigger),
            }
            for image in m.images
            if image.tier == tier
        ]
        if images:
            tiers.append({"title": title, "images": images})
    return tiers


def _costs(m: Material) -> list[dict[str, Any]]:
    """What each stage took; ``share`` is the percentage of the longest."""
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
    """What the file says about itself, and who judged it."""
    try:
        provenance = json.loads(m.header.get("charloom.provenance", "{}"))
    except ValueError:
        provenance = {}
    rows = [*leaves(provenance), *((key, value) for key, value in m.header.items() if key != "charloom.provenance")]
    for name, key in (("judge", "backend"), ("judge weights", "weights")):
        rows += [(name, value) for value in [next((d[key] for d in m.scores.values() if d.get(key)), "")] if value]
    return rows
