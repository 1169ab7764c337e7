"""Warnings about a base before hours are spent on it: whether it can learn the user's own pictures at all, and whether
this machine is fit for it.

Shown by ``charloom lint``, by the plan, and in the report. Imports no torch, which would take seconds.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from charloom.config import excluding, image_folder, packages
from charloom.core import layout, words

if TYPE_CHECKING:
    from charloom.config.base import Base
    from charloom.config.character import Character


def notices(character: Character, base: Base, has_gpu: bool, jobs_here: bool = True) -> list[str]:
    """Lines about the character and its base, the most serious first; ``jobs_here``: jobs have this environment."""
    lines = of_base(character, base) + of_machine(base, has_gpu)
    lines += of_packages(character, has_gpu) if jobs_here else []
    return lines + of_links(character) + of_gone(character) + of_ship(character)


def of_base(character: Character, base: Base) -> list[str]:
    """Warnings that hold on any machine."""
    if not base.miniature or not own_pictures(character):
        return _of_kind(character)
    return [
        f"base {base.name} is a miniature that draws paper dolls and nothing else: it cannot learn your pictures, and "
        f"its file fits no other model. For a real result set base: z-image-turbo in {character.label}",
        *_of_kind(character),
    ]


def _of_kind(character: Character) -> list[str]:
    """A kind of adapter that other programs read without a word, and otherwise than it was trained."""
    if character.recipe["network"]["type"] != "dora":
        return []
    file = layout.results(character.id).final.as_posix()
    return [
        "network.type dora: the file has its full effect in charloom alone; ComfyUI is off by about an eighth, and "
        "diffusers leaves its magnitudes out. Take lora, or convert the file for diffusers: "
        f"charloom convert {file} OUT.safetensors --to diffusers"
    ]


def of_machine(base: Base, has_gpu: bool) -> list[str]:
    """What the base needs and this machine lacks."""
    if base.miniature or has_gpu:
        return []
    download = f", after a download of {base.download_gb:g} GB" if base.repo and base.download_gb else ""
    return [
        f"base {base.name} wants a GPU, and none was found on this machine: training on the CPU takes days"
        f"{download}. Use a machine with a GPU of 8 GB or more, better 16"
    ]


def of_packages(character: Character, has_gpu: bool) -> list[str]:
    """What training needs and is not installed."""
    cuda = has_gpu and platform.system() != "Darwin"
    return [one.line for one in packages.missing(character.recipe, cuda)]


def of_links(character: Character) -> list[str]:
    """Pictures that lie elsewhere: whoever made the folder decides what is trained on, and what is in the bundle."""
    files = [image_folder.of_shot(character, shot) for shot in character.shots] if character.source == "folder" else []
    files += [path for part in character.datasets for path in part.files.values()]
    away = [path for path in files if path and path.is_symlink() and _leads_out(path)]
    if not away:
        return []
    some = words.listed([f"{path} to {path.resolve()}" for path in away], 3)
    return [f"links lead out of the folder of pictures: {some}; what they lead to is trained on"]


def of_gone(character: Character) -> list[str]:
    """Names of pictures to leave out that no file has any more. If one is mistyped, its picture would be trained on."""
    names = excluding.gone(character)
    if not names:
        return []
    some = words.listed(names, 3)
    return [f"images.exclude: no picture is called {some}; take out what was deleted, correct what is mistyped"]


def of_ship(character: Character) -> list[str]:
    """A step to ship that the recipe does not save: valid, and perhaps mistyped. One that is there was asked for."""
    ship, steps = character.ship, character.recipe_steps
    if not ship or ship in steps or layout.results(character.id).checkpoint(ship).is_file():
        return []
    return [
        f"ship: {ship} in {character.label} is not a step the recipe saves: training goes on to it and ends there. "
        f"Take one of {', '.join(map(str, steps))}, unless you mean that"
    ]


def _leads_out(path: Path) -> bool:
    return not path.resolve().is_relative_to(path.parent.resolve())


def own_pictures(character: Character) -> bool:
    """Whether the character is learnt from pictures that charloom did not draw."""
    return character.source != "paperdoll" or any(not part.regularization for part in character.datasets)


def has_gpu(device: str = "auto", here: bool = False) -> bool:
    """Whether there is a GPU, or another device was named; judged by drivers, without torch.

    A profile that names a CUDA device may be for another machine; if jobs run ``here``, drivers decide about it too.
    """
    if device not in ("auto", "cpu") and not (here and device.startswith("cuda")):
        return True
    if device == "cpu":
        return False
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    if shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists():
        return True
    # WSL has its device with any maker's driver, and Linux AMD's with any of its processors that draw.
    if Path("/dev/dxg").exists():
        return Path("/usr/lib/wsl/lib/libcuda.so.1").exists() or _torch_is_for_amd()
    return Path("/dev/kfd").exists() and _torch_is_for_amd()


def _torch_is_for_amd() -> bool:
    """Whether the torch that is installed computes on AMD's GPUs, told without importing it."""
    found = importlib.util.find_spec("torch")
    try:
        text = (Path(str(found and found.origin)).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^hip\b[^=]*= *['\"]", text, re.MULTILINE) is not None
