"""A small project on its own: three shots, two prompts, two checkpoints, and a base of empty files.

Enough for everything that is decided before a job starts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import snakemake_server
import yaml
from PIL import Image

from charloom.config.character import Character
from charloom.config.project import load

ROOT = Path(__file__).resolve().parents[1]
CODE = (
    "Snakefile",
    "charloom",
    "snakemake_logger_plugin_charloom",
    "rules",
    "scripts",
    "profiles",
    "envs",
    "config/schemas",
)
TARGET = "results/mara/final.safetensors"

CHARACTER: dict[str, Any] = {
    "name": "Mara",
    "trigger": "m4ra",
    "concept": {"prompt": "photo of a woman, plain white t-shirt, light gray studio background"},
    "appearance": "a woman with curly black hair and green eyes",
    "identity_line": {
        "full": "{trigger}, a woman with curly black hair and green eyes",
        "eyes_hidden": "{trigger}, a woman with curly black hair",
    },
    "images": {"source": "paperdoll", "count": 3},
    "doll": {
        "skin": "tan",
        "hair_color": "black",
        "hair_style": "curly",
        "eye_color": "green",
        "eye_size": "medium",
        "face_width": "oval",
        "brows": "thin",
        "lips": "full",
        "freckles": "none",
    },
    "shots": [
        {
            "name": "closeup-01",
            "tier": "close-up",
            "view": "frontal view",
            "expression": "soft smile",
            "outfit": "a white t-shirt",
            "accessories": ["gold hoop earrings"],
            "background": "light gray studio background",
        },
        {
            "name": "medium-01",
            "tier": "medium",
            "view": "side profile",
            "pose": "arms crossed",
            "expression": "serious expression",
            "outfit": "a black hoodie",
            "background": "white studio background",
        },
        {
            "name": "fullbody-01",
            "tier": "full-body",
            "view": "seen from behind",
            "pose": "standing with arms at her sides",
            "outfit": "a beige pantsuit",
            "background": "beach",
        },
    ],
    "sample_prompts": [
        "a medium shot photo of {trigger}, laughing, wearing a red hoodie, kitchen",
        {"prompt": "a full body photo of {trigger}, jumping, wearing teal pajamas, bedroom", "scale": 0.8},
    ],
}
CONFIG: dict[str, Any] = {
    "base": "mini",
    "recipe": {"train": {"steps": 100}, "save": {"every": 50, "keep": "all"}, "sample": {"every": 50}},
}
BASE: dict[str, Any] = {
    "path": "resources/bases/mini",
    "judge": "none",
    "adapters": {"v1": "resources/bases/mini/adapter.safetensors"},
    "recipe": {
        "quantization": {"transformer": "none", "text_encoder": "none"},
        "data": {"resolutions": [128]},
        "train": {"optimizer": "adamw"},
        "sample": {"width": 128, "height": 128},
    },
}


def write_yaml(path: Path, data: dict[str, Any]) -> None:
    """Write a YAML file with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def edit(path: Path, /, **changes: Any) -> None:
    """Set top-level keys of a YAML file."""
    write_yaml(path, {**yaml.safe_load(path.read_text()), **changes})


def make(folder: Path) -> Path:
    """The configuration and an empty base in ``folder``."""
    write_yaml(folder / "config/config.yaml", CONFIG)
    write_yaml(folder / "config/bases/mini.yaml", BASE)
    write_yaml(folder / "config/characters/mara.yaml", CHARACTER)
    base = folder / BASE["path"]
    for name in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (base / name).mkdir(parents=True)
        (base / name / "config.json").write_text("{}")
    for name in ("model_index.json", "adapter.safetensors"):
        (base / name).write_text("{}")
    return folder


def add_code(folder: Path) -> Path:
    """A copy of the workflow's code beside the configuration, so that a test may edit it."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in CODE:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(source, folder / name, **({"ignore": ignored} if source.is_dir() else {}))
    return folder


PRETENDER = """#!{python} -S
# Stands in for the interpreter of the jobs: writes the files that a script is asked for, and nothing else.
import sys
made = sys.argv[sys.argv.index("--output") if "--output" in sys.argv else 0 :]  # what stands before it is read
for flag, value in zip(made, made[1:]):
    if flag in ("--output", "--comparison", "--html", "--txt", "--record", "--validation", "--table",
                "--scores-plot", "--loss-plot", "--strip"):
        with open(value, "w") as file:
            file.write(value)
"""


def pretender(folder: Path) -> Path:
    """An interpreter that only pretends to run the scripts."""
    path = folder / "pretender"
    path.write_text(PRETENDER.format(python=sys.executable))
    path.chmod(0o755)
    return path


def snakemake(
    folder: Path, *arguments: str, code: Path | None = None, terminal: str = "plain"
) -> subprocess.CompletedProcess[str]:
    """Run snakemake in ``folder`` with the code that lies there (or in ``code``); its own text unless ``terminal``."""
    code = code or folder
    environment = {
        **os.environ,
        "CHARLOOM_TERMINAL": terminal,
        "PYTHONPATH": str(code),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(folder),
    }
    arguments = ("-s", str(code / "Snakefile"), *arguments)
    if snakemake_server.serves(code):
        return snakemake_server.run(folder, environment, *arguments)
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs by rule that a dry run plans."""
    result = snakemake(folder, "-n", TARGET, *arguments)
    assert result.returncode == 0, result.stderr
    text = result.stdout + result.stderr
    if "Nothing to be done" in text:
        return {}
    table = text[text.index("Job stats:") :]
    rows = re.findall(r"^(\w+) +(\d+)$", table.split("total")[0], flags=re.MULTILINE)
    assert rows, text
    return {rule: int(number) for rule, number in rows}


def replace(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def run_script(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of a rule with this code and nothing else on the path."""
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def picture(path: Path, size: tuple[int, int] = (1300, 1200), seed: int = 0) -> Path:
    """An image with something to see, different for each seed."""
    generator = np.random.default_rng(seed)
    image = Image.fromarray(generator.integers(0, 256, (24, 26, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )
    image.save(path)
    return path


def with_sets(folder: Path, **changes: object) -> Character:
    """Mara with a regularisation set of two images, one of them without a text, and the given changes to it."""
    (folder / "others").mkdir()
    for name in ("a-1", "a-2"):
        picture(folder / f"others/{name}.png", (80, 64))
    (folder / "others/a-1.txt").write_text("a photo of a woman")
    entry = {"name": "others", "path": "others", "regularization": True, "default_caption": "somebody", **changes}
    edit(folder / "config/characters/mara.yaml", datasets=[entry])
    return load(folder).characters["mara"]
