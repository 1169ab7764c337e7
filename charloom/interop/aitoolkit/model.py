"""The model of an ai-toolkit job: its base file, its training adapter, and knobs that do not suit a distilled base."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.config import schema, yaml
from charloom.interop.aitoolkit.job import Job
from charloom.interop.aitoolkit.recipe import Knobs

_MANY = 2
"""Preview steps of at least this multiple of the base's own are reported."""


@dataclass(frozen=True)
class Model:
    """The model that a job trains."""

    base: str | None
    """The base file that has this model; None for that of ``config/config.yaml``."""
    name: str
    """The base file that applies."""
    usual: dict[str, Any]
    """The base's own recipe."""
    ours: dict[str, Any]
    """The recipe that applies to what the job leaves unset."""
    distilled: bool
    """Whether it is trained with an adapter and draws without guidance; False for a model without a base file."""


def read(job: Job, root: Path) -> Model:
    """The base of a job."""
    model = job.take("model.name_or_path", str)
    files = {path.stem: yaml.read_yaml(path) for path in sorted((root / "config" / "bases").glob("*.yaml"))}
    # With ``transformer_file``, the base's repository is another model's, which provides the other parts.
    known = {name: file for name, file in files.items() if "transformer_file" not in file}
    found = next((one for one, file in known.items() if model and model in (file.get("repo"), file.get("path"))), None)
    if model and not found:
        # A copy on this disk stands in the file in place of the repository.
        called = re.split(r"[\\/]", model.rstrip("\\/"))[-1].lower()
        found = called if "path" in files.get(called, {}) or "transformer_file" in files.get(called, {}) else None
    if model and not found:
        job.refuse("model.name_or_path", "no file in config/bases/ has it; the base of config/config.yaml is used")
        job.todo.append(f"base: no file in config/bases/ has {model}; write one and set base to its name")
    arch = job.take("model.arch", str, "")
    if arch and not re.match(r"z_?-?image", arch.lower()):
        job.refuse("model.arch", f"{arch} is not possible: only Z-Image is trained")
    project = yaml.read_yaml(root / "config" / "config.yaml") if (root / "config" / "config.yaml").is_file() else {}
    name = found or project.get("base", "")
    usual = yaml.merge(
        schema.defaults(schema.load_schema("recipe")), (files if found else known).get(name, {}).get("recipe") or {}
    )
    distilled = usual["training_adapter"] != "none" and usual["sample"]["guidance"] <= 1
    ours = yaml.merge(usual, project.get("recipe") or {})
    return Model(found, name, usual, ours, distilled and bool(found or not model))


def adapter(job: Job, model: Model) -> str | None:
    """The training adapter of a job; None if it names neither one nor a model."""
    lora = job.take("model.assistant_lora_path", str)
    older = job.take("model.adapter_path", str)
    if older and lora:
        job.refuse("model.adapter_path", "ai-toolkit reads model.assistant_lora_path instead")
    elif older:
        job.todo.append(
            "recipe.training_adapter: ai-toolkit reads model.assistant_lora_path, not adapter_path; check it"
        )
    if named := lora or older:
        version = "v2" if re.search(r"v2\b|_v2", named) else "v1"
        if not re.search(r"v[12]\b|_v[12]", named):
            job.todo.append(f"recipe.training_adapter: {named} names no version; set to {version}")
        return version
    if not job.values.get("model.name_or_path"):
        return None
    if not model.base:
        job.todo.append("recipe.training_adapter: the job has none; on a distilled base set it to v1")
    return "none"


def suits(knobs: Knobs, model: Model) -> None:
    """Report knobs that do not suit a distilled base, with the values to set."""
    if not model.distilled:
        return
    made = yaml.merge(model.ours, knobs.recipe)
    mine, usual = made["sample"], model.usual["sample"]
    wrong = {
        "training_adapter": made["training_adapter"] == "none" and ("none", model.usual["training_adapter"]),
        "sample.guidance": mine["guidance"] > 1 and (mine["guidance"], usual["guidance"]),
        "sample.steps": mine["steps"] > _MANY * usual["steps"] and (mine["steps"], usual["steps"]),
    }
    if said := [f"{key} {pair[1]} (now {pair[0]})" for key, pair in wrong.items() if pair]:
        knobs.job.todo.append(f"recipe: {model.name} is a distilled base; set {', '.join(said)}")
