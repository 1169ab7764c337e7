"""Job files of ai-toolkit as character files.

Every key of the job is either understood or named with the reason why it is not; nothing is dropped in
silence. Knows the keys of both sides; it writes nothing (see ``cli``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from charloom import aitoolkit_sets, inventory, scaffold, schema
from charloom import words as words_of
from charloom.errors import UserError
from charloom.sources import folder as images_of

_SAVE_EVERY = 250
"""What ``save.every`` is where the job does not say it."""
_OPTIMIZERS = {"adamw8bit": "adamw8bit", "adamw": "adamw", "adafactor": "adafactor", "prodigy": "prodigy",
               "prodigyopt": "prodigy", "lion": "lion", "lion8bit": "lion"}  # fmt: skip
_BIAS = {"balanced": "balanced", "content": "high_noise", "high_noise": "high_noise", "style": "low_noise",
         "low_noise": "low_noise"}  # fmt: skip
_PRECISION = {"qfloat8": "float8", "float8": "float8", "qint8": "int8", "uint8": "int8", "int8": "int8",
              "qint4": "nf4", "uint4": "nf4", "int4": "nf4", "nf4": "nf4"}  # fmt: skip
_NUMBERS = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "fp32": "fp32", "float32": "fp32"}
_SCHEDULES = ("constant", "linear", "cosine")
_VIEWS = {
    "side profile": r"profile|side view",
    "seen from behind": r"behind|back view",
    "three-quarter view": r"three-quarter",
}

IGNORED: dict[str, str] = {
    "training_folder": "results always go to results/<character>/",
    "sqlite_db_path": "there is no database",
    "device": "set device in config/config.yaml, for all characters",
    "performance_log_every": "every step is logged",
    "logging": "metrics.jsonl and TensorBoard are always written",
    "network.conv": "the model has no convolutions",
    "network.conv_alpha": "the model has no convolutions",
    "network.lokr_full_rank": "use network.rank and network.lokr_factor",
    "network.network_kwargs": "use recipe.network.modules with regular expressions",
    "save.save_format": "files are always safetensors in the layout that loads everywhere",
    "save.push_to_hub": "nothing is ever uploaded",
    "datasets.mask_path": "masks are not supported",
    "datasets.mask_min_value": "masks are not supported",
    "datasets.num_frames": "pictures only",
    "datasets.shrink_video_to_frames": "pictures only",
    "datasets.controls": "the model takes no control pictures",
    "datasets.control_path": "the model takes no control pictures",
    "datasets.shuffle_tokens": "the text encoder reads sentences, whose order counts",
    "datasets.keep_tokens": "tokens are not shuffled",
    "train.lr_scheduler_params": "schedules have no further parameters",
    "train.optimizer_params": "only weight_decay is taken from it",
    "train.switch_boundary_every": "the model has no experts to switch between",
    "train.bypass_guidance_embedding": "the model has no guidance embedding",
    "train.free_u": "not supported",
    "model.extras_name_or_path": "the base file names the whole model",
    "model.model_kwargs": "the base file describes the model",
    "model.layer_offloading_transformer_percent": "how much is offloaded is decided by the memory there is",
    "model.layer_offloading_text_encoder_percent": "how much is offloaded is decided by the memory there is",
    "sample.neg": "without guidance there is no negative prompt",
    "sample.num_frames": "pictures only",
    "sample.fps": "pictures only",
    "sample.ext": "samples are PNG",
    "meta": "says nothing about training",
}
"""Keys that are known and not taken over (with everything below them), and why."""

GIVEN: dict[str, str] = {
    "type": "LoRA training is what charloom does",
    "datasets.cache_latents_to_disk": "latents are always made once and kept",
    "datasets.cache_latents": "latents are always made once and kept",
    "datasets.caption_ext": "captions are .txt",
    "datasets.is_reg": "one data set must show the character",
    "train.train_unet": "the transformer is always trained",
    "train.train_text_encoder": "the text encoder is never trained",
    "train.gradient_checkpointing": "as the memory demands",
    "train.noise_scheduler": "flow matching is the only way",
    "train.unload_text_encoder": "training never loads it",
    "train.cache_text_embeddings": "embeddings are always made once and kept",
    "sample.sampler": "flow-match Euler is the only sampler",
    "model.arch": "told by the base",
}
"""Keys whose usual value says what charloom does anyway; another value is reported."""

_USUAL: dict[str, tuple[Any, ...]] = {
    "type": ("sd_trainer", "ui_trainer", "diffusion_trainer"),
    "datasets.caption_ext": ("txt", ".txt"),
    "datasets.is_reg": (False,),
    "train.train_unet": (True,),
    "train.train_text_encoder": (False,),
    "train.noise_scheduler": ("flowmatch",),
    "sample.sampler": ("flowmatch",),
    "model.arch": ("zimage", "zimage:turbo", "z-image", "zimage_turbo"),
}


@dataclass
class Imported:
    """A character file in the making, and what became of every key of the job."""

    id: str
    character: dict[str, Any]
    captions: dict[str, str] = field(default_factory=dict)
    """Shot name to caption, for ``config/captions/<id>/``; a caption that was written by hand wins."""
    understood: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    todo: list[str] = field(default_factory=list)


class _Job:
    """The keys of a job by their dotted names; those that were never asked for are left over."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.tree, self.asked = tree, set()

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, which counts as understood."""
        self.asked.add(key)
        node: Any = self.tree
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return default if node is None else node

    def leaves(self) -> dict[str, Any]:
        """Every key with a value, except those below a key that was taken whole."""
        out: dict[str, Any] = {}

        def walk(node: Any, prefix: str) -> None:
            for key, value in node.items():
                name = f"{prefix}{key}"
                inside = any(asked.startswith(f"{name}.") for asked in self.asked)
                if isinstance(value, Mapping) and value and name not in self.asked and (inside or name not in IGNORED):
                    walk(value, f"{name}.")
                else:
                    out[name] = value

        walk(self.tree, "")
        return out


def read(path: Path, root: Path = Path("."), name: str | None = None) -> Imported:
    """The character in the job file ``path``.

    Args:
        path: a job YAML of ai-toolkit, ``job: extension``.
        root: the workflow's folder, whose ``config/bases`` are looked through for the model.
        name: name of the character file; by default the name of the job.

    Raises:
        UserError: the file is no such job, or trains something that charloom does not.
    """
    data = schema.read_yaml(path)
    try:
        config = data["config"]
        process = config["process"]
        tree = dict(process[0])
        title = str(config.get("name") or path.stem)
    except (KeyError, TypeError, IndexError, ValueError):
        raise UserError(f"{path}: is no job of ai-toolkit: config.process is missing; give its job YAML") from None
    if data.get("job", "extension") not in ("extension", "train"):
        raise UserError(f"{path}: job: {data['job']} is no training; only job: extension can be imported")
    slug = re.sub(r"[^a-z0-9_-]+", "-", title.lower()).strip("-_")[:40]
    result = Imported(scaffold.check_name(name or slug), {})
    result.understood += ["job", "config.name"]
    for index in range(1, len(process)):
        result.ignored[f"process[{index + 1}]"] = "only the first process is imported"
    if "meta" in data:
        result.ignored["meta"] = IGNORED["meta"]
    for key in set(data) - {"job", "config", "meta"}:
        result.ignored[key] = "unknown to charloom"
    _, tree["datasets"], others = aitoolkit_sets.own_first(tree.get("datasets") or [])
    job = _Job(tree)
    _character(job, result, title)
    result.character["recipe"] = _recipe(job, result)
    _base(job, result, root)
    _samples(job, result)
    _images(job, result)
    _account(job, result)
    for number, found in others:
        _further_set(number, found, result)
    order = ("name", "trigger", "concept", "appearance", "identity_line", "images", "shots", "crop", "datasets")
    order = (*order, "sample_prompts")
    result.character = {key: result.character[key] for key in (*order, "base", "recipe") if key in result.character}
    return result


def _further_set(number: int, found: Mapping[str, Any], result: Imported) -> None:
    """Add a data set beside the character's own, and account for its keys as ``datasets[number].key``."""
    sets = result.character.setdefault("datasets", [])
    made, understood, todo = aitoolkit_sets.entry(number, found, [other["name"] for other in sets])
    sets.append(made)
    result.todo += todo
    for key, value in found.items():
        known = f"datasets.{key}"
        if key in understood or (known in GIVEN and (known not in _USUAL or value in _USUAL[known])):
            result.understood.append(f"datasets[{number}].{key}")
        else:
            why = f"{value} is not possible: {GIVEN[known]}" if known in GIVEN else "unknown to charloom"
            result.ignored[f"datasets[{number}].{key}"] = IGNORED.get(known, why)


