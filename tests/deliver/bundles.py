"""A project whose results are there without any training, and its bundle."""

from __future__ import annotations

import json
from pathlib import Path

import small_project
import torch
from PIL import Image
from small_project import run_script

from charloom.config import project
from charloom.core import files
from charloom.core.layout import Results
from charloom.core.tensors import write_safetensors
from charloom.deliver.comfyui import WORKFLOWS
from charloom.workflow import delivery

LOCK = {
    "name": "mini",
    "root": "/somebody/else/mini",
    "components": {"transformer": "1" * 64},
    "adapters": {"v1": {"path": "/somebody/else/v1.safetensors", "sha256": "2" * 64}},
    "files": {"vae/config.json": {"size": 2, "sha256": "3" * 64}},
}


def pretend(folder: Path) -> Results:
    """The results of Mara in ``folder``, with contents that tell the files apart."""
    made = Results(folder / "results/mara")
    character = project.load(folder).characters["mara"]
    for path in (made.report, made.prompt_page, made.prompt_text, made.validation, made.score_table):
        files.write_text(path, f"<p>{path.name}</p>")
    for name in WORKFLOWS:
        files.write_text(made.comfyui(name), name)
        files.write_text(made.comfyui_api(name), name)
    for number, name in enumerate(character.image_names):
        made.image(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 96), (20 * number, 80, 120)).save(made.image(name))
        files.write_text(made.caption(name), f"a photo of m4ra, {name}\n")
    Image.new("RGB", (8, 8)).save(made.comparison)
    header = {"charloom.provenance": json.dumps({"base_digest": "4" * 64, "step": 100})}
    write_safetensors(made.final, {"x": torch.ones(3)}, header)
    files.write_json(folder / "work/bases/mini.lock.json", LOCK)
    return made


def bundle(folder: Path, *extras: str, output: str = "results/mara/bundle.zip") -> tuple[Path, str]:
    """Make the bundle of Mara as its rule does; returns it and what was said on standard error."""
    workflow = project.load(folder)
    settings = delivery.bundle(workflow.characters["mara"], workflow.bases[workflow.characters["mara"].base])
    arguments = ["--settings", settings, "--results", "results/mara", "--lock", "work/bases/mini.lock.json"]
    done = run_script("make_bundle", *arguments, "--output", output, "--extras", *extras, cwd=folder)
    return folder / output, done.stderr


def made(folder: Path) -> Path:
    """A small project with its results and its bundle."""
    pretend(small_project.make(folder))
    path, said = bundle(folder)
    assert path.is_file(), said
    return path
