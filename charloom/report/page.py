"""The page about one character: what was chosen and why, every sample, the data set, the course, the settings.

One self-contained HTML file: pictures are embedded small, charts are inline SVG, nothing is fetched. Takes
the material that ``gather`` read, opens pictures, and writes text; every word that comes from outside is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from charloom.core import words
from charloom.report import pictures
from charloom.report.charts import Line, line_chart, thin
from charloom.report.gather import Material
from charloom.report.grid import comparison_grid, short
from charloom.report.style import CSS, JS
from charloom.zimage.shapes import Z_IMAGE_WIDTH

SAMPLES_BUDGET = 2_400_000
"""Characters of all embedded samples together; with the data set's 700 000 the page stays below 4 MB."""
SHOTS_BUDGET = 700_000

_TIERS = {"close-up": "Close-ups", "medium": "Medium shots", "full-body": "Full body", "other": "Others"}
_METRICS = {"identity": "Identity", "obedience": "Obedience", "bleed": "Bleed", "detail": "Detail"}
_EXPLAINED = {
    "identity": "identity 1 means as alike to the character as its own pictures are among themselves",
    "obedience": "obedience is the share of what the prompts name that is drawn",
    "bleed": "bleed is the share of chances to copy the training pictures that were taken (0 is best)",
    "detail": "detail is sharpness relative to the training pictures",
}


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


def _choice(m: Material) -> str:
    choice = m.choice
    why = "".join(f"<li>{escape(text)}</li>" for text in choice.get("why", ()))
    scored = [
        key for key in _METRICS if any((v.get("scores") or {}).get(key) is not None for v in choice.get("verdicts", ()))
    ]
    rows = []
    for verdict in choice.get("verdicts", ()):
        chosen = verdict["step"] == choice["step"]
        rows.append(_row(f"Step {verdict['step']}", verdict.get("scores"), scored, chosen, verdict))
    if choice.get("base"):
        rows.insert(0, _row("Base alone", choice["base"], scored, False, None))
    head = "".join(f"<th>{_METRICS[key]}</th>" for key in scored)
    table = (
        f'<div class="card scroll"><table class="verdicts"><thead><tr><th>Checkpoint</th><th>Verdict</th>{head}'
        f"<th>Reasons</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        if rows
        else ""
    )
    note = "; ".join(text for key, text in _EXPLAINED.items() if key in scored)
    note = f'<p class="note">{note[0].upper()}{note[1:]}.</p>' if note else ""
    # The file can be overruled without making this page again.
    overrule = (
        '<p class="note">To ship another one, set <code>checkpoint: &lt;step&gt;</code> in '
        f"<code>config/characters/{escape(m.id)}.yaml</code>; only the file is made again, and this page goes on "
        "saying what the scores say.</p>"
    )
    said = f'<div class="card"><ul class="why">{why}</ul>{overrule}</div>'
    return f"<h2>Why step {choice['step']}</h2>{said}<p></p>{table}{note}"


def _row(name: str, scores: Mapping[str, Any] | None, metrics: Sequence[str], chosen: bool, verdict: Any) -> str:
    values = "".join(f'<td data-k="{_METRICS[key]}">{_value((scores or {}).get(key))}</td>' for key in metrics)
    word = verdict["verdict"] if verdict else ""
    kind = {"good": "good", "not fully scored": "", "not sampled": ""}.get(word, "bad")
    marks = {True: "good", False: "bad", None: ""}
    reasons = "".join(
        f'<li class="{marks[reason["good"]]}">{escape(reason["text"])}</li>'
        for reason in (verdict or {}).get("reasons", ())
    )
    pill = f'<span class="pill {kind}">{escape(word)}</span>' if word else ""
    style = ' class="chosen"' if chosen else ""
    return f'<tr{style}><td>{escape(name)}</td><td>{pill}</td>{values}<td class="said"><ul>{reasons}</ul></td></tr>'


def _value(value: float | None) -> str:
    return '<span class="note">not scored</span>' if value is None else f"{value:.2f}"


