"""Inputs that somebody could plant: fixed ones by surface, and random ones made from valid files by damaging them."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_links
import hostile_servers
import numpy as np
import yaml
from PIL import Image
from small_project import CHARACTER

POISON = "hostile-was-here"


class Poison:
    """Its pickle writes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (POISON, "w"))


TEXTS = (
    *("..", "../../etc/passwd", "/etc/passwd", "~root", ".", "", " ", "-", "--help", "-rf /", "con", "nul.txt"),
    *("'", '"', "`id`", "$(id)", "${HOME}", ";id", "|id", "&& id", "a*b?[c]", "{a,b}", "{wildcards.x}", "%s%n", "\\"),
    *(
        "é",
        "e\u0301",
        "日本",
        "😀" * 20,
        "\u202egnp.exe",
        "\ufeff",
        "\u0000",
        "\u0007",
        "\x1b[2J\x1b]0;owned\x07",
        "\x9b31m",
    ),
    *("a\nb", "a\r\nb", "a\tb", "\u2028", "\ud800", "x" * 300, "x" * 100_000, "a/b", "C:\\x", "a:b", "#", "!!int 3"),
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "{{7*7}}",
        "{% raw %}",
        "]]>",
        "&lt;",
        "javascript:1",
    ),
)
VALUES: tuple[Any, ...] = (
    *TEXTS,
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 10**400, -(10**30), 0.5, -0.0, 1e308, 5e-324),
    *(float("inf"), float("-inf"), float("nan")),
    *([], {}, [[]], [None], {"a": None}, [1] * 5000, {"x": {"y": {"z": []}}}, {str(i): i for i in range(1000)}),
)

