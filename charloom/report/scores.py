"""The report's parts about scores: choice, comparison, charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from charloom.report import pictures
from charloom.report.charts import Line, line_chart, thin
from charloom.report.gather import Material
from charloom.report.grid import comparison_grid, short

SAMPLES_BUDGET = 2_400_000
"""Characters of all embedded samples together; with the data set's 700 000 the page stays below 4 MB."""


_METRICS = {"identity": "Identity", "obedience": "Obedience", "bleed": "Bleed", "detail": "Detail"}


_EXPLAINED = {
    "identity": "identity 1 means as alike to the character as its own pictures are among themselves",
    "obedience": "obedience is the share of what the prompts name that is drawn",
    "bleed": "bleed is the share of chances to copy the training pictures that were taken (0 is best)",
    "detail": "detail is sharpness relative to the training pictures",
}


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
