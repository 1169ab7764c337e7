"""What a run needs before it starts: time, memory and disk, from closed forms fitted to recorded runs. No torch.

The forms follow :mod:`charloom.engine.fitting`: weights, adapter with gradients and optimiser, and per token what a
block keeps. Their constants were fitted to ``benchmarks/results/train_step.json`` and ``whole_run.json`` (one H100,
rank 32, float8); ``tests/workflow/test_price.py`` compares them with every line of both. Seconds are an H100's: on
other cards steps take longer, and what Snakemake measured on this machine (``benchmark:`` files) replaces them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.core import records
from charloom.core.layout import results
from charloom.engine.options import EngineOptions

GIB = 2**30
BYTES = {"float8": 1.0, "int8": 1.0, "nf4": 0.5625, "bf16": 2.0, "none": 4.0}
"""Bytes per weight of a Linear of the blocks; with nf4's scales, the others' are a thousandth."""
STATE = {"adamw8bit": 2, "adamw": 8, "lion": 4, "adafactor": 0.1, "prodigy": 16}
"""Bytes of optimiser state per trained parameter."""
KEPT = 40.0
"""Bytes that a block keeps per token and channel (measured on an H100)."""
BOUNDARY = 2.0
"""Bytes per token and channel of a block's output, and of its attention's. Of blocks that recompute they wait in main
memory, except where weights of blocks do."""
WORKING, CAUTIOUS, LEAVING = 33.0, 70.0, 5.0
"""Bytes per token and channel of the block at work, fitted and as the engine expects before it has measured; and of
what is on its way to main memory or back (fitted)."""
UNSEEN = 64 * 2**20
"""Bytes that the engine leaves for what a trial does not see."""
SLOTS = 2
"""GPU buffers that blocks in main memory share."""
CAPTION = 96
"""Caption tokens of a usual caption, padded."""
STEP = (0.01274, 3.0467e-5, 2.819e-9)
"""Seconds of a step in an H100's float8 with nothing recomputed: constant, per token, per token squared (fitted)."""
RECOMPUTED, ATTENTION = 0.36, 0.06
"""Shares by which a step takes longer if every block recomputes, and if that includes its attention, as it does where
weights of blocks live in main memory (fitted)."""
LINK = 52e9
"""Bytes per second to the GPU, which blocks in main memory cross twice per step (measured on an H100, PCIe 5)."""
ROOM, MARGIN, FRAGMENTATION = 1.7, 0.25, 0.92
"""GiB that a picture of 1024 x 1024 needs beside the transformer, GiB left for others, and the share of what is free
that may be allocated: as the engine decides before it loads a model to draw with."""
PYTHON, PREPARING = 4.0, 16.0
"""GiB of main memory of Python with torch, and of preparing a base."""
START, EXCHANGE = 50.0, 2.2
"""Seconds of the trainer before its first step, and around each checkpoint's previews."""
DRAWN = 0.16
"""Seconds of one sampler pass at 1024 x 1024 beside training."""
PER_JOB = {
    "make_reference": 0.3, "make_source_image": 0.33, "crop_watermark": 0.6, "write_caption": 0.12, "lint_dataset": 3.0,
    "convert_picture": 0.3, "convert_set_picture": 0.3, "take_caption": 0.03, "take_set_caption": 0.03,
    "encode_latents": 0.78, "encode_caption": 0.03, "encode_text": 0.03, "encode_class_caption": 0.03, "lock_base": 9.0,
    "prepare_base": 30.0, "write_manifest": 0.2, "write_prompts": 0.2, "draw_grid": 1.6, "sample_checkpoint": 0.2,
    "score_checkpoint": 5.5, "sample_strength": 0.95, "score_strengths": 4.8, "study_references": 2.7,
    "lock_judge": 0.5, "choose_checkpoint": 0.5, "write_report": 12.0,
    "verify_checkpoint": 8.0, "export_final": 1.0,
}  # fmt: skip
"""Seconds per job besides training (``whole_run.json``), and once for jobs that load a model: :data:`ONCE`."""
ONCE = {"encode_caption": 22.0, "sample_strength": 31.0}


