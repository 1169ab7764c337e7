"""What a picture says of itself, as the readers of other programs take it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.numpy import save_file

from charloom.core import files
from charloom.core.errors import UserError
from charloom.deliver import infotext

SETTINGS = {"text": "a photo of m4ra, 雨, in the rain", "width": 1920, "height": 1088, "steps": 36, "guidance": 1.0}
SETTINGS["seed"] = 7
ABOUT: dict[str, Any] = {
    "id": "mara",
    "name": "Mara",
    "trigger": "m4ra",
    "base": "z-image-turbo",
    "model": "z_image_turbo_bf16.safetensors",
    "text_encoder": "qwen_3_4b.safetensors",
    "vae": "ae.safetensors",
    "miniature": False,
    "shift": 3.0,
}
LORAS = [infotext.Used("mara", "0123456789ab", 1.0), infotext.Used("ink", "ba9876543210", 0.75)]
# A value of a settings line as AUTOMATIC1111's infotext_utils.py reads it.
VALUE = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def test_automatic1111_reads_it() -> None:
    text = infotext.chunks("7", SETTINGS, LORAS, ABOUT)["parameters"]
    prompt, line = text.split("\n")
    assert prompt == "a photo of m4ra, 雨, in the rain <lora:mara:1> <lora:ink:0.75>"
    values = {key: json.loads(value) if value.startswith('"') else value for key, value in VALUE.findall(line)}
    assert values == {
        "Steps": "36",
        "Sampler": "Euler",
        "Schedule type": "Simple",
        "CFG scale": "1",
        "Shift": "3",
        "Seed": "7",
        "Size": "1920x1088",
        "Model": "z-image-turbo",
        "Lora hashes": "mara: 0123456789ab, ink: ba9876543210",
        "Version": "charloom",
    }


def test_comfyui_gets_the_workflow_that_draws_it() -> None:
    made = infotext.chunks("7", SETTINGS, LORAS, ABOUT)
    nodes = json.loads(made["prompt"])
    of = {kind: [n["inputs"] for n in nodes.values() if n["class_type"] == kind] for kind in
          ("LoraLoaderModelOnly", "KSampler", "EmptySD3LatentImage", "CLIPTextEncode", "MarkdownNote")}  # fmt: skip
    loras = [(one["lora_name"], one["strength_model"]) for one in of["LoraLoaderModelOnly"]]
    assert loras == [("mara.safetensors", 1.0), ("ink.safetensors", 0.75)]
    assert of["LoraLoaderModelOnly"][1]["model"] != of["LoraLoaderModelOnly"][0]["model"]
    assert [(s["seed"], s["steps"], s["cfg"]) for s in of["KSampler"]] == [(7, 36, 1.0)]
    assert [(s["width"], s["height"]) for s in of["EmptySD3LatentImage"]] == [(1920, 1088)]
    assert [s["text"] for s in of["CLIPTextEncode"]] == [SETTINGS["text"]]
    window = json.loads(made["workflow"])
    assert window["version"] == 0.4 and len(window["nodes"]) == len(nodes)
    assert set(infotext.chunks("7", SETTINGS, LORAS, {**ABOUT, "miniature": True})) == {"parameters"}


def test_a_base_with_guidance_is_named_and_its_negative_prompt_told() -> None:
    about = {**ABOUT, "label": "z-image", "model": "z_image_bf16.safetensors", "negative": "blurry, cropped"}
    made = infotext.chunks("7", {**SETTINGS, "guidance": 4.0}, LORAS, about)
    assert made["parameters"].split("\n")[1:] == [
        "Negative prompt: blurry, cropped",
        infotext.parameters({**SETTINGS, "guidance": 4.0}, LORAS, "z-image-turbo", 3.0).split("\n")[1],
    ]
    nodes = json.loads(made["prompt"])
    (sampler,) = (one["inputs"] for one in nodes.values() if one["class_type"] == "KSampler")
    assert nodes[sampler["negative"][0]]["inputs"]["text"] == "blurry, cropped" and sampler["cfg"] == 4.0
    titles = {one["class_type"]: one["_meta"]["title"] for one in nodes.values()}
    assert titles["UNETLoader"] == "z-image" and "ConditioningZeroOut" not in titles
    assert "Negative prompt" not in infotext.chunks("7", SETTINGS, LORAS, about)["parameters"]  # nothing leads away


def test_it_is_in_the_file_and_the_pixels_are_the_same(tmp_path: Path) -> None:
    image = Image.effect_noise((64, 48), 90).convert("RGB")
    image.save(tmp_path / "stored.png")
    made = infotext.chunks("7", SETTINGS, LORAS, ABOUT)
    infotext.write(tmp_path / "stored.png", tmp_path / "shown.png", made)
    infotext.write(image, tmp_path / "again.png", made)
    assert (tmp_path / "shown.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "shown.png") as shown:
        assert shown.info["parameters"] == made["parameters"] and json.loads(shown.info["prompt"])
        assert shown.tobytes() == image.tobytes()


def test_the_hash_is_that_of_the_tensors_alone(tmp_path: Path) -> None:
    import numpy as np

    for name, header in (("a", {"title": "one"}), ("b", {"title": "another, which is longer"})):
        save_file({"x": np.arange(9, dtype="float32")}, tmp_path / name, header)
    assert infotext.tensors_hash(tmp_path / "a") == infotext.tensors_hash(tmp_path / "b")
    data = (tmp_path / "a").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert infotext.tensors_hash(tmp_path / "a") == hashlib.sha256(data[8 + length :]).hexdigest()[:12]


def test_a_full_disk_is_a_line_and_leaves_no_half_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, path = Image.new("RGB", (64, 64)), tmp_path / "x.png"
    infotext.write(image, path, {})
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"x.png: the disk is full"):
        infotext.write(Image.new("RGB", (8, 8)), path, {})
    assert path.read_bytes() == before and [one.name for one in files.Path(tmp_path).iterdir()] == ["x.png"]
