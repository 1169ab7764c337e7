"""The digest by which LoRAs are told apart: of their tensors, whatever else a file says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from charloom.core import headers
from charloom.core.canonical import PEFT_CONFIG

ENTRY = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}


def written(path: Path, data: bytes = b"1234", entries: Any = ENTRY, **metadata: str) -> str:
    path.write_bytes(headers.packed(entries, metadata) + data)
    return headers.tensors_digest(path)


def test_only_tensors_and_the_alpha_of_peft_count(tmp_path: Path) -> None:
    plain = written(tmp_path / "a", title="mara")
    assert written(tmp_path / "b", title="somebody else") == plain
    others = [
        written(tmp_path / "c", b"1235"),
        written(tmp_path / "d", entries={"b": ENTRY["a"]}),
        written(tmp_path / "e", **{PEFT_CONFIG: "{}"}),
    ]
    assert len({plain, *others}) == 4


@pytest.mark.parametrize("header", [b"[]", b"1", b'{"__metadata__": []}', b"no JSON"])
def test_what_is_no_header_is_said_in_one_way(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError):
        headers.tensors_digest(path)
    path.write_bytes((headers.LARGEST + 1).to_bytes(8, "little"))
    with pytest.raises(ValueError):
        headers.tensors_digest(path)
