"""Checks adapter files before they are exported, and any other adapter file: is it intact, and what can load it?

Every file is checked for complete modules, for shapes that fit the base (or the published sizes of the model it is made
for), for finite values, and that every module changes its weight. Trainer and layout are identified, and the behaviour
of loaders is looked up in :mod:`charloom.lora.loaders`. charloom's own files must also have exactly one layout and pass
the converter of the installed diffusers. No model is loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError, printable
from charloom.core.tensors import read_safetensors
from charloom.lora import layouts, loaders, movement
from charloom.lora.convert import convertible
from charloom.lora.files import AdapterFile, header_scale
from charloom.lora.modules import KINDS, change, fits, is_complete, rank_of, shape_of
from charloom.zimage.shapes import (
    KNOWN_BASES,
    OTHER_WIDTHS,
    Z_IMAGE_WIDTH,
    module_shapes,
    width_of,
    with_original_names,
)

PREFIX = "diffusion_model."
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass
class Report:
    """The result: ``problems`` fail the check, ``notes`` are worth knowing, ``loaders`` say what can load the file."""

    path: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sha256: str = ""
    trainer: str = ""
    trainer_from: str = ""
    layout: str = ""
    kind: str = ""
    modules: int = 0
    ranks: tuple[int, int] | None = None
    alphas: tuple[float, float] | None = None
    width: int | None = None
    delta_norm: float = 0.0
    loaders: list[loaders.Row] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the file passed."""
        return not self.problems

    @property
    def rank(self) -> int | None:
        """The rank of all modules; None if they differ or have none."""
        return self.ranks[0] if self.ranks and self.ranks[0] == self.ranks[1] else None

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "file": str(self.path),
            "sha256": self.sha256,
            "ok": self.ok,
            "trainer": self.trainer,
            "trainer_from": self.trainer_from,
            "layout": self.layout,
            "kind": self.kind,
            "modules": self.modules,
            "rank": list(self.ranks) if self.ranks else None,
            "alpha": [_finite(alpha) for alpha in self.alphas] if self.alphas else None,
            "width": self.width,
            "change": _finite(self.delta_norm),
            "loaders": [row.record() for row in self.loaders],
            "problems": self.problems,
            "notes": self.notes,
        }

    def __str__(self) -> str:
        lines = [f"{self.path}: {'passed' if self.ok else 'FAILED'}"]
        if self.modules:
            size = f", rank {_span(self.ranks)}" if self.ranks else ""
            size += f", alpha {_span(self.alphas)}" if self.alphas else ""
            modules = "1 module" if self.modules == 1 else f"{self.modules} modules"
            lines[0] += f", {KINDS[self.kind]} on {modules}{size}"
            lines[0] += f", |change| {self.delta_norm:.4g}" if self.delta_norm else ""
            how = f" (by its {self.trainer_from})" if self.trainer else ""
            lines.append(f"  trainer: {self.trainer or 'unknown'}{how}")
            lines.append(f"  layout: {layouts.LAYOUTS.get(self.layout, self.layout)}")
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += [f"  note: {note}" for note in self.notes]
        if self.loaders:
            lines += ["  tried, with these versions and no others:", *(f"    {row}" for row in self.loaders)]
        return printable("\n".join(lines))


