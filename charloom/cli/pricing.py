"""What a character takes before it is made: the lines below the plan, from :mod:`charloom.workflow.price`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from charloom.base import hub
from charloom.cli.planning import Group
from charloom.core import files, last_run
from charloom.core.errors import UserError
from charloom.core.layout import WORK
from charloom.core.numbers import roughly
from charloom.workflow import devices, price

BESIDE = 1.5
"""GiB of a card that training cannot use: the desktop, the driver, cuBLAS workspaces; as in profiles/gpu-16gb."""
SMALL, BESIDE_SMALL = 9.0, 2.0
"""A card with less GiB than this has to swap blocks, and training cannot use this much of it: with 6.5 of 8 GiB allowed
it ran out of memory once and continued with more blocks in main memory (``limited_cards.json``)."""
CONTEXT = 0.5
"""GiB of a card that CUDA itself takes."""
PREVIEWS = ("sample_checkpoint", "sample_strength", "sample_drift")
DRAWING = (*PREVIEWS, "draw_reference", "draw_gallery")
"""Rules that draw with the base; a pipeline of the user is not included."""
ENCODING = ("encode_caption", "encode_class_caption", "encode_text")
_FOLLOWS = {
    "draw_gallery": ", the gallery",
    "draw_reference": ", the reference and all pictures that are generated after it",
}
_NO_PREVIEWS = "recipe: {sample: {disable: true}}"
LONG = 300
"""Seconds of training on an H100 above which to expect hours on a consumer card."""
LISTED = 6
"""Stages listed, the longest first."""


def overrides(options: Sequence[str], root: Path) -> dict[str, Any]:
    """The settings of ``--profile`` or ``--config`` among Snakemake's options, with its precedence."""
    found = last_run.profile(options, root).get("config")
    of_profile = found if isinstance(found, list) else []
    # Snakemake lets --config replace the profile's entries as a whole.
    entries = last_run.listed(options, last_run.CONFIG) or of_profile
    return {key: yaml.safe_load(value) for key, _, value in (entry.partition("=") for entry in entries)}


