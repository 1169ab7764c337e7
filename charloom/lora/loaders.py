"""How each loader reads each layout, by version: a table of test results and nothing else.

Small files of every layout were loaded with the code of the listed versions, and the change of each weight was compared
with the trained one. tests/lora/test_lora_loaders.py checks the table and repeats the rows of the installed diffusers.
Anything without a row was not tested, and is reported as such.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

WHOLE = "loads whole"
PART = "loads in part"
NOTHING = "loads nothing"
REFUSED = "refuses"
OTHERWISE = "loads with another effect"


@dataclass(frozen=True)
class Row:
    """A row of the table: files of a layout and kind with the traits ``needs``, for a range of versions."""

    layout: str
    kind: str
    needs: frozenset[str]
    loader: str
    first: str
    last: str
    result: str
    note: str = ""
    evidence: str = "run 2026-11"

    @property
    def versions(self) -> str:
        """The range, as it is printed."""
        return self.first if self.first == self.last else f"{self.first} to {self.last}"

    def record(self) -> dict[str, str]:
        """Plain values for JSON."""
        fields = ("loader", "versions", "result", "note", "evidence")
        return {name: getattr(self, name) for name in fields}

    def __str__(self) -> str:
        return f"{self.loader} {self.versions}: {self.result}{f' ({self.note})' if self.note else ''}"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.replace("-", ".").split("."))


C, D = "ComfyUI", "diffusers"
_NEW = "0.42.1"
_SILENT = "without a word"
_LOOKS_UP = "it looks for an alpha of every module"
_IGNORED = "alpha is ignored"
_HEADER = "an alpha in the header is ignored"
_NO_ATTENTION = "the attention modules are left out"
_FORWARD = "the feed-forward modules alone"
_PLAIN = "as a plain LoRA, without the magnitudes"
_NORM = "divides by the norm of the bare weight: 12.8 % off for a DoRA trained here, 24.6 % in the worst module"
_STRAY, _STRAY_LAST = "the file has keys that it does not know", "0.12.1"
_DM, _TR = "diffusion_model", "transformer"

# layout, kind, required traits, loader, first and last tested version, result
_ROWS = (
    # diffusion_model.: charloom, ai-toolkit; SimpleTuner and OneTrainer for ComfyUI; musubi-tuner converted
    (_DM, "lora", "alpha is the rank", D, "0.36.0", _NEW, WHOLE),
    (_DM, "lora", "alpha is not the rank, A/B", D, "0.36.0", "0.36.0", OTHERWISE, _IGNORED),
    (_DM, "lora", "alpha is not the rank, A/B", D, "0.37.0", _NEW, WHOLE),
    (_DM, "lora", "alpha is not the rank, down/up", D, "0.36.0", _NEW, WHOLE),
    (_DM, "lora", "no alpha, A/B", D, "0.36.0", "0.36.0", WHOLE),
    (_DM, "lora", "no alpha, A/B", D, "0.37.0", "0.37.1", REFUSED, _LOOKS_UP),
    (_DM, "lora", "no alpha, A/B", D, "0.38.0", _NEW, WHOLE),
    (_DM, "lora", "no alpha, default", D, "0.36.0", "0.36.0", WHOLE),
    (_DM, "lora", "no alpha, default", D, "0.37.0", "0.37.1", REFUSED, _LOOKS_UP),
    (_DM, "lora", "no alpha, default", D, "0.38.0", _NEW, WHOLE),
    (_DM, "lora", "no alpha, down/up", D, "0.36.0", "0.37.1", REFUSED, _LOOKS_UP),
    (_DM, "lora", "no alpha, down/up", D, "0.38.0", _NEW, WHOLE),
    (_DM, "lora", "attention", C, "0.3.75", "0.3.75", PART, _NO_ATTENTION),
    (_DM, "lora", "attention alone", C, "0.3.75", "0.3.75", NOTHING),
    (_DM, "lora", "A/B, alpha is the rank", C, "0.3.76", "0.33.0", WHOLE),
    (_DM, "lora", "A/B, alpha is not the rank", C, "0.3.76", "0.12.1", WHOLE),
    (_DM, "lora", "A/B, no alpha, same in the header", C, "0.3.76", "0.12.1", WHOLE),
    (_DM, "lora", "A/B, alpha in the header", C, "0.3.76", "0.12.1", OTHERWISE, _HEADER),
    (_DM, "lora", "down/up, same in the header", C, "0.3.76", "0.12.1", WHOLE),
    (_DM, "lora", "default, same in the header", C, "0.3.76", "0.12.1", WHOLE),
    (_DM, "lora", "alpha is the rank, A/B", "SD.Next", "2026-11", "2026-11", WHOLE),
    (_DM, "lora", "alpha is the rank, A/B", "stable-diffusion.cpp", "2026-11", "2026-11", WHOLE),
    (_DM, "lora", "alpha is the rank, A/B", "ai-toolkit", "2026-11", "2026-11", WHOLE),
    # names of the original model, q, k and v fused
    ("native", "lora", "no alpha, A/B", D, "0.36.0", "0.36.0", PART, _FORWARD),
    ("native", "lora", "no alpha, A/B", D, "0.37.0", "0.37.1", REFUSED, _LOOKS_UP),
    ("native", "lora", "no alpha, A/B", D, "0.38.0", _NEW, PART, _FORWARD),
    ("native", "lora", "alpha, A/B", D, "0.36.0", "0.36.0", PART, _FORWARD),
    ("native", "lora", "alpha, A/B", D, "0.37.0", _NEW, REFUSED),
    ("native", "lora", "alpha, down/up", D, "0.36.0", _NEW, PART, "q, k and v are left out"),
    ("native", "lora", "no alpha, A/B", C, "0.3.75", "0.33.0", WHOLE),
    ("native", "lora", "alpha", C, "0.3.75", "0.12.1", WHOLE),
    ("native bare", "lora", "no alpha, A/B", D, "0.36.0", _NEW, NOTHING, _SILENT),
    ("native bare", "lora", "A/B", C, "0.3.75", "0.8.2", NOTHING),
    ("native bare", "lora", "A/B", C, "0.9.0", "0.12.1", PART, _FORWARD),
    # transformer.: the script of diffusers, SimpleTuner, OneTrainer
    (_TR, "lora", "no alpha, A/B", D, "0.36.0", _NEW, WHOLE),
    (_TR, "lora", "no alpha, down/up", D, "0.36.0", _NEW, REFUSED),
    (_TR, "lora", "alpha", D, "0.36.0", _NEW, REFUSED),
    (_TR, "lora", "", C, "0.3.75", "0.3.77", NOTHING),
    (_TR, "lora", "no alpha, A/B, same in the header", C, "0.4.0", "0.33.0", WHOLE),
    (_TR, "lora", "no alpha, A/B, alpha in the header", C, "0.4.0", "0.33.0", OTHERWISE, _HEADER),
    (_TR, "lora", "no alpha, down/up", C, "0.4.0", "0.12.1", WHOLE),
    (_TR, "lora", "alpha", C, "0.4.0", "0.12.1", WHOLE),
    # no prefix: DiffSynth-Studio
    ("bare", "lora", "no alpha, default", D, "0.36.0", "0.36.0", WHOLE),
    ("bare", "lora", "no alpha, default", D, "0.37.0", "0.37.1", REFUSED, _LOOKS_UP),
    ("bare", "lora", "no alpha, default", D, "0.38.0", _NEW, WHOLE),
    ("bare", "lora", "no alpha, A/B", D, "0.36.0", _NEW, NOTHING, _SILENT),
    ("bare", "lora", "alpha is the rank", D, "0.36.0", _NEW, WHOLE),
    ("bare", "lora", "alpha is not the rank, down/up", D, "0.36.0", _NEW, WHOLE),
    ("bare", "lora", "alpha is not the rank, A/B", D, "0.36.0", "0.36.0", OTHERWISE, _IGNORED),
    ("bare", "lora", "alpha is not the rank, A/B", D, "0.37.0", _NEW, WHOLE),
    ("bare", "lora", "alpha is not the rank, default", D, "0.36.0", "0.36.0", OTHERWISE, _IGNORED),
    ("bare", "lora", "alpha is not the rank, default", D, "0.37.0", _NEW, WHOLE),
    ("bare", "lora", "", C, "0.3.75", "0.8.2", NOTHING),
    ("bare", "lora", "default, no alpha, same in the header", C, "0.9.0", "0.33.0", WHOLE),
    ("bare", "lora", "default, alpha", C, "0.9.0", "0.12.1", WHOLE),
    ("bare", "lora", "A/B, same in the header", C, "0.9.0", "0.12.1", WHOLE),
    ("bare", "lora", "down/up, same in the header", C, "0.9.0", "0.12.1", WHOLE),
    # flat names: musubi-tuner, kohya's scripts, OneTrainer
    ("flat", "lora", "down/up, alpha, usual modules", D, "0.36.0", "0.36.0", REFUSED),
    ("flat", "lora", "down/up, alpha, usual modules", D, "0.37.0", _NEW, WHOLE),
    ("flat", "lora", "down/up, alpha, more modules", D, "0.36.0", "0.36.0", REFUSED),
    ("flat", "lora", "down/up, alpha, more modules", D, "0.37.0", "0.38.0", PART, "attention and feed-forward alone"),
    ("flat", "lora", "down/up, alpha, more modules", D, "0.39.0", _NEW, WHOLE),
    ("flat", "lora", "down/up, no alpha, usual modules", D, "0.36.0", "0.37.1", REFUSED),
    ("flat", "lora", "down/up, no alpha, usual modules", D, "0.38.0", _NEW, WHOLE),
    ("flat", "lora", "A/B, alpha", D, "0.36.0", _NEW, REFUSED),
    ("flat", "lora", "attention, A/B", C, "0.3.75", "0.12.1", PART, _NO_ATTENTION),
    ("flat", "lora", "attention, down/up, no alpha", C, "0.3.75", "0.12.1", PART, _NO_ATTENTION),
    ("flat", "lora", "attention, down/up, alpha, more modules", C, "0.3.75", "0.12.1", PART, _NO_ATTENTION),
    ("flat", "lora", "attention, down/up, alpha, usual modules", C, "0.3.75", "0.33.0", PART, _NO_ATTENTION),
    ("flat", "lora", "attention alone", C, "0.3.75", "0.12.1", NOTHING),
    ("flat fused", "lora", "down/up, alpha", D, "0.36.0", "0.40.0", REFUSED),
    ("flat fused", "lora", "down/up, alpha", D, "0.41.0", _NEW, WHOLE),
    ("flat fused", "lora", "down/up, no alpha", D, "0.36.0", "0.37.1", REFUSED),
    ("flat fused", "lora", "down/up, no alpha", D, "0.38.0", "0.40.0", PART, _FORWARD),
    ("flat fused", "lora", "down/up, no alpha", D, "0.41.0", _NEW, WHOLE),
    ("flat fused", "lora", "down/up, alpha", C, "0.3.75", "0.33.0", WHOLE),
    ("flat fused", "lora", "down/up, no alpha", C, "0.3.75", "0.12.1", WHOLE),
    ("flat transformer", "lora", "down/up, alpha", D, "0.36.0", _NEW, REFUSED),
    ("flat transformer", "lora", "down/up, alpha", C, "0.3.75", "0.12.1", NOTHING),
    ("lycoris", "lora", "down/up, alpha", D, "0.36.0", _NEW, REFUSED),
    ("lycoris", "lora", "down/up", C, "0.3.75", "0.3.75", NOTHING),
    ("lycoris", "lora", "down/up", C, "0.3.76", "0.12.1", WHOLE),
    ("peft", "lora", "no alpha", D, "0.36.0", _NEW, NOTHING, _SILENT),
    ("peft", "lora", "no alpha", C, "0.3.75", "0.12.1", NOTHING),
    # DoRA, dora_scale (charloom, OneTrainer), and with the names of PEFT (SimpleTuner) or ai-toolkit
    (_DM, "dora", "alpha is the rank, A/B", D, "0.36.0", _NEW, OTHERWISE, _PLAIN),
    (_DM, "dora", "no alpha, A/B", D, "0.36.0", "0.36.0", OTHERWISE, _PLAIN),
    (_DM, "dora", "no alpha, A/B", D, "0.37.0", "0.37.1", REFUSED, _LOOKS_UP),
    (_DM, "dora", "no alpha, A/B", D, "0.38.0", _NEW, OTHERWISE, _PLAIN),
    (_DM, "dora", "attention", C, "0.3.75", "0.3.75", PART, _NO_ATTENTION),
    (_DM, "dora", "alpha", C, "0.3.76", "0.33.0", OTHERWISE, _NORM),
    (_DM, "dora", "no alpha", C, "0.3.76", "0.12.1", OTHERWISE, _NORM),
    (_TR, "dora", "no alpha, A/B", D, "0.36.0", _NEW, OTHERWISE, _PLAIN),
    (_TR, "dora", "", C, "0.3.75", "0.3.77", NOTHING),
    (_TR, "dora", "", C, "0.4.0", "0.12.1", OTHERWISE, _NORM),
    (_TR, "peft dora", "no alpha, A/B", D, "0.36.0", _NEW, WHOLE),
    (_TR, "peft dora", "", C, "0.3.75", "0.3.77", NOTHING),
    (_TR, "peft dora", "", C, "0.4.0", "0.12.1", OTHERWISE, _PLAIN),
    (_DM, "peft dora", "no alpha, A/B", D, "0.36.0", _NEW, REFUSED),
    (_DM, "peft dora", "attention", C, "0.3.75", "0.3.75", PART, _NO_ATTENTION),
    (_DM, "peft dora", "", C, "0.3.76", "0.12.1", OTHERWISE, _PLAIN),
    # LoKr
    (_DM, "lokr", "", D, "0.36.0", "0.41.0", REFUSED),
    (_DM, "lokr", "", D, "0.42.0", _NEW, WHOLE),
    (_DM, "lokr", "attention", C, "0.3.75", "0.3.75", PART, _NO_ATTENTION),
    (_DM, "lokr", "", C, "0.3.76", "0.12.1", WHOLE),
    (_DM, "lokr", "", "SD.Next", "2026-11", "2026-11", WHOLE),
    (_TR, "lokr", "no alpha", D, "0.36.0", "0.41.0", REFUSED),
    (_TR, "lokr", "no alpha", D, "0.42.0", _NEW, WHOLE),
    (_TR, "lokr", "alpha", D, "0.36.0", _NEW, REFUSED),
    (_TR, "lokr", "", C, "0.3.75", "0.3.77", NOTHING),
    (_TR, "lokr", "", C, "0.4.0", "0.12.1", WHOLE),
    ("bare", "lokr", "alpha", D, "0.36.0", "0.41.0", REFUSED),
    ("bare", "lokr", "alpha", D, "0.42.0", _NEW, WHOLE),
    ("bare", "lokr", "no alpha", D, "0.36.0", "0.41.0", REFUSED),
    ("bare", "lokr", "no alpha", D, "0.42.0", _NEW, NOTHING, _SILENT),
    ("bare", "lokr", "", C, "0.3.75", "0.8.2", NOTHING),
    ("bare", "lokr", "", C, "0.9.0", "0.12.1", WHOLE),
    ("lycoris", "lokr", "alpha", D, "0.36.0", _NEW, REFUSED),
    ("lycoris", "lokr", "", C, "0.3.75", "0.3.75", NOTHING),
    ("lycoris", "lokr", "", C, "0.3.76", "0.12.1", WHOLE),
    ("flat", "lokr", "alpha", D, "0.36.0", _NEW, REFUSED),
    ("flat", "lokr", "attention", C, "0.3.75", "0.12.1", PART, _NO_ATTENTION),
    # LoHa
    (_DM, "loha", "", D, "0.36.0", _NEW, REFUSED),
    (_DM, "loha", "attention", C, "0.3.75", "0.3.75", PART, _NO_ATTENTION),
    (_DM, "loha", "", C, "0.3.76", "0.33.0", WHOLE),
    (_TR, "loha", "", D, "0.36.0", _NEW, REFUSED),
    (_TR, "loha", "", C, "0.3.75", "0.3.77", NOTHING),
    (_TR, "loha", "", C, "0.4.0", "0.12.1", WHOLE),
    ("bare", "loha", "", D, "0.36.0", _NEW, REFUSED),
    ("bare", "loha", "", C, "0.3.75", "0.8.2", NOTHING),
    ("bare", "loha", "", C, "0.9.0", "0.12.1", WHOLE),
    ("lycoris", "loha", "", D, "0.36.0", _NEW, REFUSED),
    ("lycoris", "loha", "", C, "0.3.75", "0.3.75", NOTHING),
    ("lycoris", "loha", "", C, "0.3.76", "0.12.1", WHOLE),
    ("flat", "loha", "", D, "0.36.0", _NEW, REFUSED),
    ("flat", "loha", "attention", C, "0.3.75", "0.12.1", PART, _NO_ATTENTION),
    # whole differences of weights
    (_DM, "full", "", D, "0.36.0", _NEW, REFUSED),
    (_DM, "full", "attention", C, "0.3.75", "0.3.75", PART, _NO_ATTENTION),
    (_DM, "full", "", C, "0.3.76", "0.12.1", WHOLE),
    (_TR, "full", "", D, "0.36.0", _NEW, REFUSED),
    (_TR, "full", "", C, "0.3.75", "0.3.77", NOTHING),
    (_TR, "full", "", C, "0.4.0", "0.12.1", WHOLE),
)
TABLE = tuple(Row(row[0], row[1], frozenset(row[2].split(", ")) - {""}, *row[3:]) for row in _ROWS)


def about(layout: str | None, kind: str, traits: Iterable[str]) -> list[Row]:
    """The rows for a file, in table order; empty if such files were not tested.

    With keys outside the adapter, diffusers refuses the file, except for those of a text encoder beside
    ``transformer.`` keys, which it ignores.
    """
    found = set(traits)
    rows = [row for row in TABLE if row.layout == layout and row.kind == kind and row.needs <= found]
    if not found & {"unknown keys", "text encoder"}:
        return rows
    # With such keys, ComfyUI's newest version was not tested.
    rows = [replace(row, last=_STRAY_LAST) if (row.loader, row.last) == (C, "0.33.0") else row for row in rows]
    if "unknown keys" not in found and layout == _TR:
        return rows
    refused = [replace(row, first="0.36.0", last=_NEW, result=REFUSED, note=_STRAY) for row in rows if row.loader == D]
    return refused[:1] + [row for row in rows if row.loader != D]


def newest(rows: Iterable[Row]) -> list[Row]:
    """The row with the newest version of each loader."""
    out: dict[str, Row] = {}
    for row in rows:
        if row.loader not in out or _number(row.last) > _number(out[row.loader].last):
            out[row.loader] = row
    return list(out.values())