def _finite(value: float) -> float | None:
    """``value``, or None for NaN and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None


def _span(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def verify(
    path: Path,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    modules: int | None = None,
    own: bool | None = None,
) -> Report:
    """Check a file. Never raises for a bad file.

    Args:
        path: the adapter file.
        shapes: (out, in) of the base's Linears (:func:`charloom.zimage.shapes.module_shapes`); by default those of the
            known base with the file's width.
        modules: expected number of adapted modules, if known.
        own: require charloom's own layout; by default only of files whose header names charloom.
    """
    report = Report(Path(path))
    try:
        tensors, report.metadata = read_safetensors(path)
        report.sha256 = file_digest(path)
    except UserError as error:
        report.problems.append(str(error).removeprefix(f"{path}: "))
        return report
    contents = layouts.read(tensors)
    if not contents.modules:
        report.problems.append(_nothing_for_us(tensors))
        return report
    report.trainer, report.trainer_from = layouts.trainer(contents, report.metadata)
    report.layout = contents.layout or "mixed"
    report.kind = contents.kinds.most_common(1)[0][0]
    report.modules = len(contents.modules)
    if own is None:
        # A converted file has the header of its trainer and the layout of another program.
        own = report.trainer == "charloom" and "charloom.converted" not in report.metadata
    _check_keys(contents, modules, own, report)
    whole = _check_whole(contents, report)
    if not _check_numbers(tensors, report) or not whole:
        return report
    adapter = AdapterFile(report.path, contents.modules, report.metadata)
    _describe(adapter, report)
    _check_change(adapter, report)
    _check_moved(adapter, report)
    _check_shapes(contents, shapes, report)
    if own:
        _check_own(tensors, contents, adapter, report)
        _check_installed_diffusers(tensors, contents, adapter, report)
    _look_up(contents, adapter, report)
    return report


def _nothing_for_us(tensors: Collection[str]) -> str:
    if not tensors:
        return "holds no adapter module at all: the file has no tensors"
    what = layouts.other_model(tensors)
    one = next(iter(tensors))
    found = f"its {len(tensors)} keys are not those of an adapter for Z-Image, e.g. {one}"
    return f"{found}; it seems to be {what}" if what else found


def _check_keys(contents: layouts.Contents, modules: int | None, own: bool, report: Report) -> None:
    """Keys that are unknown or belong to something else."""
    if contents.unknown:
        line = f"{_are(contents.unknown, 'key')} not those of an adapter for Z-Image, e.g. {contents.unknown[0]}"
        # Loaders differ: ComfyUI ignores such keys, diffusers refuses the file.
        (report.problems if own or len(contents.unknown) > report.modules else report.notes).append(line)
    if contents.text_encoder:
        one = contents.text_encoder[0]
        line = f"{_are(contents.text_encoder, 'key')} for a text encoder and were not checked, e.g. {one}"
        (report.problems if own else report.notes).append(line)
    if contents.twice:
        appear = "1 tensor appears" if len(contents.twice) == 1 else f"{len(contents.twice)} tensors appear"
        report.problems.append(f"{appear} twice, under two names, e.g. {contents.twice[0]}")
    if contents.layout is None:
        report.notes.append(f"keys of several layouts in one file: {', '.join(sorted(contents.prefixes))}")
    for kind, count in contents.kinds.most_common()[1:]:
        report.notes.append(f"{count} of the modules are of another kind: {KINDS[kind]}")
    if modules is not None and report.modules != modules:
        report.problems.append(f"{report.modules} modules instead of {modules}")


def _are(what: Collection[str], name: str) -> str:
    return f"{len(what)} {name} is" if len(what) == 1 else f"{len(what)} {name}s are"


def _check_whole(contents: layouts.Contents, report: Report) -> bool:
    """Whether no module lacks a part and all factors fit together; reports those that do not."""
    broken = [module for module, parts in contents.modules.items() if not is_complete(parts)]
    if broken:
        has = ", ".join(sorted(contents.modules[broken[0]]))
        report.problems.append(f"{_are(broken, 'module')} incomplete, e.g. {broken[0]} only has {has}")
    odd = [module for module, parts in contents.modules.items() if module not in broken and not fits(parts)]
    if odd:
        sizes = ", ".join(f"{role} {tuple(tensor.shape)}" for role, tensor in contents.modules[odd[0]].items())
        report.problems.append(f"the tensors of {len(odd)} modules do not fit each other, e.g. {odd[0]}: {sizes}")
    return not broken and not odd


def _check_numbers(tensors: Mapping[str, Tensor], report: Report) -> bool:
    """Whether all values are floating point; reports other types and values that are not finite."""
    odd = [key for key, tensor in tensors.items() if tensor.dtype not in _FLOATS and not key.endswith(".alpha")]
    if odd:
        one = str(tensors[odd[0]].dtype).removeprefix("torch.")
        report.problems.append(f"{_are(odd, 'tensor')} not of a type that weights have, e.g. {odd[0]} of {one}")
        return False
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        report.problems.append(f"NaN or infinity in {len(broken)} of {len(tensors)} tensors, e.g. {broken[0]}")
    return True


def _describe(adapter: AdapterFile, report: Report) -> None:
    ranks = [rank for parts in adapter.modules.values() if (rank := rank_of(parts))]
    alphas = [float(parts["alpha"]) for parts in adapter.modules.values() if "alpha" in parts]
    report.ranks = (min(ranks), max(ranks)) if ranks else None
    report.alphas = (min(alphas), max(alphas)) if alphas else None


def _check_change(adapter: AdapterFile, report: Report) -> None:
    """Check that every module changes its weight."""
    squares, idle = 0.0, []
    for module, parts in adapter.modules.items():
        norm = change(parts) * abs(adapter.scale(module))
        squares += norm**2
        # DoRA may change a weight by its magnitudes alone; NaN was reported before.
        if norm == 0 and not {"dora_scale", "magnitude"} & set(parts):
            idle.append(module)
    report.delta_norm = squares**0.5
    if idle:
        report.problems.append(
            f"{len(idle)} of {len(adapter.modules)} modules change nothing (B A = 0), e.g. {idle[0]}"
        )


def _check_moved(adapter: AdapterFile, report: Report) -> None:
    """Check that files that state their training steps have moved accordingly."""
    header = report.metadata
    if report.problems or not header.get("ss_network_module", "").startswith("charloom."):
        return
    tensors = {f"{module}.{role}": t for module, parts in adapter.modules.items() for role, t in parts.items()}
    try:
        step = int(header["ss_steps"])
        settings = json.loads(header["charloom.provenance"])["settings"]
        scale = settings["network"]["alpha"] / settings["network"]["rank"]
        line = movement.complaint(movement.share(tensors, step, scale), step, settings.get("train", {}))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return  # the header of another program
    report.problems += filter(None, [line])


def _check_shapes(contents: layouts.Contents, shapes: Mapping[str, tuple[int, int]] | None, report: Report) -> None:
    """Compare shapes with the base, or else with the published model of this width."""
    found = {module: shape_of(parts) for module, parts in contents.modules.items()}
    report.width = width_of(found)
    base = "the base"
    if shapes is None and report.width in KNOWN_BASES:
        base, config = KNOWN_BASES[report.width]
        shapes = module_shapes(config)
        if report.width != Z_IMAGE_WIDTH:
            report.notes.append(f"made for a width of {report.width}, {base}; it does not fit Z-Image")
    if shapes is None:
        made = "no module tells the width"
        if report.width:
            made = f"made for a width of {report.width}, Z-Image has {Z_IMAGE_WIDTH}"
        if report.width in OTHER_WIDTHS:
            report.problems.append(f"{made}: it seems to be a LoRA for {OTHER_WIDTHS[report.width]}")
        else:
            report.notes.append(f"shapes were not checked: {made}; name the base with --base")
        return
    known = with_original_names(shapes)
    absent = [module for module in found if module not in known and not layouts.is_norm(module)]
    if absent:
        report.problems.append(f"{base} has no module {absent[0]}" + (f" ({len(absent)} such)" if absent[1:] else ""))
    wrong = [m for m, shape in found.items() if m in known and shape not in (tuple(known[m]), tuple(known[m])[:1])]
    if wrong:
        one = wrong[0]
        report.problems.append(
            f"{_are(wrong, 'module')} made for weights of other sizes, e.g. {one} for {found[one]}, "
            f"{base} has {tuple(known[one])}"
        )


def _check_own(tensors: Mapping[str, Tensor], contents: layouts.Contents, adapter: AdapterFile, report: Report) -> None:
    """Check for charloom's own layout: prefix, endings, alpha equal to the rank."""
    foreign = [key for key in tensors if not key.startswith(PREFIX)]
    if foreign:
        report.problems.append(f"{len(foreign)} keys do not start with {PREFIX}, e.g. {foreign[0]}")
    if set(contents.endings) - {"A/B"}:
        report.problems.append("not all keys end in .lora_A.weight, .lora_B.weight or .alpha")
    if report.kind not in ("lora", "dora", "lokr") or len(contents.kinds) > 1:
        report.problems.append(f"modules of a kind that charloom does not ship: {', '.join(sorted(contents.kinds))}")
    if report.layout != "diffusion_model":
        report.problems.append("the modules are not named as in diffusers")
    without = [module for module, parts in adapter.modules.items() if "alpha" not in parts]
    if without:
        report.problems.append(f"no alpha in {len(without)} of {report.modules} modules, e.g. {without[0]}")
    unequal = [module for module in adapter.modules if abs(adapter.scale(module) - 1.0) > 1e-6]
    if unequal:
        report.problems.append(
            f"alpha differs from the rank in {len(unequal)} of {report.modules} modules, another strength in loaders "
            f"that ignore alpha, e.g. {unequal[0]}"
        )