@dataclass(frozen=True)
class Model:
    """Sizes of a transformer of Z-Image's kind."""

    dim: int = 3840
    layers: int = 30
    hidden: int = 10240
    modulation: int = 256
    total: int = 6_154_908_736
    wide: int = 256_668_736
    """Parameters that are never quantised: modulation, embedders, norms, the noise refiner's attention."""
    text_encoder: int = 4_022_468_096
    text_wide: int = 389_152_256

    @property
    def block(self) -> int:
        """Parameters of one block."""
        return self.linears + self.modulated

    @property
    def linears(self) -> int:
        """Parameters of one block that are quantised."""
        return 4 * self.dim**2 + 3 * self.dim * self.hidden

    @property
    def modulated(self) -> int:
        """Parameters of one block's modulation."""
        return 4 * self.dim * (self.modulation + 1)

    def adapter(self, rank: int, modules: Any) -> int:
        """Parameters of a LoRA: in + out of every adapted Linear, times the rank."""
        attention, mlp = 8 * self.dim, 3 * (self.dim + self.hidden)
        own = {"attention": attention, "attention+mlp": attention + mlp}
        each = own.get(modules if isinstance(modules, str) else "", attention + mlp + self.modulation + 4 * self.dim)
        return self.layers * each * rank


MODEL = Model()
"""Z-Image's, whose runs were measured."""


def weights(kind: str, total: int, wide: int) -> float:
    """Bytes of ``total`` parameters in a number format; ``wide`` of them are never quantised."""
    return (total - wide) * BYTES[kind] + wide * (4.0 if kind == "none" else 2.0)


@dataclass(frozen=True)
class Fit:
    """How training fits: GiB at its peak, blocks that recompute, blocks in main memory, and whether it fits at all."""

    peak: float
    recomputing: int
    swapped: int
    fits: bool


