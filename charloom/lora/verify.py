"""The gate in front of every file that is shipped: will it load, everywhere, and do something?

Checked are (a) the keys' endings, (b) that every module is complete and the count is the expected one, (c) shapes
against the base, (d) that diffusers' own converter and ComfyUI's naming rules find every module with the right
strength, (e) finite values, (f) that every module changes its weight, and in a file of ours by more than an adapter
does that has not learnt. ComfyUI's rules are restated here from
how it behaves: q, k and v are rows of one fused weight. Nothing here loads a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charloom.errors import UserError
from charloom.lora import Z_IMAGE_WIDTH, movement
from charloom.lora.adapter import shape_of
from charloom.lora.files import AdapterFile, read_adapter, read_safetensors, split_key

PREFIX = "diffusion_model."


@dataclass
class Report:
    """What was found: ``problems`` fail the gate, ``notes`` are worth knowing."""

    path: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    modules: int = 0
    rank: int | None = None
    kind: str = ""
    delta_norm: float = 0.0
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the file passed."""
        return not self.problems

    def __str__(self) -> str:
        head = f"{self.path}: {'passed' if self.ok else 'FAILED'}, {self.kind or 'unknown'} on {self.modules} modules"
        size = f", rank {self.rank}, |change| {self.delta_norm:.4g}"
        return "\n".join(
            [head + size, *(f"  problem: {p}" for p in self.problems), *(f"  note: {n}" for n in self.notes)]
        )