def _account(job: _Job, result: Imported) -> None:
    """Sort every key that the job has into understood and ignored."""
    for key, value in job.leaves().items():
        if key in result.ignored:
            continue
        if key in GIVEN:
            usual = _USUAL.get(key)
            if usual is None or value in usual:
                result.understood.append(key)
            else:
                result.ignored[key] = f"{value} is not possible: {GIVEN[key]}"
        elif key in job.asked:
            result.understood.append(key)
        else:
            above = next((k for k in IGNORED if key == k or key.startswith(f"{k}.")), None)
            result.ignored[key] = IGNORED[above] if above else "unknown to charloom"


def _character(job: _Job, result: Imported, title: str) -> None:
    trigger = str(job.take("trigger_word", ""))
    if not re.fullmatch(r"[A-Za-z0-9]{2,20}", trigger):
        guess = scaffold.trigger_for(result.id)
        said = f"'{trigger}' has other characters than letters and digits" if trigger else "the job has none"
        result.todo.append(f"trigger: {said}; {guess} was put in, and your captions must have it")
        trigger = guess
    result.character |= {
        "name": title[:60],
        "trigger": trigger,
        "appearance": "the person of the images",
        "identity_line": {"full": "{trigger}, a person", "eyes_hidden": "{trigger}, a person"},
    }


