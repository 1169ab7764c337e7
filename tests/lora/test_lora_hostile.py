"""LoRA files of somebody who means harm: read or refused in one line, in no time."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest

from charloom.core.errors import UserError
from charloom.core.tensors import read_safetensors
from charloom.lora.files import header_scale
from charloom.lora.verify import verify


def write(path: Path, header: bytes, length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(64))
    return path


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b"{}", 2**63),
        (b"{}", 2**64 - 1),
        (b"{}", 10**12),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":["0","4"]}}', None),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,"x"]}}', None),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, None),
    ],
)
def test_headers_that_lie_are_refused_in_one_line(tmp_path: Path, header: bytes, length: int | None) -> None:
    with pytest.raises(UserError, match="not a readable safetensors file") as error:
        read_safetensors(write(tmp_path / "a.safetensors", header, length))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pattern", ["((.+)+)+!", "(.*)*!", ".*" * 40 + "!", "("])
def test_a_pattern_that_takes_for_ever_says_nothing_of_the_scale(pattern: str) -> None:
    config = {"r": 2, "lora_alpha": 2, "alpha_pattern": {pattern: 4}}
    started = time.monotonic()
    assert header_scale({"lora_adapter_metadata": json.dumps(config)}, "layers.0.attention.to_q.of.somebody") is None
    assert time.monotonic() - started < 1
    config["alpha_pattern"] = {r".*\.to_q": 4}
    assert header_scale({"lora_adapter_metadata": json.dumps(config)}, "layers.0.attention.to_q") == 2


def test_metadata_nested_without_end_is_ignored() -> None:
    assert header_scale({"lora_adapter_metadata": "[" * 50_000}) is None


def test_what_verify_says_does_not_steer_the_terminal(tmp_path: Path) -> None:
    name = "diffusion_model.layers.0.attention.to_q.lora_"
    header = {
        f"{name}A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        f"{name}B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
        "\x1b[2J\x07": {"dtype": "F32", "shape": [0], "data_offsets": [64, 64]},
    }
    said = str(verify(write(tmp_path / "a.safetensors", json.dumps(header).encode())))
    assert "\\x1b[2J" in said and "\x1b" not in said