def module_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of every Linear of a Z-Image transformer from its ``config.json``."""
    dim, hidden = config["dim"], int(config["dim"] / 3 * 8)
    time = min(dim, 256)
    attention = {f"attention.{name}": (dim, dim) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    block = attention | {f"feed_forward.{n}": (hidden, dim) for n in ("w1", "w3")} | {"feed_forward.w2": (dim, hidden)}
    modulated = block | {"adaLN_modulation.0": (4 * dim, time)}
    out: dict[str, tuple[int, int]] = {}
    for stack, count, parts in (
        ("layers", config["n_layers"], modulated),
        ("noise_refiner", config["n_refiner_layers"], modulated),
        ("context_refiner", config["n_refiner_layers"], block),
    ):
        out |= {f"{stack}.{i}.{name}": shape for i in range(count) for name, shape in parts.items()}
    patch = config["in_channels"] * config["all_patch_size"][0] ** 2 * config["all_f_patch_size"][0]
    kind = f"{config['all_patch_size'][0]}-{config['all_f_patch_size'][0]}"
    return out | {
        "t_embedder.mlp.0": (1024, 256),
        "t_embedder.mlp.2": (time, 1024),
        "cap_embedder.1": (dim, config["cap_feat_dim"]),
        f"all_x_embedder.{kind}": (dim, patch),
        f"all_final_layer.{kind}.linear": (patch, dim),
        f"all_final_layer.{kind}.adaLN_modulation.1": (dim, time),
    }


@dataclass(frozen=True)
class ComfyTarget:
    """Where ComfyUI puts a module: rows [start, start + rows) of one of its own weights."""

    weight: str
    start: int
    rows: int
    columns: int


def comfy_key_map(shapes: Mapping[str, tuple[int, int]]) -> dict[str, ComfyTarget]:
    """ComfyUI's targets by the stem of the keys it accepts in our layout, ``diffusion_model.<module>``.

    Its model holds to_q, to_k, to_v as ``attention.qkv`` (rows in this order) and to_out.0 as ``attention.out``.
    """
    out = {}
    for module, (rows, columns) in shapes.items():
        name, start = module, 0
        for index, part in enumerate(("to_q", "to_k", "to_v")):
            if module.endswith(f".attention.{part}"):
                name, start = module.removesuffix(part) + "qkv", index * rows
        name = name.replace(".attention.to_out.0", ".attention.out")
        name = name.replace("all_x_embedder.2-1", "x_embedder").replace("all_final_layer.2-1", "final_layer")
        out[PREFIX + module] = ComfyTarget(f"{PREFIX}{name}.weight", start, rows, columns)
    return out


def verify(path: Path, shapes: Mapping[str, tuple[int, int]] | None = None, modules: int | None = None) -> Report:
    """Pass a file through the gate.

    ``shapes`` are the base's (:func:`module_shapes`); without them shapes and ComfyUI's targets are not checked.
    ``modules`` is the number of adapted modules that is expected, if known. Never raises for a bad file.
    """
    report = Report(Path(path))
    try:
        tensors, report.metadata = read_safetensors(path)
        adapter = read_adapter(path)
    except UserError as error:
        report.problems.append(str(error).removeprefix(f"{path}: "))
        return report
    _describe(adapter, report)
    _check_layout(tensors, adapter, report, modules)
    _check_values(tensors, adapter, report)
    _check_moved(adapter, report)
    if shapes is None:
        width = next((s[1] for m, p in adapter.modules.items() if m.endswith(".to_q") and (s := shape_of(p))), None)
        made = "" if width in (None, Z_IMAGE_WIDTH) else f"; made for a width of {width}, Z-Image has {Z_IMAGE_WIDTH}"
        report.notes.append(f"shapes were not checked: no base was named{made}")
    else:
        _check_shapes(adapter, shapes, report)
        _check_comfy(tensors, adapter, shapes, report)
    _check_diffusers(tensors, adapter, report)
    return report


def _describe(adapter: AdapterFile, report: Report) -> None:
    parts = [set(p) for p in adapter.modules.values()]
    report.kind = "dora" if any("dora_scale" in p for p in parts) else "lora" if "lora_A" in parts[0] else "lokr"
    report.modules = len(adapter.modules)
    ranks = {adapter.rank(module) for module in adapter.modules} - {None}
    report.rank = ranks.pop() if len(ranks) == 1 else None


def _check_layout(tensors: Mapping[str, Tensor], adapter: AdapterFile, report: Report, modules: int | None) -> None:
    """(a) and (b): prefix, endings, completeness, alpha equal to the rank."""
    foreign = [key for key in tensors if not key.startswith(PREFIX)]
    if foreign:
        report.problems.append(f"{len(foreign)} keys do not start with {PREFIX}, e.g. {foreign[0]}")
    odd = [key for key in tensors if ".lora_down." in key or ".lora_up." in key or ".default." in key]
    if odd:
        report.problems.append(f"{len(odd)} keys do not end in .lora_A.weight, .lora_B.weight or .alpha, e.g. {odd[0]}")
    if modules is not None and len(adapter.modules) != modules:
        report.problems.append(f"{len(adapter.modules)} modules instead of {modules}")
    without = [module for module, parts in adapter.modules.items() if "alpha" not in parts]
    if without:
        report.problems.append(f"{len(without)} modules have no alpha (diffusers 0.37 cannot load them): {without[0]}")
    unequal = [m for m in adapter.modules if abs(adapter.scale(m) - 1.0) > 1e-6]
    if unequal:
        report.problems.append(
            f"alpha differs from the rank in {len(unequal)} modules (loaders that ignore alpha get another strength), "
            f"e.g. {unequal[0]}"
        )
    gaps = [key for key, tensor in tensors.items() if not tensor.is_contiguous()]
    if gaps:
        report.problems.append(f"{len(gaps)} tensors are not contiguous, e.g. {gaps[0]}")


def _check_values(tensors: Mapping[str, Tensor], adapter: AdapterFile, report: Report) -> None:
    """(e) and (f): finite values, and a change in every module."""
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        report.problems.append(f"{len(broken)} tensors hold NaN or infinity, e.g. {broken[0]}")
        return
    squares, idle = 0.0, []
    for module in adapter.modules:
        norm = _delta_norm(adapter, module)
        squares += norm**2
        # DoRA may change a weight by its magnitudes alone.
        if not norm > 0 and "dora_scale" not in adapter.modules[module]:
            idle.append(module)
    report.delta_norm = squares**0.5
    if idle:
        report.problems.append(
            f"{len(idle)} of {len(adapter.modules)} modules change nothing (B A = 0), e.g. {idle[0]}"
        )


def _check_moved(adapter: AdapterFile, report: Report) -> None:
    """(f), of files that say how long they were trained: that it was not for nothing."""
    header = report.metadata
    if report.problems or not header.get("ss_network_module", "").startswith("charloom."):
        return
    try:
        step = int(header["ss_steps"])
        network = json.loads(header["charloom.provenance"])["settings"]["network"]
        scale = network["alpha"] / network["rank"]
    except (ValueError, KeyError, TypeError):
        return
    tensors = {f"{module}.{role}": t for module, parts in adapter.modules.items() for role, t in parts.items()}
    if line := movement.complaint(movement.share(tensors, step, scale), step):
        report.problems.append(line)


def _delta_norm(adapter: AdapterFile, module: str) -> float:
    """Frobenius norm of B A from the two small Gram matrices, so that nothing of the weight's size is made."""
    parts = adapter.modules[module]
    if "lora_A" not in parts:
        return float(adapter.delta(module).double().norm())
    a, b = parts["lora_A"].double(), parts["lora_B"].double()
    return float(((b.t() @ b) * (a @ a.t())).sum().clamp(min=0).sqrt()) * adapter.scale(module)