def _recipe(job: _Job, result: Imported) -> dict[str, Any]:
    """The knobs that the job names, in charloom's names."""
    recipe: dict[str, Any] = {}

    def put(target: str, key: str, convert: Callable[[Any], Any] | Mapping[str, Any] | None = None) -> None:
        value = job.take(key)
        if value is None:
            return
        if isinstance(convert, Mapping):
            known = convert.get(str(value).lower())
            if known is None:
                result.ignored[key] = f"{value} is not supported; {target} keeps its default ({', '.join(convert)})"
                return
            value = known
        elif convert is not None:
            value = convert(value)
        group, _, last = target.rpartition(".")
        node = recipe
        for part in group.split(".") if group else ():
            node = node.setdefault(part, {})
        node[last] = value

    def same(*values: str) -> dict[str, str]:
        return {value: value for value in values}

    put("network.type", "network.type", same("lora", "lokr", "dora"))
    put("network.rank", "network.linear", int)
    put("network.alpha", "network.linear_alpha", float)
    put("network.dropout", "network.dropout", float)
    put("network.lokr_factor", "network.lokr_factor", int)
    _quantization(job, recipe, result)
    put("low_vram", "model.low_vram", bool)
    put("layer_offloading", "model.layer_offloading", bool)
    put("train.steps", "train.steps", _whole)
    put("train.batch_size", "train.batch_size", int)
    put("train.gradient_accumulation", "train.gradient_accumulation", int)
    put("train.gradient_accumulation", "train.gradient_accumulation_steps", int)
    put("train.optimizer", "train.optimizer", _OPTIMIZERS)
    put("train.lr", "train.lr", float)
    put("train.weight_decay", "train.optimizer_params.weight_decay", float)
    put("train.weight_decay", "train.weight_decay", float)
    put("train.lr_scheduler", "train.lr_scheduler", same(*_SCHEDULES))
    put("train.warmup_steps", "train.lr_scheduler_params.num_warmup_steps", int)
    put("train.max_grad_norm", "train.max_grad_norm", float)
    put("train.timestep_type", "train.timestep_type", same("sigmoid", "linear", "shift", "weighted"))
    put("train.timestep_bias", "train.content_or_style", _BIAS)
    put("train.timestep_bias", "train.timestep_bias", _BIAS)
    put("train.loss", "train.loss_type", same("mse", "mae", "huber"))
    put("train.seed", "train.seed", int)
    put("train.dtype", "train.dtype", {"bf16": "bf16", "bfloat16": "bf16", "fp32": "fp32", "float32": "fp32"})
    if job.take("train.ema_config.use_ema") is not None:
        decay = float(job.take("train.ema_config.ema_decay", 0.99))
        recipe.setdefault("train", {})["ema"] = {"decay": decay} if job.take("train.ema_config.use_ema") else False
    job.take("train.ema_config.ema_decay")
    put("train.preservation.differential.enabled", "train.diff_output_preservation", bool)
    put("train.preservation.differential.multiplier", "train.diff_output_preservation_multiplier", float)
    put("train.preservation.differential.class", "train.diff_output_preservation_class", str)
    put("train.preservation.blank.enabled", "train.blank_prompt_preservation", bool)
    put("train.preservation.blank.multiplier", "train.blank_prompt_preservation_multiplier", float)
    put("save.dtype", "save.dtype", _NUMBERS)
    put("save.every", "save.save_every", int)
    put("save.keep", "save.max_step_saves_to_keep", int)
    put("data.resolutions", "datasets.resolution", aitoolkit_sets.sizes)
    put("data.caption_dropout", "datasets.caption_dropout_rate", float)
    put("data.repeats", "datasets.num_repeats", int)
    put("data.weight", "datasets.network_weight", float)
    put("data.flip_x", "datasets.flip_x", bool)
    put("data.flip_y", "datasets.flip_y", bool)
    put("sample.every", "sample.sample_every", int)
    put("sample.steps", "sample.sample_steps", int)
    # Below 1 there is no guidance in ai-toolkit either.
    put("sample.guidance", "sample.guidance_scale", lambda value: max(1.0, float(value)))
    put("sample.width", "sample.width", int)
    put("sample.height", "sample.height", int)
    put("sample.seed", "sample.seed", int)
    put("sample.walk_seed", "sample.walk_seed", bool)
    for place in ("train", "sample"):
        put("sample.skip_first", f"{place}.skip_first_sample", bool)
        put("sample.force_first", f"{place}.force_first_sample", bool)
        put("sample.disable", f"{place}.disable_sampling", bool)
    every = recipe.get("save", {}).get("every", _SAVE_EVERY)
    sampled = recipe.get("sample", {}).get("every", every)
    if every > 0 and sampled % every:
        rounded = recipe["sample"]["every"] = -(-sampled // every) * every
        why = f"{sampled} is no multiple of save.every {every}, and only saved steps are sampled; {rounded} was put in"
        result.todo.append(f"recipe.sample.every: {why}")
    put("data.default_caption", "datasets.default_caption", aitoolkit_sets.caption)
    both = recipe.get("train", {}).get("preservation", {})
    if all(both.get(kind, {}).get("enabled") for kind in ("differential", "blank")):
        result.todo.append("recipe.train.preservation: differential and blank are both on; switch one of them off")
    return recipe


def _quantization(job: _Job, recipe: dict[str, Any], result: Imported) -> None:
    """``quantize`` and ``qtype``; the text encoder follows the transformer unless it is named, as in ai-toolkit."""
    transformer = job.take("model.quantize")
    encoder = job.take("model.quantize_te", transformer)
    for key, wanted, type_key in (("transformer", transformer, "qtype"), ("text_encoder", encoder, "qtype_te")):
        kind = str(job.take(f"model.{type_key}", "qfloat8"))
        if wanted is None:
            continue
        known = _PRECISION.get(kind.partition("|")[0].lower())
        if wanted and known is None:
            result.ignored[f"model.{type_key}"] = f"{kind} is not supported; float8 is used"
        recipe.setdefault("quantization", {})[key] = (known or "float8") if wanted else "bf16"


def _base(job: _Job, result: Imported, root: Path) -> None:
    """The base file whose model the job names, and the training adapter."""
    model = job.take("model.name_or_path")
    known = {path.stem: schema.read_yaml(path) for path in sorted((root / "config" / "bases").glob("*.yaml"))}
    for name, base in known.items():
        if model and model in (base.get("repo"), base.get("path")):
            result.character["base"] = name
    if model and "base" not in result.character:
        result.todo.append(f"base: no file of config/bases/ has {model}; write one and name it")
        result.ignored["model.name_or_path"] = "no file of config/bases/ has it; config/config.yaml decides"
    adapters = [job.take(f"model.{key}") for key in ("assistant_lora_path", "adapter_path")]
    adapter = next((str(value) for value in adapters if value), "")
    if adapter:
        version = "v2" if re.search(r"v2\b|_v2", adapter) else "v1"
        result.character["recipe"]["training_adapter"] = version
    elif model:
        result.character["recipe"]["training_adapter"] = "none"
        result.todo.append("recipe.training_adapter: the job has none; on a distilled base set it to v1")


_FLAG = re.compile(r"\s--(\w+)\s+(\S+)")


def _samples(job: _Job, result: Imported) -> None:
    """Prompts with the trigger, where they have it, as ``{trigger}``; flags in the prompt become keys of their own."""
    entries = [{"prompt": p} if isinstance(p, str) else dict(p) for p in job.take("sample.prompts", [])]
    entries += [dict(sample) for sample in job.take("sample.samples", [])]
    trigger, prompts = result.character["trigger"], []
    names = {"w": "width", "h": "height", "d": "seed", "seed": "seed", "m": "scale", "network_multiplier": "scale",
             "lora_scale": "scale", "width": "width", "height": "height"}  # fmt: skip
    for index, entry in enumerate(entries, 1):
        text = str(entry.pop("prompt", ""))
        for flag, value in _FLAG.findall(text):
            entry[flag] = value
        text = " ".join(_FLAG.sub("", text).split()).replace("[trigger]", "{trigger}")
        text = words_of.replace(text, trigger, "{trigger}")
        if text.count("{trigger}") > 1:
            first, _, rest = text.partition("{trigger}")
            text = first + "{trigger}" + rest.replace("{trigger}", "the person")
            result.todo.append(f"sample_prompts[{index}]: had the trigger several times; read it again")
        own: dict[str, Any] = {}
        for key, value in entry.items():
            if key in names and value is not None:
                own[names[key]] = float(value) if names[key] == "scale" else int(value)
            elif key not in names:
                result.ignored[f"sample.prompts[{index}].{key}"] = "prompts have width, height, seed and scale only"
        prompts.append({"prompt": text, **own} if own else text)
    if not prompts:
        result.todo.append("sample_prompts: the job has none; those of charloom new were put in")
    elif not any("{trigger}" in str(prompt) for prompt in prompts):
        result.todo.append("sample_prompts: none of the job has the trigger; one of charloom new was put in front")
        prompts.insert(0, scaffold.PROMPTS[0])
    result.character["sample_prompts"] = prompts or list(scaffold.PROMPTS)


def _images(job: _Job, result: Imported) -> None:
    """The data set: shots and captions out of the folder, or the common plan where the folder is not here."""
    folder = str(job.take("datasets.folder_path", ""))
    result.character["images"] = {"source": "folder", "path": folder or f"resources/characters/{result.id}"}
    result.character["crop"] = {"right": 0, "bottom": 0}  # ai-toolkit trains on images that are cropped already
    files = [file for file in images_of.images(folder) if file.stem != images_of.REFERENCE] if folder else []
    if not files:
        result.character["shots"] = "portrait-30"
        where = f"there are no images in {folder}" if folder else "the job names no folder"
        result.todo.append(f"images.path: {where}; correct it, or name your images as in config/plans/portrait-30.yaml")
        return
    trigger, shots = result.character["trigger"], []
    default = result.character["recipe"].get("data", {}).get("default_caption", "")
    for name, file in images_of.names(files).items():
        words = inventory.text_of(file.with_suffix(""))
        text = " ".join(words.read_text(encoding="utf-8-sig").split()) if words else ""
        # Only shots written by hand may lack a text, so the default becomes the image's own.
        text = (text or default).replace("[trigger]", trigger).replace("{trigger}", trigger)
        if text:
            result.captions[name] = text
        else:
            result.todo.append(f"shots.{name}: has no caption; describe the shot in the character file")
        shots.append(shot_from(name, text) | ({"file": file.name} if file.stem != name else {}))
    result.character["images"]["count"] = len(shots)
    result.character["shots"] = shots
    if line := _identity_line(list(result.captions.values()), trigger):
        hidden = re.sub(r",? and [^,]*\beyes\b.*", "", line)
        result.character["identity_line"] = {"full": f"{{trigger}}, {line}", "eyes_hidden": f"{{trigger}}, {hidden}"}
        result.character["appearance"] = line


def shot_from(name: str, caption: str) -> dict[str, Any]:
    """A shot out of a caption: distance, view, outfit and background, as far as it names them."""
    text = caption.lower()
    parts = [part.strip() for part in caption.split(",") if part.strip()]
    tier = "close-up" if re.search(r"close-?up|portrait", text[:60]) else "medium"
    tier = "full-body" if re.search(r"full[ -]body", text[:60]) else tier
    view = next((view for view, sign in _VIEWS.items() if re.search(sign, text)), "frontal view")
    wearing = re.search(r"\bwearing ([^,]+)", caption)
    outfit = wearing[1].strip() if wearing else "what the image shows"
    background = parts[-1] if len(parts) > 2 and not parts[-1].startswith("wearing") else "what the image shows"
    return {"name": name, "tier": tier, "view": view, "outfit": outfit, "background": background}


def _identity_line(captions: list[str], trigger: str) -> str:
    """The longest phrase behind the trigger that names hair or eyes and stands in several captions."""
    found: dict[str, int] = {}
    for text in captions:
        if match := re.search(rf"{words_of.pattern(trigger)}, ([^,]*\b(?:hair|eyes)\b[^,]*)", text):
            found[match[1]] = found.get(match[1], 0) + 1
    common = [line for line, times in found.items() if times >= 2]
    return max(common, key=len, default="")


def _whole(value: Any) -> int:
    return int(float(value))


def character_yaml(imported: Imported, source: Path) -> str:
    """The character file as text, with what is left to do on top."""
    head = [f"# Imported from {source.name}. Every key: config/schemas/character.schema.yaml"]
    head += [f"# To do: {line}" for line in imported.todo]
    body = yaml.safe_dump(imported.character, sort_keys=False, allow_unicode=True, width=110)
    return "\n".join(head) + "\n" + body