YAML: dict[str, bytes] = {
    "billion laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(12)),
    "merged laughs": b"a: &a {k: v}\n"
    + b"".join(b"%c: &%c {<<: [%s]}\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(10)),
    "cyclic": b"a: &a [*a]\nname: *a\n",
    "cyclic merge": b"a: &a\n  <<: *a\n",
    "python tag": b"name: !!python/object/apply:os.system [id]\n",
    "python name": b"name: !!python/name:os.system\n",
    "binary": b"name: !!binary gIA=\n",
    "set": b"name: !!set {a, b}\n",
    "omap": b"shots: !!omap [a: 1]\n",
    "timestamp": b"name: 2001-99-99\n",
    "duplicate": b"name: a\nname: b\n",
    "list as key": b"? [a, b]\n: c\n",
    "mapping as key": b"? {a: b}\n: c\n",
    "null key": b"~: 1\n",
    "deep list": b"a: " + b"[" * 20_000 + b"]" * 20_000,
    "deep mapping": b"".join(b" " * i + b"a:\n" for i in range(3000)),
    "10 MB": b"name: " + b"x" * 10_000_000 + b"\n",
    "10 MB of keys": b"".join(b"k%d: 1\n" % i for i in range(200_000)),
    "long number": b"name: " + b"9" * 10_000 + b"\n",
    "not UTF-8": b"name: \xff\xfe\n",
    "UTF-16": "name: x\n".encode("utf-16"),
    "zero": b"\0" * 100,
    "escape": b'name: "\\e[2J"\n',
    "control": b"name: \x1b[2J\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "unknown tag": b"a: !foo bar\n",
    "unknown alias": b"a: *nobody\n",
    "a list": b"- a\n",
    "a text": b"hello",
    "nothing": b"",
    "tabs": b"\ta: 1\n",
    "pickle": pickle.dumps(Poison()),
}


def mutated(tree: Any, chance: random.Random, times: int = 1) -> Any:
    """``tree`` with values replaced, keys added or taken away."""
    tree = copy.deepcopy(tree)
    for _ in range(times):
        node: Any = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.7:
                node = node[key]
                continue
            what = chance.random()
            if what < 0.75:
                node[key] = copy.deepcopy(chance.choice(VALUES))
            elif what < 0.85:
                del node[key]
            elif isinstance(node, dict):
                node[chance.choice(TEXTS)[:50]] = copy.deepcopy(chance.choice(VALUES))
            else:
                node.append(copy.deepcopy(chance.choice(VALUES)))
            break
    return tree


def as_yaml(tree: Any) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes cut, flipped, doubled or filled in."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not out:
            break
        where, size = chance.randrange(len(out)), chance.randint(1, 32)
        what = chance.randrange(4)
        if what == 0:
            out[where] ^= 1 << chance.randrange(8)
        elif what == 1:
            del out[where:]
        elif what == 2:
            out[where : where + size] = chance.randbytes(size)
        else:
            out[where:where] = out[max(0, where - size) : where]
    return bytes(out)


# Safetensors


def tensors(header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + data


A, B = "diffusion_model.layers.0.attention.to_q.lora_A.weight", "diffusion_model.layers.0.attention.to_q.lora_B.weight"


def pair(metadata: Any = None, **changes: Any) -> dict[str, Any]:
    found = {
        A: {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        B: {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
    }
    found[A] |= changes
    return found | ({"__metadata__": metadata} if metadata is not None else {})


def loras() -> Iterator[tuple[str, bytes]]:
    """Adapter files with headers that lie."""
    yield "valid", tensors(pair({"format": "pt"}))
    for shape in (
        [2**60],
        [2**60, 2**60],
        [-1, 4],
        [0, 4],
        [2] * 64,
        [],
        [4, 2],
        ["4"],
        [1.5],
        None,
        [2, 4, 1, 1],
        [8],
    ):
        yield f"shape {shape}"[:40], tensors(pair(shape=shape))
    for offsets in ([0, 64], [0, 2**63], [2**64 - 1, 2**64], [32, 0], [-32, 0], [0], [], None, [16, 48], ["0", "32"]):
        yield f"offsets {offsets}", tensors(pair(data_offsets=offsets))
    for dtype in ("F16", "BF16", "F64", "F8_E4M3", "I64", "BOOL", "U8", "F4", "object", "", None, 3):
        yield f"dtype {dtype}", tensors(pair(dtype=dtype))
    yield "overlap", tensors({**pair(), B: {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}}, b"\0" * 32)
    for length in (0, 1, 7, 2**20, 10**8, 10**8 + 1, 2**32, 2**63, 2**64 - 1):
        yield f"header of {length}", tensors(pair(), length=length)
    yield "100 MB header", tensors(b'{"a":"' + b"x" * 100_000_000 + b'"}')
    yield "90 MB metadata", tensors(pair({"a": "x" * 90_000_000}))
    yield "no JSON", tensors(b"not json at all")
    yield "deep JSON", tensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    yield "twice", tensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b'"b":1}')
    yield "list", tensors([])
    for value in ("\0", "NaN"):
        yield f"nan {value!r}", tensors(pair(), np.full(16, np.nan, np.float32).tobytes())
    for text in TEXTS:
        names = (
            "ss_network_alpha",
            "ss_network_dim",
            "modelspec.title",
            "ss_base_model_version",
            "lora_adapter_metadata",
        )
        yield (
            f"metadata {text[:12]!r}",
            tensors(pair({name: text for name in names} | {text: text, "charloom.provenance": text})),
        )
        yield (
            f"tensor {text[:12]!r}",
            tensors({**pair(), text: {"dtype": "F32", "shape": [0], "data_offsets": [64, 64]}}),
        )
    for value in (
        "1e999",
        "nan",
        "-1",
        "0",
        "1" * 5000,
        "{",
        "[" * 5000,
        '{"r": 1e999}',
        '{"transformer.lora_alpha": "x"}',
    ):
        for name in (
            "ss_network_alpha",
            "ss_network_dim",
            "lora_adapter_metadata",
            "charloom.training",
            "ss_network_args",
        ):
            yield f"{name} {value[:16]}", tensors(pair({name: value}))
    for pattern in ("((.+)+)+!", "(.*)*!", ".*" * 40 + "!", "(a|b)?" * 100, "(", "x" * 10_000):
        config = {"r": 2, "lora_alpha": 2, "alpha_pattern": {pattern: 4}}
        yield f"pattern {pattern[:12]}", tensors(pair({"lora_adapter_metadata": json.dumps(config)}))
    yield "pickle", pickle.dumps(Poison())
    yield "zip of a pickle", zipped({"archive/data.pkl": pickle.dumps(Poison())})
    yield "empty", b""
    yield "LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    yield "web page", b"<!doctype html><script>alert(1)</script>"


# Zips


def zipped(members: dict[str, bytes], comment: bytes = b"", compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, compression)
        file.comment = comment
    return target.getvalue()


def bundles(valid: bytes) -> Iterator[tuple[str, bytes]]:
    """Archives that want out of their folder, or are larger than they look."""
    with zipfile.ZipFile(io.BytesIO(valid)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    yield "valid", valid
    for name in (
        *TEXTS[:20],
        "../../x",
        "a/../../x",
        "config/../../../x",
        "/abs",
        "\\..\\x",
        "C:x",
        "a\\b",
        "config/config.yaml",
    ):
        if "\0" not in name and name:
            yield f"member {name[:20]!r}", zipped({**members, name: b"hostile"})
    yield (
        "bomb",
        zipped({**members, "config/captions/mara/a.txt": b"\0" * 300_000_000}, compression=zipfile.ZIP_DEFLATED),
    )
    link = zipfile.ZipInfo("config/link")
    link.external_attr = 0o120777 << 16
    target = io.BytesIO(valid)
    with zipfile.ZipFile(target, "a") as file:
        file.writestr(link, "/etc/passwd")
    yield "symlink", target.getvalue()
    yield "no members", zipped({})
    yield "pickle", pickle.dumps(Poison())
    for name in members:
        yield f"without {name}"[:40], zipped({key: value for key, value in members.items() if key != name})
        if name.endswith((".json", ".yaml")):
            for kind, data in YAML.items():
                if len(data) < 10**6:
                    yield f"{name[-20:]} {kind}", zipped({**members, name: data})


# Pictures


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def pictures() -> Iterator[tuple[str, bytes]]:
    """Bombs, polyglots, and pictures that end early."""
    plain = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PCX"):
        target = io.BytesIO()
        plain.save(target, kind)
        data = target.getvalue()
        yield kind, data
        for part in (0.02, 0.3, 0.9):
            yield f"{kind} cut at {part}", data[: int(len(data) * part)]
        yield f"{kind} and zip", data + zipped({"a": b"b"})
        yield f"{kind} and script", data + b"<script>alert(1)</script>"
    for size in ((50_000, 50_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (0, 0), (1, 10**6)):
        yield f"PNG of {size}", _png(*size, b"\0" * 100_000)
    yield "text bomb", _png(8, 8, b"\0" * 200).replace(b"IDAT", b"zTXt", 1)
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(id) (w) file\n"
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "MVG", b"push graphic-context\nfill 'url(https://example.com/x\"|id\")'\n"
    yield "pickle", pickle.dumps(Poison())
    yield "empty", b""
    yield (
        "NumPy",
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n" + pickle.dumps(Poison()),
    )


JOB: dict[str, Any] = {
    "job": "extension",
    "config": {
        "name": "mara",
        "process": [
            {
                "type": "sd_trainer",
                "trigger_word": "m4ra",
                "network": {"type": "lora", "linear": 16, "linear_alpha": 16},
                "save": {"dtype": "bf16", "save_every": 250, "max_step_saves_to_keep": 4},
                "datasets": [{"folder_path": "pictures", "caption_ext": "txt", "resolution": [512, 768]}],
                "train": {"batch_size": 1, "steps": 2000, "optimizer": "adamw8bit", "lr": 1e-4, "dtype": "bf16"},
                "model": {"name_or_path": "Tongyi-MAI/Z-Image-Turbo", "arch": "zimage", "quantize": True},
                "sample": {
                    "sample_every": 250,
                    "width": 1024,
                    "height": 1024,
                    "prompts": ["a photo of [trigger] --w 64"],
                },
            }
        ],
    },
}


def by_surface(bundle: bytes, folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    """All fixed inputs."""
    character = [
        (f"{key}: {value!r}"[:60], as_yaml({**CHARACTER, key: value})) for key in CHARACTER for value in _writable()
    ]
    job = [(f"{kind}", data) for kind, data in YAML.items()]
    return {
        "config": [*YAML.items(), *character],
        "caption": [
            (text[:20].encode("ascii", "replace").decode(), text.encode("utf-8", "surrogatepass")) for text in TEXTS
        ]
        + [
            ("10 MB", b"x" * 10**7),
            ("lines", b"a\n" * 10**5),
            ("not UTF-8", b"\xff\xfe\xfd"),
            ("pickle", pickle.dumps(Poison())),
        ],
        "lora": list(loras()),
        "convert": list(loras()),
        "import": job,
        "bundle": list(bundles(bundle)),
        "picture": list(pictures()),
        "link": list(hostile_links.links()),
        "server": list(hostile_servers.answers(TEXTS)),
    }


def _writable() -> list[Any]:
    return [value for value in VALUES if not (isinstance(value, str) and len(value) > 1000)][::3]