def _check_installed_diffusers(
    tensors: Mapping[str, Tensor], contents: layouts.Contents, adapter: AdapterFile, report: Report
) -> None:
    """Check that the converter of the installed diffusers takes every key and keeps the strength."""
    if report.problems or set(contents.kinds) - {"lora", "dora"}:
        return
    try:
        from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_z_image_lora_to_diffusers as convert
    except ImportError:
        report.notes.append("diffusers' converter for Z-Image was not found: its loading was not checked")
        return
    try:
        converted = convert({key: tensor for key, tensor in tensors.items() if not key.endswith(".dora_scale")})
    except (ValueError, KeyError) as error:
        report.problems.append(f"diffusers cannot convert it: {str(error)[:200]}")
        return
    lost, changed = [], []
    for module, parts in adapter.modules.items():
        a, b = (converted.pop(f"transformer.{module}.{role}.weight", None) for role in ("lora_A", "lora_B"))
        if a is None or b is None:
            lost.append(module)
        elif not (torch.equal(a.float(), parts["lora_A"].float()) and torch.equal(b.float(), parts["lora_B"].float())):
            changed.append(module)
    if lost:
        report.problems.append(f"diffusers does not find {len(lost)} modules, e.g. {lost[0]}")
    if changed:
        report.problems.append(f"diffusers loads {len(changed)} modules at another strength, e.g. {changed[0]}")
    if converted:
        report.problems.append(f"diffusers finds modules that are not there, e.g. {next(iter(converted))}")