def tokens(edge: int) -> int:
    """Tokens of a square picture with its caption."""
    return (edge // 16) ** 2 + CAPTION


def batch_tokens(recipe: Mapping[str, Any], edge: int | None = None) -> int:
    """Tokens of a batch of pictures of one size, by default the largest, in all of its forward passes."""
    count = tokens(edge or max(recipe["data"]["resolutions"])) * recipe["train"]["batch_size"]
    preserving = any(part["enabled"] for part in recipe["train"]["preservation"].values())
    return count * (2 if preserving else 1)  # one more pass, whose activations live until the backward pass


def training(recipe: Mapping[str, Any], budget: float | None, edge: int | None = None) -> Fit:
    """How the largest batch fits into ``budget`` GiB (None: whatever it takes with every block keeping everything)."""
    kind = recipe["quantization"]["transformer"]
    block, fixed = weights(kind, MODEL.block, MODEL.modulated), _fixed(recipe)
    largest = batch_tokens(recipe, edge) * MODEL.dim
    away, outputs = recipe["engine"]["offload"], BOUNDARY * MODEL.layers * largest
    swapped = MODEL.layers // 2 if recipe["layer_offloading"] else 0
    limit = math.inf if budget is None else budget * GIB
    expected = fixed + CAUTIOUS * largest + UNSEEN
    if expected + (0 if away else outputs) > limit:
        swapped = max(swapped, min(MODEL.layers, math.ceil((expected + outputs - limit) / block) + SLOTS))
    away = away and not swapped
    least = fixed + WORKING * largest + (LEAVING * largest if away else outputs) - max(0, swapped - SLOTS) * block
    extra = (KEPT if away else KEPT - BOUNDARY) * largest
    kept = (
        0 if swapped else MODEL.layers if budget is None else int(min(MODEL.layers, max(0, (limit - least) // extra)))
    )
    copies = 0.0  # transposed float8 weights, where there is room for them (fitting.roomy)
    if kept == MODEL.layers and kind == "float8" and 2 * fixed + 0.85 * KEPT * largest * MODEL.layers <= limit:
        copies = float(MODEL.linears * MODEL.layers)
    peak = least + kept * extra + copies
    return Fit(peak / GIB, MODEL.layers - kept, swapped, peak <= limit)


def _fixed(recipe: Mapping[str, Any]) -> float:
    """Bytes of the weights, and of the adapter with its gradients and the optimizer's state."""
    trained = MODEL.adapter(recipe["network"]["rank"], recipe["network"]["modules"])
    whole = weights(recipe["quantization"]["transformer"], MODEL.total, MODEL.wide)
    return whole + trained * (8 + STATE[recipe["train"]["optimizer"]])


def step_seconds(recipe: Mapping[str, Any], edge: int, budget: float | None) -> float:
    """Seconds of an H100 for one update on pictures of one size."""
    swapped = training(recipe, budget).swapped  # by the largest size, for all of them
    found = training(recipe, budget, edge)
    size = tokens(edge) * recipe["train"]["batch_size"]
    seconds = STEP[0] + STEP[1] * size + STEP[2] * size * tokens(edge)
    share = RECOMPUTED + (0 if recipe["engine"]["offload"] and not swapped else ATTENTION)
    seconds *= 1 + share * (MODEL.layers if swapped else found.recomputing) / MODEL.layers
    moved = 2 * swapped * weights(recipe["quantization"]["transformer"], MODEL.block, MODEL.modulated) / LINK
    return max(seconds, moved) * recipe["train"]["gradient_accumulation"]


@dataclass(frozen=True)
class Stage:
    """The price of the jobs of one rule: seconds, and whether they were measured on this machine."""

    rule: str
    jobs: int
    seconds: float
    measured: bool


def stages(
    jobs: Mapping[str, int], recipe: Mapping[str, Any], steps: int, budget: float | None, here: Mapping[str, float]
) -> list[Stage]:
    """What the jobs of each rule take; ``here`` is seconds per job (for training per step) measured on this machine."""
    found = []
    for rule, count in jobs.items():
        if rule in here:
            found.append(Stage(rule, count, here[rule] * (steps if rule == "train_segment" else count), True))
        elif rule == "train_segment":
            edges = recipe["data"]["resolutions"]
            each = sum(step_seconds(recipe, edge, budget) for edge in edges) / len(edges)
            drawn = jobs.get("sample_checkpoint", 0)
            passes = recipe["sample"]["steps"] * (2 if recipe["sample"]["guidance"] > 1 else 1)
            area = recipe["sample"]["width"] * recipe["sample"]["height"] / 2**20
            seconds = START + steps * each + drawn * DRAWN * passes * area + (count + 1) * EXCHANGE
            found.append(Stage(rule, count, seconds, False))
        elif rule in PER_JOB:
            found.append(Stage(rule, count, ONCE.get(rule, 0.0) + count * PER_JOB[rule], False))
    return found


def measured_here(root: Path, steps: Mapping[str, int]) -> dict[str, float]:
    """Seconds per job of each rule, and per step of training, from Snakemake's benchmark files below ``root``.

    ``steps`` are the characters that use a base, with the steps that they were trained for; others do not count.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    trained = done = 0.0
    for name, last in steps.items():
        made = results(name, root)
        jobs = records.of_jobs(made)
        for job in jobs:
            if job.rule != "train_segment":
                seconds[job.rule].append(job.seconds)
        took = sum(job.seconds for job in jobs if job.rule == "train_segment")
        if took > 5 and last and made.final.is_file():  # else it came from the store
            trained, done = trained + took, done + last
    found = {rule: sum(values) / len(values) for rule, values in seconds.items()}
    return found | ({"train_segment": trained / done} if done else {})


def gpu_memory(recipe: Mapping[str, Any], budget: float | None) -> dict[str, float]:
    """GiB of GPU memory by what is done: training, previews and texts."""
    area = recipe["sample"]["width"] * recipe["sample"]["height"] / 2**20
    kind = recipe["quantization"]["text_encoder"]
    text = weights("bf16" if kind == "none" else kind, MODEL.text_encoder, MODEL.text_wide)
    largest = training(recipe, budget)
    # Where blocks recompute, a smaller size may fill the budget better; where they are swapped, the largest size says
    # how many.
    sizes = [] if largest.swapped else [training(recipe, budget, edge) for edge in recipe["data"]["resolutions"]]
    return {
        "train": max(one.peak for one in [largest, *sizes]),
        # At least what the engine wants to see free before it draws.
        "previews": max(_drawn_with(recipe) + 2.0 * area, drawing(recipe)),
        "texts": text / GIB + 1.0,
    }


def drawn_in(recipe: Mapping[str, Any]) -> str:
    """The number format of previews' weights: by default float8 where training quantises to it, so that it can draw."""
    precision = recipe["sample"]["precision"]
    drawn = recipe["quantization"]["transformer"] if precision == "auto" else precision
    return "float8" if drawn == "float8" else "bf16"


def drawing(recipe: Mapping[str, Any]) -> float:
    """GiB of GPU memory that must be there, or allowed by ``memory``, for the engine to draw pictures at all."""
    return (_drawn_with(recipe) + ROOM + MARGIN) / FRAGMENTATION


def _drawn_with(recipe: Mapping[str, Any]) -> float:
    """GiB of the transformer's weights as previews use them."""
    return weights(drawn_in(recipe), MODEL.total, MODEL.wide) / GIB


def limit(recipe: Mapping[str, Any]) -> float | None:
    """GiB of GPU memory that the recipe allows; None for all that is free."""
    return EngineOptions(recipe["memory"], recipe["low_vram"]).limit


def draws(recipe: Mapping[str, Any], budget: float | None) -> bool:
    """Whether a trainer on a GPU draws previews: its weights are all there, in the previews' format, and leave room."""
    kind = recipe["quantization"]["transformer"]
    if kind != drawn_in(recipe) or recipe["sample"]["disable"] or training(recipe, budget).swapped:
        return False
    area = max(1.0, recipe["sample"]["width"] * recipe["sample"]["height"] / 2**20)
    return budget is None or _fixed(recipe) / GIB + ROOM * area + MARGIN <= budget  # a card of 10 GiB did not


def main_memory(recipe: Mapping[str, Any], budget: float | None, jobs: Collection[str]) -> float:
    """GiB of main memory of the job that needs most: Python with torch, and what is there of the model.

    Of the trainer these are blocks that live there or all that are loaded there first, and two copies for previews; and
    what blocks recompute from.
    """
    kind, found = recipe["quantization"]["transformer"], [PYTHON]
    whole = weights(kind, MODEL.total, MODEL.wide) / GIB
    if "prepare_base" in jobs:
        found.append(max(PREPARING, PYTHON + whole))
    if "train_segment" in jobs:
        fit = training(recipe, budget)
        swapped = fit.swapped * weights(kind, MODEL.block, MODEL.modulated) / GIB
        loaded = whole if budget is not None and budget < 8 else 0
        own = max(swapped, loaded, 2 * whole if draws(recipe, budget) else 0)
        waits = recipe["engine"]["offload"] and fit.recomputing and not fit.swapped
        waiting = 2 * BOUNDARY * MODEL.layers * batch_tokens(recipe) * MODEL.dim / GIB if waits else 0
        found.append(PYTHON + own + waiting)
    return max(found)


def disk(recipe: Mapping[str, Any], images: int, previews: int, checkpoints: int) -> float:
    """GB that a run writes: the prepared base, latents, previews, checkpoints and two states."""
    trained = MODEL.adapter(recipe["network"]["rank"], recipe["network"]["modules"])
    latents = images * sum((edge / 8) ** 2 * 16 * 4 for edge in recipe["data"]["resolutions"])
    states = 2 * trained * (4 + STATE[recipe["train"]["optimizer"]])
    pictures = 1.6e6 * (images * 2 + previews * 2)
    base = weights(recipe["quantization"]["transformer"], MODEL.total, MODEL.wide)
    return (base + latents + states + pictures + checkpoints * trained * 2) / 1e9


def ladder(recipe: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Changes of the recipe that save memory and change the result, the smallest change first: words and overrides."""
    batch = recipe["train"]["batch_size"]
    if batch > 1:
        accumulation = recipe["train"]["gradient_accumulation"] * batch
        yield (
            f"train: {{batch_size: 1, gradient_accumulation: {accumulation}}}",
            {"train": {"batch_size": 1, "gradient_accumulation": accumulation}},
        )
    if BYTES[recipe["quantization"]["transformer"]] > 1:
        yield "quantization: {transformer: float8}", {"quantization": {"transformer": "float8"}}
    if BYTES[recipe["quantization"]["transformer"]] > BYTES["nf4"]:
        words, change = "quantization: {transformer: nf4}", {"quantization": {"transformer": "nf4"}}
        if recipe["sample"]["precision"] == "auto" and not recipe["sample"]["disable"]:
            # Which would follow training to bf16, and need more memory than training.
            words, change["sample"] = f"{words}, sample: {{precision: float8}}", {"precision": "float8"}
        yield words, change
    rank = recipe["network"]["rank"]
    while (rank := rank // 2) >= 8:
        yield f"network: {{rank: {rank}, alpha: {rank}}}", {"network": {"rank": rank, "alpha": rank}}
    edges = sorted(recipe["data"]["resolutions"])
    while len(edges := edges[:-1]):
        yield f"data: {{resolutions: {edges}}}", {"data": {"resolutions": edges}}


def smallest_change(recipe: Mapping[str, Any], budget: float) -> list[str] | None:
    """The first rung that fits alone, else the fewest from the top together; empty if nothing is needed, None if
    nothing helps. Previews are given up where no number format lets them fit."""
    if training(recipe, budget).fits:
        return []
    without = []
    if not recipe["sample"]["disable"] and drawing(_with(recipe, {"sample": {"precision": "float8"}})) > budget:
        without = ["sample: {disable: true}"]
        recipe = _with(recipe, {"sample": {"disable": True}})
    rungs = list(ladder(recipe))
    for words, change in rungs:
        if training(_with(recipe, change), budget).fits:
            return [words, *without]
    whole, taken = recipe, {}
    for words, change in rungs:
        whole = _with(whole, change)
        taken[words.split(":")[0]] = words  # a later rung of the same knob replaces the earlier one
        if training(whole, budget).fits:
            return [*taken.values(), *without]
    return None


def _with(recipe: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    return {**recipe, **{key: {**recipe[key], **value} for key, value in change.items()}}