def _comparison(m: Material) -> str:
    steps = [step for step in sorted(m.samples) if m.samples[step]]
    if not steps:
        return "<h2>Samples</h2><p class='note'>No samples were drawn (recipe.sample.disable).</p>"
    embedded = pictures.embed((path for step in steps for path in m.samples[step].values()), SAMPLES_BUDGET)
    chosen = m.choice["step"]
    head = "".join(
        f"<th{' class=chosen' if step == chosen else ''}>{'base alone' if step == 0 else f'step {step}'}</th>"
        for step in steps
    )
    body = []
    for r, prompt in enumerate(m.prompts):
        cells = []
        for c, step in enumerate(steps):
            path = m.samples[step].get(prompt.name)
            inner = _sample(m, step, prompt.name, embedded[path], f"samples:{r}", c) if path else ""
            cells.append(f"<td{' class=chosen' if step == chosen else ''}>{inner}</td>")
        words = escape(short(prompt.text, m.trigger))
        body.append(f"<tr><th><b>{escape(prompt.name)}</b>{words}</th>{''.join(cells)}</tr>")
    return (
        "<h2>Prompts by checkpoint</h2>"
        '<p class="note">Each row is one prompt with one seed. Click a picture to enlarge it and go on with the arrow '
        "keys. The numbers are identity and the share of the prompt that was drawn.</p>"
        f'<div class="compare" style="--n:{len(steps)}"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def comparison(m: Material) -> Image.Image:
    """The same comparison as a picture to pass on."""
    steps = [step for step in sorted(m.samples) if m.samples[step]]
    if not steps:
        return Image.new("RGB", (256, 256), "white")  # no previews were wanted, but the file is
    names = ["base alone" if step == 0 else f"step {step}" for step in steps]
    chosen = m.choice["step"]
    return comparison_grid(
        [(prompt.name, short(prompt.text, m.trigger)) for prompt in m.prompts],
        [(name, [m.samples[step].get(p.name) for p in m.prompts]) for name, step in zip(names, steps, strict=True)],
        chosen=steps.index(chosen) if chosen in steps else None,
        title=f"{m.name}: prompts by checkpoint",
    )


def _sample(m: Material, step: int, prompt: str, source: str, row: str, column: int) -> str:
    document = m.scores.get(step, {})
    values = {r["metric"]: r["value"] for r in document.get("rows", ()) if r["prompt"] == prompt}
    identity = values.get("identity_relative", values.get("identity"))
    parts = [("id", identity), ("prompt", values.get("obedience"))]
    told = " · ".join(f"{name}\N{NO-BREAK SPACE}{value:.2f}" for name, value in parts if value is not None)
    misses = document.get("misses", {}).get(prompt, ())
    text = next(p.text for p in m.prompts if p.name == prompt)
    name = "base alone" if step == 0 else f"step {step}"
    missed = escape("; ".join(misses))
    words = escape("\n".join(filter(None, [f"{prompt}, {name}: {text}", told, "; ".join(misses)])))
    return (
        f'<button type="button" data-r="{row}" data-c="{column}" data-words="{words}">'
        f'<img src="{source}" loading="lazy" alt="Prompt {escape(prompt)}, {name}" title="{missed}"></button>'
        f'<span class="told">{escape(told)}</span>'
    )


def _charts(m: Material) -> str:
    charts = []
    verdicts = [v for v in m.choice.get("verdicts", ()) if v.get("scores")]
    points = ([(0, m.choice["base"])] if m.choice.get("base") else []) + [(v["step"], v["scores"]) for v in verdicts]
    lines = [
        Line(_METRICS[key], [(step, s[key]) for step, s in points if s.get(key) is not None], color)
        for color, key in enumerate(("identity", "obedience", "bleed"))
    ]
    lines = [line for line in lines if line.points] or [
        Line("Detail", [(step, s["detail"]) for step, s in points if s.get("detail") is not None], 3)
    ]
    highest = max((y for line in lines for _, y in line.points), default=1.0)
    steps = [step for step, _ in points]
    svg = line_chart(
        lines,
        title="Scores by checkpoint",
        y_range=(0.0, max(1.0, highest * 1.02)),
        x_ticks=steps if len(steps) <= 14 else None,
        mark=m.choice["step"],
    )
    if svg:
        charts.append(f'<div class="card"><h3>Scores by checkpoint</h3>{svg}</div>')
    if m.loss:
        raw = thin(m.loss, 300)
        # As quick to follow as a twentieth of the run, whatever its length.
        smooth = thin(_smoothed(m.loss, max(5, len(m.loss) // 20)), 300)
        loss = [Line("Loss", raw, 3, faint=True, dots=False), Line("Smoothed", smooth, 1, dots=False)]
        low, high = _inner(y for _, y in raw)
        svg = line_chart(loss, title="Training loss", y_range=(low, high), mark=m.choice["step"])
        charts.append(f'<div class="card"><h3>Training loss</h3>{svg}</div>')
    if m.holdout:
        held_out = [
            Line("With the LoRA", [(step, on) for step, on, _ in m.holdout], 1),
            Line("Base alone", [(step, off) for step, _, off in m.holdout], 3),
        ]
        low, high = _inner(y for line in held_out for _, y in line.points)
        svg = line_chart(held_out, title="Loss on held-out images", y_range=(low, high), mark=m.choice["step"])
        charts.append(f'<div class="card"><h3>Loss on held-out images</h3>{svg}</div>')
    return f'<h2>The course</h2><div class="two">{"".join(charts)}</div>' if charts else ""


def _smoothed(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """Exponential mean over about ``width`` points, corrected for its short start."""
    keep, total, weight, out = 1.0 - 1.0 / width, 0.0, 0.0, []
    for x, y in points:
        total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        out.append((x, total / weight))
    return out


def _inner(values: Any) -> tuple[float, float]:
    """Limits that show all but the rarest outliers, with a little room."""
    ordered = sorted(values)
    low, high = ordered[int(len(ordered) * 0.005)], ordered[min(len(ordered) - 1, int(len(ordered) * 0.995))]
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


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


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, value in words) of every leaf."""
    out: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{prefix}{key}.")
        else:
            words = {True: "on", False: "off", None: "none"}.get(value) if isinstance(value, bool | None) else None
            listed = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            out.append((f"{prefix}{key}", words or listed))
    return out


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


def _bytes(number: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 100 * size else f"{number / size:.0f} {unit}"
    return f"{number:.0f} bytes"


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
