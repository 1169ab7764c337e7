"""Shapes of the Linears of a Z-Image transformer, under the names of diffusers and of the original model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

Z_IMAGE_WIDTH = 3840
"""Width of the transformer that loaders know as Z-Image."""

_PATCHES = {"in_channels": 16, "all_patch_size": [2], "all_f_patch_size": [1]}

KNOWN_BASES: dict[int, tuple[str, dict[str, Any]]] = {
    Z_IMAGE_WIDTH: (
        "Z-Image",
        {"dim": Z_IMAGE_WIDTH, "n_layers": 30, "n_refiner_layers": 2, "cap_feat_dim": 2560, **_PATCHES},
    ),
    192: (
        "the miniature (base: paperdoll)",
        {"dim": 192, "n_layers": 8, "n_refiner_layers": 1, "cap_feat_dim": 128, **_PATCHES},
    ),
}
"""By width: name, and the fields of the published config that shapes depend on."""

OTHER_WIDTHS = {2304: "Lumina Image 2.0"}
"""Models that use the same module names."""


def module_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of every Linear of a Z-Image transformer from its ``config.json``."""
    dim, hidden = config["dim"], int(config["dim"] / 3 * 8)
    time = min(dim, 256)
    attention = {f"attention.{name}": (dim, dim) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    block = attention | {f"feed_forward.{n}": (hidden, dim) for n in ("w1", "w3")} | {"feed_forward.w2": (dim, hidden)}
    modulated = block | {"adaLN_modulation.0": (4 * dim, time)}
    out: dict[str, tuple[int, int]] = {}
    for stack, count, parts in (
        ("layers", config["n_layers"], modulated),
        ("noise_refiner", config["n_refiner_layers"], modulated),
        ("context_refiner", config["n_refiner_layers"], block),
    ):
        out |= {f"{stack}.{i}.{name}": shape for i in range(count) for name, shape in parts.items()}
    patch = config["in_channels"] * config["all_patch_size"][0] ** 2 * config["all_f_patch_size"][0]
    kind = f"{config['all_patch_size'][0]}-{config['all_f_patch_size'][0]}"
    return out | {
        "t_embedder.mlp.0": (1024, 256),
        "t_embedder.mlp.2": (time, 1024),
        "cap_embedder.1": (dim, config["cap_feat_dim"]),
        f"all_x_embedder.{kind}": (dim, patch),
        f"all_final_layer.{kind}.linear": (patch, dim),
        f"all_final_layer.{kind}.adaLN_modulation.1": (dim, time),
    }


@cache
def any_names() -> tuple[str, ...]:
    """Names of the Linears of a Z-Image transformer with more blocks than any has, for patterns of names."""
    return tuple(module_shapes({**KNOWN_BASES[Z_IMAGE_WIDTH][1], "n_layers": 99, "n_refiner_layers": 9}))


def with_original_names(shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """``shapes``, plus the same weights under the original model's names, which fuses q, k and v in this order."""
    out = dict(shapes)
    for module, (rows, columns) in shapes.items():
        if module.endswith(".attention.to_q"):
            out[module.removesuffix("to_q") + "qkv"] = (3 * rows, columns)
        name = module.replace(".attention.to_out.0", ".attention.out")
        name = name.replace("all_x_embedder.2-1", "x_embedder").replace("all_final_layer.2-1", "final_layer")
        out[name] = (rows, columns)
    return out


def width_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Width of the transformer that weights of these shapes belong to, by majority vote; None if unknown."""
    votes: dict[int, int] = {}
    for module, shape in shapes.items():
        if len(shape) != 2:
            continue
        rows, columns = shape
        if module.endswith((".to_q", ".to_k", ".to_v", ".qkv", ".to_out.0", ".out", ".w1", ".w3")):
            width = columns
        elif module.endswith((".w2", "cap_embedder.1", "x_embedder.2-1", "x_embedder")):
            width = rows
        elif module.endswith("adaLN_modulation.0"):
            width = rows // 4
        else:
            continue
        votes[width] = votes.get(width, 0) + 1
    return max(votes, key=votes.__getitem__) if votes else None
