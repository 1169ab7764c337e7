"""The recipe of an ai-toolkit job, with ai-toolkit's defaults for the knobs that the job leaves unset.

What a key does follows ai-toolkit's code (August 2026), not the key's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from charloom.interop.aitoolkit.job import Job

_OPTIMIZERS = {"adamw8bit": "adamw8bit", "adamw": "adamw", "adafactor": "adafactor", "prodigy": "prodigy",
               "prodigyopt": "prodigy", "lion": "lion"}  # fmt: skip
_ALMOST = {"lion8bit": "lion", "prodigy8bit": "prodigy", "adamw8": "adamw8bit"}
"""Optimisers that charloom has with their state in another precision."""
_WEIGHT_DECAY = {"adamw8bit": 0.01, "adamw": 0.01, "adafactor": 0.0, "prodigy": 0.0, "lion": 0.0}
"""Default weight decay of the optimisers that ai-toolkit uses."""
_PRODIGY_LR = 0.1
"""ai-toolkit regards a lower rate as left over from another optimiser, and sets it to 1."""
_SCHEDULES = ("constant", "constant_with_warmup", "cosine")
_TIMESTEPS = {"sigmoid": "sigmoid", "linear": "linear", "weighted": "weighted", "shift": "shift",
              "flux_shift": "shift", "lumina2_shift": "shift"}  # fmt: skip
"""All shifts are the same for this model, whose schedule is not dynamic."""
_BIAS = {"balanced": "balanced", "content": "high_noise", "high_noise": "high_noise", "style": "low_noise",
         "low_noise": "low_noise"}  # fmt: skip
_OTHER_LOSSES = ("wavelet", "stepped", "mean_flow", "pixelspace")
_FLOAT8 = ("qfloat8", "float8")
_PRECISION = {"qint8": "int8", "uint8": "int8", "int8": "int8", "qint4": "nf4", "uint4": "nf4", "int4": "nf4",
              "nf4": "nf4"}  # fmt: skip
_DTYPES = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "fp32": "fp32", "float32": "fp32",
           "float": "fp32"}  # fmt: skip
_FULL_RANK = 512
"""The largest rank that the schema allows; full rank for blocks of up to 1,024."""


def whole(value: Any) -> int:
    """An integer; ``3e3`` is one too."""
    return int(float(value))


class Knobs:
    """The recipe being built; ai-toolkit's defaults are written only where they differ from charloom's.

    ``ours`` is the recipe for what the job leaves unset: the schema's defaults, overridden by the base's.
    """

    def __init__(self, job: Job, ours: Mapping[str, Any]) -> None:
        self.job, self.ours = job, ours
        self.recipe: dict[str, Any] = {}
        self.open: dict[str, Any] = {}

    def put(self, target: str, value: Any) -> None:
        """Set a knob such as ``train.lr``."""
        *groups, last = target.split(".")
        node = self.recipe
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
        self.open.pop(target, None)

    def default(self, target: str, value: Any) -> None:
        """Set a knob that the job leaves unset, if charloom's default differs."""
        node: Any = self.ours
        for part in target.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node != value:
            self.put(target, value)
            self.open[target] = value

    def take(self, target: str, key: str, convert: Callable[[Any], Any], default: Any = None) -> Any:
        """Set a knob to the value of a key, or to ai-toolkit's default (None: there is none)."""
        value = self.job.take(key, convert)
        if value is not None:
            self.put(target, value)
        elif default is not None:
            self.default(target, default)
        return default if value is None else value

    def choose(self, target: str, key: str, known: Mapping[str, str], default: str | None = None) -> None:
        """The same for a choice between words; an unknown word is reported."""
        word = self.job.take(key, lambda value: str(value).lower())
        if word in known:
            self.put(target, known[word])
        elif word is not None:
            self.job.refuse(key, f"{word} is not supported ({', '.join(known)}); {target} keeps its default")
        elif default is not None:
            self.default(target, default)


def read(knobs: Knobs) -> None:
    """The knobs of a job, except those of its data sets (:mod:`charloom.interop.aitoolkit.sets`)."""
    job = knobs.job
    _network(knobs)
    _quantization(knobs)
    _training(knobs)
    _preservation(knobs)
    _saving(knobs)
    if knobs.open:
        said = ", ".join(f"{key} {value}" for key, value in knobs.open.items())
        job.todo.append(f"recipe: not set in the job, filled in with ai-toolkit's defaults: {said}")


