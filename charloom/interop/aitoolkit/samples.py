"""Reads the sample prompts of an ai-toolkit job: the text, and the flags that ai-toolkit finds in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from charloom.config import previews
from charloom.interop.aitoolkit.job import Job
from charloom.interop.aitoolkit.recipe import whole

_FLAGS = {"w": "width", "h": "height", "d": "seed", "seed": "seed", "m": "network_multiplier",
          "network_multiplier": "network_multiplier", "n": "neg", "l": "guidance_scale", "cfg": "guidance_scale",
          "s": "sample_steps", "steps": "sample_steps"}  # fmt: skip
"""The key that each flag in a prompt stands for."""
_OURS = {"width": ("width", whole), "height": ("height", whole), "network_multiplier": ("scale", float)}
_SHARED = {"neg": "", "guidance_scale": 7.0, "sample_steps": 20}
"""Settings that all previews share here, and ai-toolkit's defaults."""
_PICTURES_ONLY = ("fps", "num_frames", "ctrl_idx")
_ALONE = "a single preview can set only width, height, seed and scale"
MOST = 99


def split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """A prompt without its flags, and the flags as (flag, value); a value ends where the next flag begins."""
    words, *flags = text.strip().split("--")
    found = [(flag.split(" ")[0].strip(), flag) for flag in flags]
    return words.strip(), [(name, flag[len(name) :].strip()) for name, flag in found]


def read(job: Job, trigger: str, recipe: Mapping[str, Any]) -> list[Any]:
    """The prompts of a job as ``sample_prompts``, with ``{trigger}`` in place of the trigger.

    Args:
        job: the job, which records what happens to its keys.
        trigger: the trigger of the character file, which replaces the job's trigger word.
        recipe: the knobs of the previews: the job's, then ours.
    """
    entries = _entries(job)
    shared = job.take("sample.network_multiplier", float, 1.0)
    guided, walk = recipe["guidance"] > 1, recipe["walk_seed"]
    if job.take("sample.neg", lambda value: str(value) if value else "") and guided:
        job.refuse("sample.neg", "negative prompts are not supported: guidance leads away from the empty prompt")
    prompts: list[Any] = []
    current = start = job.take("sample.seed", whole, 0)
    for where, entry in entries:
        words, flags = split(str(entry.get("prompt") or ""))
        index = len(prompts)
        if not words or index == MOST:
            _leave_out(job, where, entry, "has no text" if not words else f"only {MOST} prompts are possible")
            continue
        own = _own(job, where, entry, flags, guided)
        # A sample's own seed applies to the following ones too, unless walk_seed is on.
        named = "seed" in own or (current != start and not walk)
        current = own.pop("seed", start + index if walk else current)
        named = named or "flag" in own
        seed = own.pop("flag", current)
        if shared != 1:
            own.setdefault("scale", shared)
        if seed < 0:
            if named:
                job.todo.append(f"sample_prompts[{index + 1}].seed: {seed} means a random seed each time; left out")
        elif (named or start >= 0) and seed != recipe["seed"] + index * walk:
            own["seed"] = seed
        text = _with_trigger(job, words, trigger, index + 1)
        prompts.append({"prompt": text, **own} if own else text)
    usual = list(previews.prompts("person", "photographic"))
    if not prompts:
        job.todo.append("sample_prompts: the job has none; the defaults of charloom new are used")
    elif not any("{trigger}" in str(prompt) for prompt in prompts):
        job.todo.append("sample_prompts: none has the trigger; a default of charloom new was added")
        # Last, so that no other prompt's seed changes.
        prompts = [*prompts[: MOST - 1], usual[0]]
    return prompts or usual


def _entries(job: Job) -> list[tuple[str, dict[str, Any]]]:
    """The samples of a job as (key, values); ``samples`` takes precedence over ``prompts``."""
    sample = job.tree.get("sample")
    sample = sample if isinstance(sample, dict) else {}
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for group in ("prompts", "samples"):
        entries = sample.get(group)
        key = f"sample.{group}"
        if not isinstance(entries, list):
            if entries is not None:
                job.refuse(key, "is not a list; start each prompt with - ")
            job.take(key)
            continue
        job.take(key)
        found[group] = []
        for number, entry in enumerate(entries, 1):
            where = f"{key}[{number}]"
            job.take(where)
            job.take(f"{where}.prompt")
            found[group].append((where, dict(entry) if isinstance(entry, dict) else {"prompt": entry}))
    if found.get("samples") and found.get("prompts"):
        why = "ai-toolkit reads sample.samples instead if both are set"
        if "sample.prompts" in job.values:
            job.refuse("sample.prompts", why)
        else:
            for where, entry in found["prompts"]:
                _leave_out(job, where, entry, why)
    return found.get("samples") or found.get("prompts") or []


def _leave_out(job: Job, where: str, entry: Mapping[str, Any], why: str) -> None:
    keys = [key for key in (where, *(f"{where}.{key}" for key in entry)) if key in job.values]
    for key in keys:
        job.refuse(key, why)
    if not keys:
        job.todo.append(f"{where}: was left out; {why}")


def _own(job: Job, where: str, entry: dict[str, Any], flags: list[tuple[str, str]], guided: bool) -> dict[str, Any]:
    """The settings of a single preview. Flags override keys; the seed of a flag is returned as ``flag``."""
    own: dict[str, Any] = {}
    for key, value in entry.items():
        name = f"{where}.{key}"
        if key == "prompt":
            continue
        if value is None or key in _PICTURES_ONLY or key == "do_cfg_norm" and not value:
            job.take(name)
        elif key == "seed":
            if (seed := job.take(name, whole)) is not None:
                own["seed"] = seed
        elif key in _OURS:
            target, convert = _OURS[key]
            if (number := job.take(name, convert)) is not None:
                own[target] = number
        elif key in _SHARED and _says_nothing(job, key, value, guided):
            job.take(name)
        else:
            job.refuse(name, _ALONE)
    for flag, value in flags:
        key = _FLAGS.get(flag)
        try:
            if key == "seed":
                own["flag"] = int(value)
                continue
            if key in _OURS:
                target, convert = _OURS[key]
                own[target] = convert(value)
                continue
        except ValueError:
            pass
        if not (key in _SHARED and _says_nothing(job, key, value, guided)):
            flagged = f"--{flag} {value}".strip()
            job.todo.append(f"{where}: {flagged} was left out; {_ALONE}")
    return own


def _says_nothing(job: Job, key: str, value: Any, guided: bool) -> bool:
    """Whether a preview's key repeats the shared value, or is a negative prompt without effect."""
    if key == "neg":
        return not value or not guided
    try:
        return float(value) == float(job.values.get(f"sample.{key}", _SHARED[key]))
    except (TypeError, ValueError):
        return False


def _with_trigger(job: Job, words: str, trigger: str, number: int) -> str:
    """The prompt with ``{trigger}`` in place of the first trigger, and "the person" in place of any others."""
    text = " ".join(words.split()).replace("[trigger]", "{trigger}")
    for word in dict.fromkeys((job.trigger_word or trigger, trigger)):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "{trigger}", text, flags=re.IGNORECASE)
    if text.count("{trigger}") > 1:
        first, _, rest = text.partition("{trigger}")
        text = first + "{trigger}" + rest.replace("{trigger}", "the person")
        job.todo.append(f"sample_prompts[{number}]: had the trigger several times; check the wording")
    return text.replace("{{trigger}}", "{trigger}")
