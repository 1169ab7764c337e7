"""The header of the file to ship: fields for readers, nothing of the machine, and the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from charloom.core import headers
from charloom.core.errors import UserError
from charloom.core.tensors import write_safetensors
from charloom.lora import finished

ABOUT = {
    "name": "Mara",
    "base": "z-image-turbo",
    "license": "Apache-2.0",
    "resolution": 1024,
    "shift": 3.0,
    "sampler": {"steps": 8, "guidance": 1.0},
    "sample": {"name": "01", "prompt": "a photo of m4ra", "seed": 42, "strength": 1.0},
}
TENSORS = {"b": torch.arange(6.0).bfloat16(), "a": torch.ones(2, 2)}
SHA256 = "c0ffee"
TRAINED = {"ss_network_dim": "4", "modelspec.trigger_phrase": "m4ra", "modelspec.title": "mara"}


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """The picture that compresses worst."""
    values = np.random.default_rng(0).integers(0, 256, (1024, 768, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def test_a_thumbnail_is_a_small_jpeg_whatever_the_picture(noise: Path) -> None:
    uri = finished.thumbnail(noise)
    assert len(uri) <= 64 * 1024
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))) as image:
        assert (image.format, image.size) == ("JPEG", (192, 256)) and not image.getexif()


def test_it_says_what_readers_look_for(noise: Path) -> None:
    made = finished.header(TRAINED, SHA256, ABOUT, noise, "")
    assert made["modelspec.title"] == "Mara" and made["modelspec.resolution"] == "1024x1024"
    assert made["modelspec.usage_hint"] == "8 steps, cfg 1, sampler euler, schedule simple, shift 3"
    assert made["modelspec.license"] == "Apache-2.0" and made["ss_network_dim"] == "4"
    assert made["charloom.sample"].startswith('{"name":"01","prompt":"a photo of m4ra"')


def test_the_hash_is_that_of_all_bytes_after_the_header(tmp_path: Path) -> None:
    checkpoint = tmp_path / "x.safetensors"
    write_safetensors(checkpoint, TENSORS, TRAINED)
    data = checkpoint.read_bytes()
    sha256 = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert headers.tensors_sha256(checkpoint) == sha256
    made = finished.header(TRAINED, sha256, {**ABOUT, "sample": None}, None, "")
    assert made["modelspec.hash_sha256"] == f"0x{sha256}" and made["sshs_model_hash"] == sha256


def test_another_header_leaves_the_tensors_as_a_writer_would_write_them(tmp_path: Path) -> None:
    old, new, expected = (tmp_path / f"{name}.safetensors" for name in ("old", "new", "expected"))
    write_safetensors(old, TENSORS, TRAINED)
    header = {**TRAINED, "b": "é \U0001f98a", "a": "x" * 70_000}
    headers.with_metadata(old, new, header)
    write_safetensors(expected, TENSORS, header)
    assert new.read_bytes() == expected.read_bytes()
    assert headers.metadata(new) == header and headers.metadata(old) == TRAINED


def test_without_a_sample_there_is_neither_picture_nor_prompt() -> None:
    made = finished.header(TRAINED, SHA256, ABOUT, None, "")
    assert "modelspec.thumbnail" not in made and "charloom.sample" not in made


def test_a_date_comes_from_the_environment_alone(noise: Path) -> None:
    assert "modelspec.date" not in finished.header(TRAINED, SHA256, ABOUT, noise, "")
    assert finished.header(TRAINED, SHA256, ABOUT, noise, "86400")["modelspec.date"] == "1970-01-02T00:00:00Z"
    for wrong in ("yesterday", "1e99", "9" * 30):
        with pytest.raises(UserError, match="SOURCE_DATE_EPOCH"):
            finished.date(wrong)