def _network(knobs: Knobs) -> None:
    job = knobs.job
    if not job.has("network"):
        job.todo.append("recipe.network: the job has none and trains the whole model; this file trains a LoRA instead")
        return
    knobs.choose("network.type", "network.type", {kind: kind for kind in ("lora", "lokr", "dora")}, "lora")
    kind = knobs.recipe.get("network", {}).get("type", "lora")
    # ai-toolkit prefers the older name.
    older, linear = job.take("network.rank", whole), job.take("network.linear", whole)
    rank = older or linear or 4
    full = job.take("network.lokr_full_rank", bool, True)
    if kind == "lokr" and full:
        rank = _FULL_RANK
        job.todo.append(
            f"recipe.network.rank: the job's LoKr has full rank; set to {rank}, which is full for blocks of up to "
            f"{2 * rank}, so always with lokr_factor -1"
        )
    if knobs.ours["network"]["rank"] != rank or older or linear:
        knobs.put("network.rank", rank)
    for key in ("network.alpha", "network.linear_alpha"):
        if job.take(key, float) not in (None, rank) and not (kind == "lokr" and full):
            job.refuse(key, f"ai-toolkit ignores alpha for this model and scales by 1; set to {rank}")
    # Set again in read.py once the rank has been fitted to the schema.
    knobs.put("network.alpha", float(rank))
    if first := job.take("network.pretrained_lora_path", str):
        if kind == "lora":
            knobs.put("network.init", first)
        else:
            job.refuse("network.pretrained_lora_path", f"only a LoRA can be started from another, not a {kind}")
    if kind == "lokr":
        knobs.take("network.lokr_factor", "network.lokr_factor", whole, -1)
        if job.take("network.dropout", float):
            job.refuse("network.dropout", "ai-toolkit has no dropout for LoKr")
    else:
        job.take("network.lokr_factor")
        knobs.take("network.dropout", "network.dropout", float, 0.0)


def _quantization(knobs: Knobs) -> None:
    """``quantize`` and ``qtype``; the text encoder follows the transformer unless it is named."""
    job = knobs.job
    if not job.has("model"):
        return
    transformer = job.take("model.quantize", bool, False)
    encoder = job.take("model.quantize_te", bool, transformer)
    for part, wanted, key in (("transformer", transformer, "qtype"), ("text_encoder", encoder, "qtype_te")):
        kind = job.take(f"model.{key}", lambda value: str(value).lower(), "qfloat8").partition("|")[0]
        named = part == "text_encoder" and "model.quantize_te" in job.values
        known = "float8" if kind in _FLOAT8 else _PRECISION.get(kind)
        if wanted and known is None:
            job.refuse(f"model.{key}", f"{kind} is not supported; float8 is used")
        elif wanted and known == "nf4" != kind:
            job.todo.append(f"recipe.quantization.{part}: {kind} is not supported; set to nf4, which has four bits too")
        value = (known or "float8") if wanted else "bf16"
        given = job.values.get("model.quantize_te" if named else "model.quantize")
        put = knobs.default if given is None else knobs.put
        put(f"quantization.{part}", value)
    knobs.take("low_vram", "model.low_vram", bool, False)
    older = job.take("model.auto_memory", bool, False)
    knobs.take("layer_offloading", "model.layer_offloading", bool, older)


def _training(knobs: Knobs) -> None:
    job = knobs.job
    steps = knobs.take("train.steps", "train.steps", whole, 1000)
    knobs.take("train.batch_size", "train.batch_size", whole, 1)
    _accumulation(knobs, steps)
    _optimizer(knobs)
    _schedule(knobs, steps)
    if not knobs.take("train.max_grad_norm", "train.max_grad_norm", float, 1.0):
        # In ai-toolkit 0 scales every gradient to zero; here it would turn clipping off.
        del knobs.recipe["train"]["max_grad_norm"]
        knobs.job.refuse("train.max_grad_norm", "with 0 ai-toolkit learns nothing; gradients are clipped to norm 1")
    knobs.choose("train.timestep_type", "train.timestep_type", _TIMESTEPS, "sigmoid")
    if "train.content_or_style" in job.values:
        knobs.choose("train.timestep_bias", "train.content_or_style", _BIAS, "balanced")
        if job.values.get("train.timestep_bias") is not None:
            job.refuse("train.timestep_bias", "ai-toolkit reads train.content_or_style instead")
    else:
        knobs.choose("train.timestep_bias", "train.timestep_bias", _BIAS, "balanced")
        if knobs.recipe["train"].get("timestep_bias", "balanced") != "balanced":
            job.todo.append(
                "recipe.train.timestep_bias: ai-toolkit reads train.content_or_style instead and trained balanced"
            )
    _loss(knobs)
    knobs.take("train.seed", "train.seed", whole)
    knobs.take("train.seed", "training_seed", whole)
    precision = {name: kind for name, kind in _DTYPES.items() if kind != "fp16"}
    knobs.choose("train.dtype", "train.dtype", precision, "fp32")
    on = job.take("train.ema_config.use_ema", bool, False)
    decay = job.take("train.ema_config.ema_decay", float, 0.999)
    if on:
        knobs.put("train.ema", {"decay": decay})
    else:
        knobs.default("train.ema", False)
    for key, usual in (("use_feedback", False), ("param_multiplier", 1.0)):
        if on and job.take(f"train.ema_config.{key}", float, usual) != usual:
            job.refuse(f"train.ema_config.{key}", "not supported")