def card(device: str) -> float | None:
    """GiB of the smallest GPU that jobs on ``device`` may get, according to the driver; None without one."""
    program = shutil.which("nvidia-smi")
    mine = {one.identity for one in devices.named(device)} if program else set()
    if not program or not mine:
        return None
    command = [program, "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [re.fullmatch(r"GPU-([\da-f-]+), *(\d+)", line.strip()) for line in done.stdout.splitlines()]
    sizes = [int(row[2]) / 1024 for row in rows if row and row[1].replace("-", "") in mine]
    return min(sizes, default=None)  # a part of a GPU is not listed


def lines(root: Path, name: str, found: Sequence[Group], given: dict[str, Any]) -> list[str]:
    """The price of a character's planned jobs; empty if none are planned.

    Raises:
        UserError: training cannot fit into the GPU memory that it may use; names the smallest change that would help.
    """
    from charloom.config import project

    jobs = {group.rule: group.jobs for group in found if group.who in (name, "")}
    workflow = project.read(root, overrides=given)  # a mistake in another character is not this one's
    if not jobs or name not in workflow.characters:
        return []
    character = workflow.characters[name]
    recipe, base = character.recipe, workflow.bases[character.base]
    # The missing segments are the last ones: earlier ones exist before a longer training starts.
    ends = [0, *character.saved_steps]
    steps = ends[-1] - ends[max(0, len(ends) - 1 - jobs.get("train_segment", 0))]
    people = {one.id: one.saved_steps[-1] for one in workflow.characters.values() if one.base == character.base}
    known = (root / WORK.lock(base.name)).exists()
    # Before a base was ever used here, records of characters that now use it are of another base.
    here = price.measured_here(root, people) if known else {}
    if base.miniature:
        stages = [one for one in price.stages(jobs, recipe, steps, None, here) if one.measured]
        return _times(stages, jobs, []) if stages else []
    there = card(workflow.device)
    budget = budget_of(recipe, there, beside(there))
    if "train_segment" in jobs and budget is not None:
        _refuse(name, recipe, budget)
    _refuse_drawing(name, recipe, jobs, there)
    stages = price.stages(jobs, recipe, steps, budget, here)
    download = base.download_gb or 0.0 if base.repo and not known else 0.0
    out = _times(stages, jobs, ["without the download"] if download else [])
    out += _memory(recipe, budget, jobs)
    if not {"prepare_base", "train_segment"} & set(jobs) and not download:
        return out  # pictures and pages: next to nothing
    images, drawn = len(character.image_names), jobs.get("sample_checkpoint", 0) + jobs.get("sample_strength", 0)
    disk = price.disk(recipe, images, drawn, len(character.saved_steps))
    more = f"; download {download:g} GB at most" if download else ""
    needs = [("the store", root / workflow.store, disk)]
    if base.repo and download:
        needs.append(("the download", hub.cache(), max(0.0, download - hub.held(base.repo))))
    out.append(f"  disk {disk:.0f} GB{more}{_short(needs)}")
    return out


def _memory(recipe: dict[str, Any], budget: float | None, jobs: dict[str, int]) -> list[str]:
    """What the planned jobs need of a GPU, and beside it; nothing where none of them computes with the base."""
    need, parts = price.gpu_memory(recipe, budget), []
    if "train_segment" in jobs:
        parts.append(f"training {need['train']:.1f} GiB{_how(recipe, budget)}")
    for what, rules in (("previews", DRAWING), ("texts", ENCODING)):
        if set(rules) & set(jobs):
            parts.append(f"{what} {need[what]:.1f}{'' if parts else ' GiB'}")
    if not parts and "prepare_base" not in jobs:
        return []
    main = f"main memory {price.main_memory(recipe, budget, jobs):.0f} GiB{_previews_later(recipe, budget, jobs)}"
    return [f"  GPU memory: {', '.join(parts)}; {main}" if parts else f"  {main}"]


def _short(needs: Sequence[tuple[str, Path, float]]) -> str:
    """Says which disks are too small for what is needed."""
    return "".join(
        f", but the disk of {one.folder} has {one.free:.0f} GB free, and {one.needed:.0f} GB are needed there "
        f"({one.what}): free some space first"
        for one in files.disks(needs)
        if one.free < one.needed
    )


def beside(there: float | None) -> float:
    """GiB of a card of ``there`` GiB that are not for training."""
    return BESIDE if there is None or there >= SMALL else BESIDE_SMALL


def budget_of(recipe: dict[str, Any], there: float | None, others: float) -> float | None:
    """GiB that may be used of a card of ``there`` GiB, of which ``others`` are taken; None without a limit."""
    limits = [price.limit(recipe), None if there is None else there - others]
    return min((one for one in limits if one is not None), default=None)


def _refuse_drawing(name: str, recipe: dict[str, Any], jobs: dict[str, int], there: float | None) -> None:
    """Refuse previews that cannot fit: they need the whole model in GPU memory, only training can swap blocks."""
    found = [rule for rule in DRAWING if rule in jobs]
    need, allowed = price.drawing(recipe), budget_of(recipe, there, CONTEXT)
    if not found or allowed is None or need <= allowed:
        return
    others = set(found) - set(PREVIEWS)
    lighter = {**recipe, "sample": {**recipe["sample"], "precision": "float8"}}
    if price.drawing(lighter) <= allowed:
        what = "previews alone" if not others else "previews" + "".join(_FOLLOWS[rule] for rule in sorted(others))
        remedy = f"set recipe: {{sample: {{precision: float8}}}}, the smallest change that fits; it changes {what}"
    elif not others:
        remedy = f"the smallest change that fits: {_NO_PREVIEWS}, which draws no previews and ships the last checkpoint"
    elif others == {"draw_gallery"}:
        also = "" if set(found) == others else f", and set {_NO_PREVIEWS}"
        remedy = f"take gallery: out of the character file, which is the smallest change that fits{also}"
    else:
        remedy = "use a larger GPU, or pictures of your own"
    raise UserError(
        f"plan: {name}: drawing needs {need:.1f} GiB of GPU memory, and may use {allowed:.1f} GiB; {remedy}"
    )


def _refuse(name: str, recipe: dict[str, Any], budget: float) -> None:
    found = price.training(recipe, budget)
    if found.fits:
        return
    change = price.smallest_change(recipe, budget)
    raise UserError(
        f"plan: {name}: training needs {found.peak:.1f} GiB of GPU memory with every block recomputing and in main "
        f"memory, and may use {budget:.1f} GiB; "
        + (
            f"set recipe: {{{', '.join(change)}}}, the smallest change that fits, which changes the result"
            if change
            else "use a larger GPU: no setting makes it fit"
        )
    )


def _how(recipe: dict[str, Any], budget: float | None) -> str:
    found, blocks = price.training(recipe, budget), price.MODEL.layers
    if found.swapped:
        return f" ({found.swapped} of {blocks} blocks in main memory, which is slower and changes nothing else)"
    if found.recomputing and budget is not None:
        return f" ({found.recomputing} of {blocks} blocks recompute, which changes nothing but the time)"
    no_limit = " (no limit: no GPU here, and memory is not set; the comment in a profile has the figure of its card)"
    return no_limit if budget is None else ""


def _previews_later(recipe: dict[str, Any], budget: float | None, jobs: dict[str, int]) -> str:
    """How much main memory is enough if the trainer leaves previews to later jobs, as it does if memory is short."""
    later = {**recipe, "sample": {**recipe["sample"], "disable": True}}
    need, less = (round(price.main_memory(one, budget, jobs)) for one in (recipe, later))
    drawn = "sample_checkpoint" in jobs
    return f" ({less} if previews wait for the end of training)" if drawn and less < need else ""


def _times(stages: Sequence[price.Stage], jobs: dict[str, int], notes: list[str]) -> list[str]:
    total = sum(one.seconds for one in stages)
    training = next((one for one in stages if one.rule == "train_segment"), None)
    measured = any(one.measured for one in stages)
    longest = sorted(stages, key=lambda one: -one.seconds)[:LISTED]
    unknown = sum(count for rule, count in jobs.items() if rule not in {one.rule for one in stages})
    notes = [*notes, *([f"{unknown} jobs not estimated"] if unknown else [])]
    parts = [f"{one.rule.replace('_', ' ')} {roughly(one.seconds)}{'*' if one.measured else ''}" for one in longest]
    if measured:
        rest = ", the rest as on an H100" if training and not training.measured else ""
        notes.append(f"* as measured on this machine{rest}")
    head = f"time: about {roughly(total)}" if measured else f"time on an H100: {roughly(total)}"
    other = ""
    if training and not training.measured:
        slower = "on a consumer card expect hours" if training.seconds > LONG else "other cards are slower"
        other = f"; {slower} (charloom try measures yours)"
    return [f"{head}{' (' + '; '.join(notes) + ')' if notes else ''}{other}", f"  {', '.join(parts)}"]
