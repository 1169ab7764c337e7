"""The words of the terminal: names of finished stages, and which of Snakemake's own lines to hide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from charloom.core.numbers import clock

STAGES = {
    "lock_base": ("base identified", "bases identified"),
    "prepare_base": ("base prepared", "bases prepared"),
    "write_prompts": ("prompt sheet written", "prompt sheets written"),
    "make_reference": ("reference ready", "references ready"),
    "make_source_image": ("picture made", "pictures made"),
    "convert_picture": ("picture converted", "pictures converted"),
    "convert_set_picture": ("extra picture converted", "extra pictures converted"),
    "draw_reference": ("reference drawn", "references drawn"),
    "generate_reference": ("reference generated", "references generated"),
    "draw_picture": ("picture drawn", "pictures drawn"),
    "generate_picture": ("picture generated", "pictures generated"),
    "crop_watermark": ("picture cropped", "pictures cropped"),
    "write_caption": ("caption written", "captions written"),
    "take_caption": ("caption copied", "captions copied"),
    "take_set_caption": ("extra caption copied", "extra captions copied"),
    "caption_image": ("picture described", "pictures described"),
    "propose_captions": ("captions proposed", "sets of captions proposed"),
    "make_mask": ("mask made", "masks made"),
    "lint_dataset": ("data set checked", "data sets checked"),
    "write_manifest": ("manifest written", "manifests written"),
    "encode_latents": ("picture encoded", "pictures encoded"),
    "encode_caption": ("caption encoded", "captions encoded"),
    "encode_class_caption": ("class caption encoded", "class captions encoded"),
    "encode_text": ("prompt encoded", "prompts encoded"),
    "train_segment": ("checkpoint trained", "checkpoints trained"),
    "sample_checkpoint": ("preview drawn", "previews drawn"),
    "draw_grid": ("preview grid drawn", "preview grids drawn"),
    "score_checkpoint": ("checkpoint scored", "checkpoints scored"),
    "lock_judge": ("judge identified", "judges identified"),
    "study_references": ("judge chosen", "judges chosen"),
    "sample_drift": ("drift preview drawn", "drift previews drawn"),
    "score_drift": ("drift scored", "drift scores written"),
    "choose_checkpoint": ("checkpoint chosen", "checkpoints chosen"),
    "sample_strength": ("strength picture drawn", "strength pictures drawn"),
    "score_strengths": ("strength sweep scored", "strength sweeps scored"),
    "write_report": ("report written", "reports written"),
    "write_index": ("index written", "indexes written"),
    "verify_checkpoint": ("checkpoint verified", "checkpoints verified"),
    "export_final": ("LoRA file written", "LoRA files written"),
    "draw_gallery": ("scene drawn", "scenes drawn"),
    "write_gallery": ("gallery written", "galleries written"),
    "write_comfyui": ("ComfyUI workflows written", "sets of ComfyUI workflows written"),
    "make_bundle": ("bundle packed", "bundles packed"),
    "compare_results": ("comparison written", "comparisons written"),
}
"""By rule, what to say of one finished job and of several. Other rules are shown by their names."""

TRAINING, PREVIEWS = "train_segment", "sample_checkpoint"
SHOWN = {
    **dict.fromkeys(("write_report", "write_gallery", "compare_results"), ".html"),
    "export_final": ".safetensors",
    "make_bundle": ".zip",
}
"""Rules whose output the user is waiting for, and its extension."""
TOLD = {"choose_checkpoint": "chosen: ", "make_reference": "taken: "}
"""Rules whose first log line is shown if it begins like this."""
LIGHT = {
    "lock_base", "write_prompts", "make_reference", "make_source_image", "crop_watermark", "convert_picture",
    "convert_set_picture", "write_caption", "take_caption", "take_set_caption", "propose_captions", "make_mask",
    "lint_dataset", "write_manifest", "draw_grid", "lock_judge", "choose_checkpoint", "verify_checkpoint",
    "write_report", "write_index", "export_final", "write_comfyui", "write_gallery", "make_bundle", "compare_results",
}  # fmt: skip
"""Rules whose jobs take seconds, so that the time left can be estimated before any has run."""

NOISE = re.compile(
    "Building DAG of jobs|Using shell:|Provided |Rules claiming more threads|Conda environments: ignored|"
    "Singularity containers: ignored|Group jobs: inactive|Select jobs to execute|Execute \\d+ jobs|"
    "Assuming unrestricted shared|Finished jobid|\\d+ of \\d+ steps|Complete log|Elapsed time|host: |"
    "Trying to restart job|Removing output files of failed job|Shutting down, this might|Job \\d+ has been submitted|"
    "Exiting because a job execution failed|At least one job did not complete|This was a dry-run|Workflow has started|"
    "Using workflow specific profile|Terminating processes on user request|Removing temporary output|"
    "Failed to set marker file|Some jobs were triggered by provenance|Rules with provenance triggered|"
    "Job stats|Reasons:|Storing output in storage|Touching output"
)
"""Beginnings of Snakemake's own lines that the display makes redundant; all of them are in the full log."""

OVER = re.compile("At least one job did not complete")
"""In Snakemake's last error when a job has failed; by then everything has been said."""

COMMAND_FAILED = re.compile("non-zero exit|CalledProcessError|SpawnedJobError")
"""In errors that only say that a job's command has failed; the job's own lines say it better."""

LOCKED = re.compile("Directory cannot be locked")
"""In Snakemake's message about a second call for the same files: an error in a run, a line in a dry run."""


def only_named(rule: str) -> bool:
    """Whether a rule is ``all`` or the name of a character, which only stand for what they need."""
    files = (Path("config", folder, f"{rule}.yaml") for folder in ("characters", "styles"))
    return rule not in STAGES and (rule == "all" or any(path.is_file() for path in files))


def in_use(names: Sequence[str]) -> str:
    """A clause saying that another call is making these characters; ``names`` is empty if they are unknown."""
    if not names:
        return "another snakemake is making these files in this folder"
    some = ", ".join([*names[:3], *(["..."] if names[3:] else [])])
    return f"{some} {'are' if names[1:] else 'is'} being made by another snakemake in this folder"


def stage(rule: str, jobs: int) -> str:
    """``30 pictures cropped``; no number for a single job."""
    one, several = STAGES.get(rule, (rule.replace("_", " "), f"× {rule.replace('_', ' ')}"))
    return f"{jobs} {several}" if jobs > 1 else one[0].upper() + one[1:]


def seconds(value: float) -> str:
    """``4 s``, ``1:05``, ``2:03:10``."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else clock(whole)


def speed(per_step: float) -> str:
    """Seconds per step, with significant digits only."""
    return f"{per_step:.3f} s/it" if per_step < 0.1 else f"{per_step:.2f} s/it"