def _accumulation(knobs: Knobs, steps: int) -> None:
    job = knobs.job
    knobs.take("train.gradient_accumulation", "train.gradient_accumulation", whole, 1)
    older = job.take("train.gradient_accumulation_steps", whole, 1)
    if older != 1:
        knobs.put("train.gradient_accumulation", max(older, 1))
        many = f"its {steps} steps are {-(-steps // older)} updates" if older > 1 else "and -1 is one update per epoch"
        job.todo.append(
            f"recipe.train.steps: with gradient_accumulation_steps ai-toolkit counts forward passes, {many}; "
            f"charloom counts updates, so lower train.steps, save.every and sample.every"
        )


def _optimizer(knobs: Knobs) -> None:
    job = knobs.job
    word = job.take("train.optimizer", lambda value: str(value).lower())
    if word in _ALMOST:
        job.todo.append(f"recipe.train.optimizer: {word} is not supported; set to {_ALMOST[word]}, the closest")
    known = {**_OPTIMIZERS, **_ALMOST}
    if word in known or word is None:
        knobs.choose("train.optimizer", "train.optimizer", known, "adamw")
        name = known[word or "adamw"]
    else:
        name = knobs.ours["train"]["optimizer"]
        job.refuse("train.optimizer", f"{word} is not supported; {name} is used, so check train.lr too")
    rate = job.take("train.lr", float)
    if name == "prodigy" and (rate is None or rate < _PRODIGY_LR):
        knobs.put("train.lr", 1.0)
        if rate is not None:
            job.todo.append(f"recipe.train.lr: {rate} is too low for prodigy; set to 1, as ai-toolkit does")
    elif rate is not None:
        knobs.put("train.lr", rate)
    else:
        knobs.default("train.lr", 1e-6)
    misplaced = job.take("train.weight_decay", float)
    decay = job.take("train.optimizer_params.weight_decay", float)
    if decay is not None and misplaced is not None:
        job.refuse("train.weight_decay", "ai-toolkit reads train.optimizer_params.weight_decay instead")
    elif misplaced is not None:
        decay = misplaced
        job.todo.append(
            f"recipe.train.weight_decay: set to {decay} as in the job, but ai-toolkit reads it only from "
            f"train.optimizer_params and trained with {_WEIGHT_DECAY[name]}"
        )
    if decay is None:
        knobs.default("train.weight_decay", _WEIGHT_DECAY[name])
    else:
        knobs.put("train.weight_decay", decay)
    for key in [key for key in job.values if key.startswith("train.optimizer_params.")]:
        if not key.endswith(".weight_decay"):
            job.refuse(key, "only weight_decay is taken from optimizer_params")


def _schedule(knobs: Knobs, steps: int) -> None:
    job = knobs.job
    word = job.take("train.lr_scheduler", lambda value: str(value).lower(), "constant")
    below = "train.lr_scheduler_params"
    understood = []
    if word in _SCHEDULES:
        put = knobs.put if "train.lr_scheduler" in job.values else knobs.default
        put("train.lr_scheduler", word.partition("_")[0])
        if word == "constant_with_warmup":
            warmup = job.take(f"{below}.num_warmup_steps", whole, 1000)
            understood.append(f"{below}.num_warmup_steps")
            knobs.put("train.warmup_steps", min(warmup, steps))
            if warmup > steps:
                job.todo.append(f"recipe.train.warmup_steps: {warmup} is more than all {steps} steps; set to {steps}")
        else:
            knobs.default("train.warmup_steps", 0)
    else:
        what = "rises from a third of the rate to all of it in ai-toolkit" if word == "linear" else "is not supported"
        kept = knobs.ours["train"]["lr_scheduler"]
        job.refuse("train.lr_scheduler", f"{word} {what}; train.lr_scheduler keeps its default, {kept}")
    for key in [key for key in job.values if key.startswith(f"{below}.") and key not in understood]:
        neutral = 1 if key.endswith(".factor") else 0 if key.endswith(".eta_min") else None
        if neutral is not None and job.take(key, float) == neutral:
            continue
        if not key.endswith(".total_iters"):  # which ai-toolkit overwrites with the steps
            job.refuse(key, f"the schedule {word} has no such parameter here")
        else:
            job.take(key)


