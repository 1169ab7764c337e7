"""Tables, pictures and the results part of docs/experiments.md, from the lines of benchmarks/experiments.py.

    python benchmarks/experiments_page.py work/experiments/lines.jsonl --pictures work/experiments/pictures

Adds lines to the committed tables, benchmarks/results/experiments/<name>.csv; seeds that some arms still lack stay
there but are not compared. Writes docs/experiments/<name>.webp (plot) and <name>-pictures.webp (what the arms drew with
one seed), and replaces the text between the two marks in the page. The proof of the choice comes from
benchmarks/results/choice.json, if that exists. The finding of an experiment, in words, is in its own file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.experiments import design, pool, tables
from charloom.experiments.design import Experiment
from charloom.report.grid import comparison_grid, short

TABLES, FIGURES, PAGE = Path("benchmarks/results/experiments"), Path("docs/experiments"), Path("docs/experiments.md")
CHOICE = Path("benchmarks/results/choice.json")
BEGIN, END = "<!-- results: benchmarks/experiments_page.py -->\n", "<!-- end of results -->\n"
SEED = 42
SHOWN = 4
"""Number of prompts in a picture of the arms."""
WIDTH = 900
"""Largest number of pixels of such a picture."""


def section(experiment: Experiment, table: list[dict[str, Any]], pictured: bool) -> str:
    """One experiment on the page."""
    name = experiment.name
    counts = [len(seeds) for seeds in tables.values(table, experiment.measures[0]).values()]
    number = str(max(counts)) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    lines = [f"## {name.capitalize()}", "", experiment.question, "", f"*Advice:* {experiment.advice}", ""]
    lines += [f"![{name}: each measure by arm](experiments/{name}.webp)", ""]
    lines += [f"Means of {number} trainings ± standard error:", "", tables.summary(experiment, table)]
    if experiment.finding:
        lines += [experiment.finding.strip(), ""]
    if pictured:
        lines += [f"![{name}: what the arms drew](experiments/{name}-pictures.webp)", ""]
    lines += [f"Table: [`{name}.csv`](../{TABLES.as_posix()}/{name}.csv).", ""]
    return "\n".join(lines)


def draw_arms(experiment: Experiment, folder: Path, output: Path) -> bool:
    """What each arm drew for the first prompts with the first seed; False if the pictures are not there."""
    looks = {arm: look for arm, look in experiment.looks([SEED]) if look.training.character == experiment.characters[0]}
    strips = {arm: folder / f"{look.name}.webp" for arm, look in looks.items()}
    if not strips or not all(path.is_file() for path in strips.values()):
        return False
    person = next(iter(looks.values())).training.person
    prompts = person.sample_prompts[:SHOWN]
    columns = []
    for arm, path in strips.items():
        with Image.open(path) as strip:
            side = strip.height
            columns.append((arm, [strip.crop((i * side, 0, (i + 1) * side, side)) for i in range(len(prompts))]))
    rows = [(prompt.name, short(prompt.text, person.trigger)) for prompt in prompts]
    picture = comparison_grid(rows, columns, title=f"{experiment.name}: seed {SEED}")
    picture.thumbnail((WIDTH, 10_000), Image.Resampling.LANCZOS)
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(output, quality=80)
    return True


def update(page: Path, text: str) -> None:
    """Replace the text between the marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise UserError(f"{page}: lacks the marks {BEGIN.strip()} and {END.strip()}")
    files.write_text(page, before + BEGIN + "\n" + text + END + after)


def overview(found: Mapping[str, tuple[Experiment, list[dict[str, Any]]]]) -> str:
    """The results, claim by claim."""
    lines = ["| experiment | claim | outcome | means | seeds for it |", "|---|---|---|---|---|"]
    for name, (experiment, table) in found.items():
        for claim in experiment.claims:
            if one := tables.verdict(claim, table):
                cells = [f"[{name}](#{name})", f"`{claim}`", f"**{one.word}**", f"{one.left:.3f}, {one.right:.3f}"]
                lines.append(f"| {' | '.join(cells)} | {one.for_it} of {one.seeds} |")
    return "\n".join(lines) + "\n"


def choice_section(result: Mapping[str, Any]) -> str:
    """The proof of the choice (benchmarks/choice.py)."""
    mean = result["mean_truth"]
    lines = [
        "## Choice",
        "",
        "Is the checkpoint that charloom chooses the best one? Each training runs the miniature's own recipe, "
        "but for 800 steps, not 600; previews, judge and rule are those of the workflow. Truth is read from other "
        f"pictures than those that decided ({result['pictures']} per checkpoint), by the reader.",
        "",
        f"**{result['within']} of {result['trainings']} choices are within 2 % of the best checkpoint's truth**; on "
        f"average they fall {result['mean_short']:.1%} short, at worst {result['worst_short']:.1%}. Mean truth: chosen "
        f"{mean['chosen']:.3f}, best {mean['best']:.3f}, last {mean['last']:.3f}. The best of eight noisy values is "
        "itself a little too high; *noise* is the standard error of the difference, from the pictures in pairs. The "
        "rule forgives what chance explains; that was decided with seeds 42 to 45 at hand, of whose choices 10 of 12 "
        "were within 2 % before, so only seed 46 is independent proof of it. Where nothing gets worse with more steps, "
        "as here, it takes the last checkpoint. Seeds 42 to 45 were trained on a GPU, seed 46 on a CPU.",
        "",
        "| character | seed | chosen | best | truth of the chosen | truth of the best | short by | noise |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        truths = f"{row['chosen_truth']:.3f} | {row['best_truth']:.3f} | {row['short']:.1%} | {row['noise']:.1%}"
        lines.append(f"| {row['character']} | {row['seed']} | {row['chosen']} | {row['best']} | {truths} |")
    agreed = ", ".join(f"{name} {value:.2f}" for name, value in result["agreement"].items())
    lines += ["", f"Correlation of reader and judge over all checkpoints: {agreed}.", ""]
    lines += [f"Table: [`choice.json`](../{CHOICE.as_posix()}), by `python benchmarks/choice.py`.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, nargs="*", help="lines of benchmarks/experiments.py")
    parser.add_argument("--pictures", type=Path, default=Path("work/experiments/pictures"))
    arguments = parser.parse_args()
    lines = pool.known_lines(arguments.lines)
    found: dict[str, tuple[Experiment, list[dict[str, Any]]]] = {}
    parts = []
    for name in design.names():
        experiment = design.read(name)
        every = tables.together(experiment, tables.rows(experiment, lines), TABLES / f"{name}.csv")
        if not every:
            print(f"{name}: no lines")
            continue
        tables.write(every, TABLES / f"{name}.csv")
        table = tables.whole_seeds(experiment, every)
        found[name] = experiment, table
        tables.plot(experiment, table, FIGURES / f"{name}.webp")
        pictured = draw_arms(experiment, arguments.pictures, FIGURES / f"{name}-pictures.webp")
        parts.append(section(experiment, table, pictured or (FIGURES / f"{name}-pictures.webp").is_file()))
        print(f"{name}\n{tables.summary(experiment, table)}")
    if CHOICE.is_file():
        parts.append(choice_section(files.read_json(CHOICE)))
    update(PAGE, "\n".join([overview(found), *parts]))


if __name__ == "__main__":
    cli(main)
