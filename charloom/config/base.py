"""A base model as its file in ``config/bases/`` describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charloom.config import inventory, schema, yaml
from charloom.core.errors import UserError


@dataclass(frozen=True)
class Base:
    """A base model as its file describes it."""

    name: str
    label: str
    path: str | None
    repo: str | None
    revision: str | None
    judge: str
    judge_weights: str | None
    judge_models: dict[str, Any]
    """Models of the hub that the judge ``auto`` may use."""
    run_ahead: int
    miniature: bool
    """Whether it draws only paper dolls, so that photographs cannot be learnt."""
    download_gb: float
    adapters: dict[str, Any]
    transformer_file: Any
    checksums: dict[str, str]
    recipe: dict[str, Any]
    license: str = ""
    """Licence of the weights as their authors name it; the header of the LoRA repeats it."""
    comfyui: dict[str, Any] = field(default_factory=dict)
    """Names that ComfyUI knows the base's files by, and the sampler steps of large pictures if they differ."""
    gallery: dict[str, int] = field(default_factory=dict)
    """``width``, ``height`` and ``steps`` of the pictures of a gallery that do not say their own."""
    architecture: str = ""
    """What its LoRA files say that they are for, if that is not Z-Image-Turbo (Model Spec)."""

    def source(self) -> dict[str, Any]:
        """Where the weights are, as plain values."""
        return {"path": self.path} if self.path else {"repo": self.repo, "revision": self.revision}


def read_base(root: Path, name: str, where: str) -> tuple[Base | None, list[str]]:
    """The base called ``name``, or None and a line per mistake; ``where`` names the key that asks for it."""
    folder = root / "config" / "bases"
    label = f"config/bases/{name}.yaml"
    if not (folder / f"{name}.yaml").is_file():
        names = sorted(path.stem for path in folder.glob("*.yaml") if not inventory.foreign(path.name))
        return None, [f"{where}: there is no {label}; {schema.meant(name, names)}"]
    try:
        data, problems = schema.check(yaml.read_yaml(folder / f"{name}.yaml", label), "base", label)
    except UserError as error:
        return None, [str(error)]
    if problems:
        return None, problems
    data = _placed(data)
    if ("path" in data) == ("repo" in data):
        problems.append(f"{label}: give either path (a folder) or repo and revision (on the Hub)")
    elif "repo" in data and "revision" not in data:
        problems.append(f"{label}: revision: is missing; give a commit, so that a download cannot change")
    elif "path" in data and not (root / data["path"]).is_dir():
        remedy = inventory.meant(root / data["path"], "correct it, or use repo and revision")
        if Path(data["path"]).suffix == ".safetensors":
            remedy = "a single file goes under transformer_file, beside repo and revision for the other parts"
        problems.append(f"{label}: path: there is no folder {data['path']}; {remedy}")
    elif "path" in data and not (root / data["path"] / "model_index.json").is_file():
        problems.append(f"{label}: path: {data['path']} has no model_index.json; name a folder in the diffusers layout")
    adapters = data.get("adapters", {})
    for key, adapter in adapters.items():
        if isinstance(adapter, str) and not (root / adapter).is_file():
            problems.append(f"{label}: adapters.{key}: there is no file {adapter}; correct it or remove it")
    single = data.get("transformer_file")
    if isinstance(single, str) and not (root / single).is_file():
        problems.append(f"{label}: transformer_file: there is no file {single}; correct it or remove it")
    weights = data.get("judge_weights")
    if weights and not (root / weights).is_file():
        problems.append(f"{label}: judge_weights: there is no file {weights}; correct it, or set judge: none")
    for key, model in data.get("judge_models", {}).items():
        if ("path" in model) == ("repo" in model):
            problems.append(
                f"{label}: judge_models.{key}: give either path (a folder) or repo and revision (on the Hub)"
            )
        elif "repo" in model and "revision" not in model:
            problems.append(
                f"{label}: judge_models.{key}.revision: is missing; give a commit, or main to lock the latest"
            )
    if problems:
        return None, problems
    return (
        Base(
            name=name,
            label=label,
            path=data.get("path"),
            repo=data.get("repo"),
            revision=data.get("revision"),
            judge=data.get("judge", "none"),
            judge_weights=data.get("judge_weights"),
            judge_models=data.get("judge_models", {}),
            run_ahead=data.get("run_ahead", 0),
            miniature=data.get("miniature", False),
            download_gb=data.get("download_gb", 0.0),
            adapters=adapters,
            transformer_file=single,
            checksums=data.get("checksums", {}),
            recipe=data.get("recipe", {}),
            license=data.get("license", ""),
            architecture=data.get("architecture", ""),
            comfyui={**schema.defaults(schema.load_schema("base")["properties"]["comfyui"]), **data.get("comfyui", {})},
            gallery=data.get("gallery", {}),
        ),
        [],
    )


def _placed(data: dict[str, Any]) -> dict[str, Any]:
    """The file's content with the home folder in place of ``~``."""
    out = dict(data)
    for key, one in data.items():
        if isinstance(one, dict) and key in ("adapters", "judge_models"):
            out[key] = {
                name: _placed(other) if isinstance(other, dict) else inventory.placed(other)
                for name, other in one.items()
            }
        elif isinstance(one, str) and key in ("path", "transformer_file", "judge_weights"):
            out[key] = inventory.placed(one)
    return out