def _loss(knobs: Knobs) -> None:
    job = knobs.job
    word = job.take("train.loss_type", str)
    if word is None:
        knobs.default("train.loss", "mse")
    elif word in _OTHER_LOSSES:
        job.refuse("train.loss_type", f"{word} is not supported; train.loss keeps its default")
    else:
        knobs.put("train.loss", {"mae": "mae", "pseudo_huber": "huber"}.get(word, "mse"))
        if word not in ("mse", "mae", "pseudo_huber"):
            what = "its Huber loss is called pseudo_huber" if word == "huber" else "it does not know the word"
            job.todo.append(f"recipe.train.loss: set to mse, which ai-toolkit uses for loss_type {word}; {what}")


def _preservation(knobs: Knobs) -> None:
    job = knobs.job
    group = "train.preservation.differential"
    on = knobs.take(f"{group}.enabled", "train.diff_output_preservation", bool, False)
    knobs.take(f"{group}.multiplier", "train.diff_output_preservation_multiplier", float, 1.0 if on else None)
    word = job.take("train.diff_output_preservation_class", lambda value: " ".join(str(value).split()))
    if word:
        knobs.put(f"{group}.class", word)
    elif on:
        kept = knobs.ours["train"]["preservation"]["differential"]["class"]
        job.todo.append(
            f"recipe.{group}.class: the job names none; write a word for the character's kind, else it is {kept}"
        )
    group = "train.preservation.blank"
    blank = knobs.take(f"{group}.enabled", "train.blank_prompt_preservation", bool, False)
    knobs.take(f"{group}.multiplier", "train.blank_prompt_preservation_multiplier", float, 1.0 if blank else None)
    if on and blank:
        knobs.put(f"{group}.enabled", False)
        why = "ai-toolkit uses only the former, so the latter was switched off"
        job.todo.append(f"recipe.train.preservation: differential and blank are both on; {why}")


def _saving(knobs: Knobs) -> None:
    job = knobs.job
    steps = knobs.recipe.get("train", {}).get("steps", knobs.ours["train"]["steps"])
    knobs.choose("save.dtype", "save.dtype", _DTYPES, "fp16")
    # 0 means never, but the last step is always saved.
    every = knobs.take("save.every", "save.save_every", lambda value: whole(value) or steps, 1000)
    knobs.take("save.keep", "save.max_step_saves_to_keep", lambda value: whole(value) or "all", 5)
    for place in ("train", "sample"):
        default = False if place == "train" and job.has("sample") else None
        for key in ("skip_first", "force_first"):
            knobs.take(f"sample.{key}", f"{place}.{key}_sample", bool, default)
        knobs.take("sample.disable", f"{place}.disable_sampling", bool, default)
    if not job.has("sample"):
        return
    sampled = knobs.take("sample.every", "sample.sample_every", lambda value: whole(value) or steps, 100)
    knobs.take("sample.steps", "sample.sample_steps", whole, 20)
    # As in ai-toolkit, values below 1 mean no guidance.
    knobs.take("sample.guidance", "sample.guidance_scale", lambda value: max(1.0, float(value)), 7.0)
    knobs.take("sample.width", "sample.width", whole, 512)
    knobs.take("sample.height", "sample.height", whole, 512)
    knobs.take("sample.walk_seed", "sample.walk_seed", bool, False)
    seed = job.take("sample.seed", whole, 0)
    if seed >= 0:
        (knobs.put if job.values.get("sample.seed") is not None else knobs.default)("sample.seed", seed)
    else:
        kept = knobs.ours["sample"]["seed"]
        job.todo.append(
            f"recipe.sample.seed: {seed} means a random seed each time; set to {kept}, so that previews can be compared"
        )
    every, sampled = max(every, 1), max(sampled, 1)
    if sampled % every:
        rounded = -(-sampled // every) * every
        knobs.put("sample.every", rounded)
        why = f"{sampled} is not a multiple of save.every {every}, and only saved steps are sampled"
        job.todo.append(f"recipe.sample.every: set to {rounded}, because {why}")
