"""The page about one character: what was chosen and why, every sample, the data set, the course, the settings.

One self-contained HTML file: pictures are embedded small, charts are inline SVG, nothing is fetched. Takes
the material that ``gather`` read, opens pictures, and writes text; every word that comes from outside is escaped.
"""

from __future__ import annotations

import json
from html import escape

from charloom.core import words
from charloom.report import pictures
from charloom.report.gather import Material
from charloom.report.grid import short
from charloom.report.numbers import _bytes, _flat, _seconds
from charloom.report.scores import _charts, _choice, _comparison
from charloom.report.style import CSS, JS
from charloom.zimage.shapes import Z_IMAGE_WIDTH

SHOTS_BUDGET = 700_000

_TIERS = {"close-up": "Close-ups", "medium": "Medium shots", "full-body": "Full body", "other": "Others"}


def page(material: Material) -> str:
    """The whole page as text."""
    sections = [
        _notices(material),
        _hero(material),
        _choice(material),
        _comparison(material),
        _use(material),
        _charts(material),
        _dataset(material),
        _lint(material),
        _settings(material),
        _stages(material),
        _provenance(material),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(material.name)}: report</title>\n<style>{CSS}</style>\n"
        + "\n".join(section for section in sections if section)
        + "\n<dialog><img alt=''><p class=words></p><p class=note><kbd>←</kbd> <kbd>→</kbd> checkpoint, "
        "<kbd>↑</kbd> <kbd>↓</kbd> prompt, <kbd>Esc</kbd> close</p></dialog>"
        f"\n<footer>Made by charloom. Everything on this page is in results/{escape(material.id)}/.</footer>"
        f"\n<script>{JS}</script>\n</html>\n"
    )


def _notices(m: Material) -> str:
    """What makes the whole result worthless, if anything does, before anything else."""
    said = "".join(f"<p><b>{escape(line)}</b></p>" for line in m.notices)
    return f'<div class="warnings" role="alert">{said}</div>' if said else ""


def _hero(m: Material) -> str:
    step, network = m.choice["step"], m.recipe.get("network", {})
    facts = [
        ("Trigger", f"<code>{escape(m.trigger)}</code>"),
        ("Recommended", f"step {step} of {m.recipe.get('train', {}).get('steps', '?')}"),
        ("File", f"<code>results/{escape(m.id)}/final.safetensors</code>"),
        ("Size", _bytes(m.file_bytes) if m.file_bytes else ""),
        ("Base", escape(m.base)),
        ("Rank", escape(f"{network['type']} {network['rank']}") if {"type", "rank"} <= set(network) else ""),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts if value)
    image = ""
    if m.reference:
        source = pictures.uri(pictures.encode(m.reference, 384))
        image = f'<img src="{source}" alt="The reference picture of {escape(m.name)}">'
    concept = f'<p class="concept">{escape(m.concept)}</p>' if m.concept else ""
    warnings = ""
    if said := [*filter(None, [m.unmoved]), *m.choice.get("warnings", ())]:
        said = "".join(f"<li>{escape(text)}</li>" for text in said)
        advice = "".join(f"<li>{escape(text)}</li>" for text in m.choice.get("advice", ()))
        todo = f"<b>What helps</b><ul>{advice}</ul>" if advice else ""
        warnings = f'<div class="warnings"><b>Look at this first</b><ul>{said}</ul>{todo}</div>'
    return (
        f'<header class="hero">{image}<div><h1>{escape(m.name)}</h1>{concept}'
        f'<dl class="facts">{listed}</dl></div></header>{warnings}'
    )


def _use(m: Material) -> str:
    sample = m.recipe.get("sample", {})
    steps, width, height = sample.get("steps", 8), sample.get("width", 1024), sample.get("height", 1024)
    chosen = m.samples.get(m.choice["step"], {})
    prompt = next(
        (p.text for p in m.prompts if p.name in chosen and words.count(p.text, m.trigger)),
        f"a close-up portrait photo of {m.trigger}, smiling",
    )
    source = m.base_source or m.base
    # The pipeline counts guidance from 0 (none), the recipe from 1 (none).
    guidance = max(0.0, float(sample.get("guidance", 1.0)) - 1.0)
    code = f"""import torch
from diffusers import ZImagePipeline

pipe = ZImagePipeline.from_pretrained(
    {json.dumps(source)}, torch_dtype=torch.bfloat16
)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
pipe.load_lora_weights(
    "results/{m.id}/final.safetensors", adapter_name="{m.id}"
)
pipe.set_adapters("{m.id}", 1.0)  # 0.7 to 0.9: scenes are freer
image = pipe(
    {json.dumps(prompt, ensure_ascii=False)},
    num_inference_steps={steps}, guidance_scale={guidance:g},
    width={width}, height={height},
    generator=torch.Generator().manual_seed({sample.get("seed", 42)}),
).images[0]
image.save("{m.id}.png")"""
    use = (
        f'<div class="card"><h3>diffusers</h3><pre>{escape(code)}</pre>'
        '<button type="button" class="copy">Copy</button></div>'
    )
    if m.width not in (None, Z_IMAGE_WIDTH):
        note = (
            f'<p class="note">Made for {escape(source)}, whose transformer is {m.width} wide: it does not fit '
            "Z-Image-Turbo, and ComfyUI does not know this base.</p>"
        )
        return f"<h2>Use it</h2>{note}{use}"
    file, lora = f"results/{escape(m.id)}/final.safetensors", f"ComfyUI/models/loras/{escape(m.id)}.safetensors"
    comfy = [
        f"Copy <code>{file}</code> to <code>{lora}</code>.",
        f"Put <b>LoraLoaderModelOnly</b> between the loader of {escape(source)} and <b>ModelSamplingAuraFlow</b> "
        "(shift 3); strength 0.7 to 1.0.",
        f"<b>KSampler</b>: {steps} steps, cfg {sample.get('guidance', 1.0):g}, sampler euler, scheduler simple, "
        f"{width} × {height}.",
        f"Write <code>{escape(m.trigger)}</code> into the prompt, then the scene: shot, view, pose, expression, "
        "outfit, background.",
    ]
    return (
        '<h2>Use it</h2><div class="two">'
        f'<div class="card"><h3>ComfyUI</h3><ol>{"".join(f"<li>{line}</li>" for line in comfy)}</ol></div>{use}</div>'
    )