# What `charloom convert --to` makes of a file, as rows of the table know it: (layout, traits).
_CONVERSIONS = {
    "charloom": ("diffusion_model", {"alpha", "alpha is the rank", "same in the header", "A/B"}),
    "diffusers": ("transformer", {"no alpha", "same in the header", "A/B"}),
    "comfyui": ("native", {"no alpha", "same in the header", "A/B"}),
}


def _conversion(report: Report, traits: set[str]) -> str | None:
    """The conversion that makes the file load whole where its newest row says that it does not; None if none does."""
    kind = "peft dora" if report.kind == "dora" else report.kind
    kept = {"attention", "attention alone", "no attention", "usual modules", "more modules"} & traits
    unread = {row.loader for row in loaders.newest(report.loaders) if row.result != loaders.WHOLE}
    best: tuple[set[str], str] | None = None
    for target, (layout, made) in _CONVERSIONS.items():
        rows = loaders.newest(loaders.about(layout, kind if target == "diffusers" else report.kind, made | kept))
        cured = {row.loader for row in rows if row.result == loaders.WHOLE} & unread
        if cured and (best is None or len(cured) > len(best[0])):
            best = cured, target
    if best is None:
        return None
    return f"for {' and '.join(sorted(best[0]))}: charloom convert {report.path.name} OUT.safetensors --to {best[1]}"


def _look_up(contents: layouts.Contents, adapter: AdapterFile, report: Report) -> None:
    """Look up what loaders do with the file; one that none of them loads fails."""
    scales = {module: adapter.scale(module) for module, parts in adapter.modules.items() if "alpha" in parts}
    stated = None if scales else header_scale(report.metadata)
    traits = layouts.traits(contents, scales, stated)
    if report.width in KNOWN_BASES and report.width != Z_IMAGE_WIDTH:
        report.notes.append("other programs cannot load that base, so none was tried; charloom draw does")
        return
    if len(contents.kinds) == 1:
        report.loaders = loaders.about(contents.layout, report.kind, traits)
    if "alpha in the header" in traits:
        report.notes.append(
            f"alpha is {stated:g} times the rank and is in the header only: diffusers reads it there, "
            f"ComfyUI does not and needs strength {stated:g} for the same effect"
        )
    if report.kind == "dora":
        report.notes.append("of the loaders that were tried, only charloom itself gives a DoRA its trained effect")
    if not report.loaders:
        report.notes.append("files like this one were not tried with any loader")
        return
    newest = loaders.newest(report.loaders)
    if all(row.result in (loaders.NOTHING, loaders.REFUSED) for row in newest):
        report.problems.append(f"none of the loaders that were tried takes it: {', '.join(r.loader for r in newest)}")
    if convertible(contents) and (line := _conversion(report, traits)):
        report.notes.append(line)