def _check_shapes(adapter: AdapterFile, shapes: Mapping[str, tuple[int, int]], report: Report) -> None:
    """(c)"""
    for module, parts in adapter.modules.items():
        if module not in shapes:
            report.problems.append(f"the base has no module {module}")
        elif shape_of(parts) != tuple(shapes[module]):
            report.problems.append(f"{module} is made for a weight of {shape_of(parts)}, the base has {shapes[module]}")
        if "lora_A" in parts and parts["lora_A"].shape[0] != parts["lora_B"].shape[1]:
            report.problems.append(f"{module}: the ranks of A and B differ")


def _check_comfy(
    tensors: Mapping[str, Tensor], adapter: AdapterFile, shapes: Mapping[str, tuple[int, int]], report: Report
) -> None:
    """(d), ComfyUI: every stem has a target, and the change fits the rows it goes to."""
    targets = comfy_key_map(shapes)
    for key in tensors:
        found = split_key(key)
        stem = key.removesuffix(".weight").rsplit(".", 1)[0]
        target = targets.get(stem)
        if target is None:
            report.problems.append(f"ComfyUI has no place for {key}")
        elif found and (target.rows, target.columns) != shape_of(adapter.modules[found[0]]):
            report.problems.append(f"ComfyUI: {key} does not fit rows of {target.weight}")


def _check_diffusers(tensors: Mapping[str, Tensor], adapter: AdapterFile, report: Report) -> None:
    """(d), diffusers: its converter takes every key and keeps the strength."""
    if report.kind == "lokr":
        report.notes.append("LoKr loads in ComfyUI, not in diffusers")
        return
    try:
        from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_z_image_lora_to_diffusers as convert
    except ImportError:
        report.notes.append("diffusers' converter for Z-Image was not found: its loading was not checked")
        return
    if report.kind == "dora":
        report.notes.append("DoRA loads whole in ComfyUI; diffusers drops dora_scale and loads it as plain LoRA")
        tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(".dora_scale")}
    try:
        converted = convert(dict(tensors))
    except (ValueError, KeyError) as error:
        report.problems.append(f"diffusers cannot convert it: {str(error)[:200]}")
        return
    for module, parts in adapter.modules.items():
        a = converted.pop(f"transformer.{module}.lora_A.weight", None)
        b = converted.pop(f"transformer.{module}.lora_B.weight", None)
        if a is None or b is None:
            report.problems.append(f"diffusers does not find {module}")
        elif not (torch.equal(a.float(), parts["lora_A"].float()) and torch.equal(b.float(), parts["lora_B"].float())):
            report.problems.append(f"diffusers loads {module} at another strength")
    if converted:
        report.problems.append(f"diffusers finds modules that are not there, e.g. {next(iter(converted))}")