def _dataset(m: Material) -> str:
    if not m.shots:
        return ""
    there = [shot for shot in m.shots if shot.picture.is_file()]
    embedded = pictures.embed((shot.picture for shot in there), SHOTS_BUDGET, (320, 256, 192, 160, 128, 96))
    blocks, row = [], 0
    for tier, title in _TIERS.items():
        shots = [shot for shot in m.shots if shot.tier == tier]
        if not shots:
            continue
        figures = []
        for shot in shots:
            source = embedded.get(shot.picture)
            image = f'<img src="{source}" loading="lazy" alt="{escape(shot.name)}">' if source else "missing"
            words = escape(f"{shot.name}: {shot.caption}")
            caption = escape(short(shot.caption, m.trigger))
            figures.append(
                f'<figure><button type="button" data-r="shots:{row}" data-c="0" data-words="{words}">{image}</button>'
                f'<figcaption title="{escape(shot.caption)}"><b>{escape(shot.name)}</b> {caption}</figcaption></figure>'
            )
            row += 1
        blocks.append(
            f'<h3 class="tier">{title} <span>{len(shots)}</span></h3><div class="shots">{"".join(figures)}</div>'
        )
    return f'<h2>The data set</h2><p class="note">{len(m.shots)} pictures with their captions.</p>{"".join(blocks)}'


def _lint(m: Material) -> str:
    if not m.lint:
        return ""
    findings = m.lint.get("findings", [])
    if not findings:
        return '<h2>Checks of the data set</h2><p class="note">Nothing to complain about.</p>'
    rows = "".join(
        f"<tr><td>{escape(str(f.get('level', '')))}</td><td>{escape(str(f.get('where', '')))}</td>"
        f"<td>{escape(str(f.get('what', '')))}</td></tr>"
        for f in findings
    )
    return f'<h2>Checks of the data set</h2><div class="card scroll"><table class="plain">{rows}</table></div>'


def _settings(m: Material) -> str:
    if not m.recipe:
        return ""
    halves = []
    flat = _flat(m.recipe)
    middle = (len(flat) + 1) // 2
    for part in (flat[:middle], flat[middle:]):
        rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in part)
        halves.append(f'<div class="card scroll"><table class="plain">{rows}</table></div>')
    opened = f"<summary>All {len(flat)} knobs of this run</summary>"
    return f'<h2>Settings</h2><details>{opened}<p></p><div class="two">{"".join(halves)}</div></details>'


def _stages(m: Material) -> str:
    stages = [stage for stage in m.stages if stage.jobs]
    if not stages:
        return ""
    longest = max(stage.seconds for stage in stages) or 1.0
    rows = "".join(
        f"<tr><td>{escape(stage.name.replace('_', ' '))}</td>"
        f'<td class="bars"><span class="bar" style="width:{100 * stage.seconds / longest:.1f}%"></span></td>'
        f'<td class="number">{_seconds(stage.seconds)}</td><td class="number">{stage.jobs}</td>'
        f'<td class="number">{_bytes(stage.memory * 2**20) if stage.memory else ""}</td></tr>'
        for stage in stages
    )
    head = "".join(f'<th class="number">{name}</th>' for name in ("Time", "Jobs", "Memory"))
    trainer = f"; the trainer allocated at most {_bytes(m.gpu_bytes)} on the GPU" if m.gpu_bytes else ""
    return (
        '<h2>Time</h2><p class="note">Of the jobs as they last ran; what was in the store already takes next to none. '
        f"Jobs of one stage may have run side by side. Memory is main memory{trainer}.</p>"
        f'<div class="card scroll"><table class="plain"><tr><th>Stage</th><th></th>{head}</tr>{rows}</table></div>'
    )


def _provenance(m: Material) -> str:
    try:
        provenance = json.loads(m.header.get("charloom.provenance", "{}"))
    except ValueError:
        provenance = {}
    weights = next((d["weights"] for d in m.scores.values() if d.get("weights")), "")
    judge = next((d["backend"] for d in m.scores.values() if d.get("backend")), "")
    rows = [*_flat(provenance), *[(key, value) for key, value in m.header.items() if key != "charloom.provenance"]]
    rows += [("judge", judge)] * bool(judge) + [("judge weights", weights)] * bool(weights)
    if not rows:
        return ""
    listed = "".join(f"<tr><td>{escape(str(k))}</td><td><code>{escape(str(v))}</code></td></tr>" for k, v in rows)
    return (
        "<h2>Provenance</h2><details><summary>What the file says about itself</summary><p></p>"
        f'<div class="card scroll"><table class="plain">{listed}</table></div></details>'
    )
