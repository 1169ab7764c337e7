"""Small adapter files in the layouts of other trainers, on the modules of ``conftest.build_transformer``.

The files hold the same change of the same weights, so what a loader makes of one can be compared with ``expected``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from charloom.core.tensors import write_safetensors

RANK, DIM, HIDDEN = 4, 64, 170
SHAPES = {
    **{f"attention.{name}": (DIM, DIM) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    "feed_forward.w1": (HIDDEN, DIM),
    "feed_forward.w2": (DIM, HIDDEN),
    "feed_forward.w3": (HIDDEN, DIM),
    "adaLN_modulation.0": (4 * DIM, DIM),
}
ALL = [f"layers.{i}.{name}" for i in range(2) for name in SHAPES]
ATTENTION = [name for name in ALL if ".attention." in name]
PLAIN = [name for name in ALL if "adaLN" not in name]


def shape(module: str) -> tuple[int, int]:
    """(out, in) of a module of the small transformer."""
    return SHAPES[module.split(".", 2)[2]]


def factors(module: str) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) of a module, the same in every layout."""
    generator = torch.Generator().manual_seed(ALL.index(module))
    rows, columns = shape(module)
    return torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator) * 0.1


@dataclass
class Foreign:
    """A file as another trainer writes it. ``scale`` is what its trainer multiplies B A with."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    scale: float = 1.0

    def write(self, path: Path) -> Path:
        """Write it to ``path``."""
        write_safetensors(path, self.tensors, self.metadata)
        return path


def _pairs(
    modules: list[str],
    name: Callable[[str], str],
    endings: tuple[str, str] = ("lora_A.weight", "lora_B.weight"),
    alpha: float | None = None,
) -> dict[str, Tensor]:
    out = {}
    for module in modules:
        a, b = factors(module)
        out |= {f"{name(module)}.{endings[0]}": a, f"{name(module)}.{endings[1]}": b}
        if alpha is not None:
            out[f"{name(module)}.alpha"] = torch.tensor(alpha)
    return out


def _flat(prefix: str) -> Callable[[str], str]:
    return lambda module: prefix + module.replace(".", "_")


def _dotted(prefix: str) -> Callable[[str], str]:
    return lambda module: prefix + module


def _fused(tensors: dict[str, Tensor], native: Callable[[str], str], endings: tuple[str, str]) -> dict[str, Tensor]:
    """q, k and v as one module of three times the rank; the others as they are. ``native`` names a module."""
    down, up = endings
    for layer in range(2):
        pairs = [factors(f"layers.{layer}.attention.{part}") for part in ("to_q", "to_k", "to_v")]
        stem = native(f"layers.{layer}.attention.qkv")
        tensors[f"{stem}.{down}"] = torch.cat([a for a, _ in pairs])
        tensors[f"{stem}.{up}"] = torch.block_diag(*[b for _, b in pairs])
    return tensors


def _native(modules: list[str], name: Callable[[str], str], endings: tuple[str, str]) -> dict[str, Tensor]:
    rest = [m for m in modules if not m.endswith(("to_q", "to_k", "to_v"))]
    pairs = _pairs(rest, lambda module: name(module.replace("to_out.0", "out")), endings)
    return _fused(pairs, name, endings)


DOWN_UP = ("lora_down.weight", "lora_up.weight")


def ai_toolkit() -> Foreign:
    """``diffusion_model.``, no alpha."""
    header = {"software": '{"name": "ai-toolkit"}', "ss_base_model_version": "zimage", "format": "pt"}
    return Foreign(_pairs(ALL, _dotted("diffusion_model.")), header)


def musubi(alpha: float = 1.0) -> Foreign:
    """kohya's flat names, alpha 1."""
    header = {"ss_network_module": "networks.lora_zimage", "ss_network_dim": "4", "ss_network_alpha": str(alpha)}
    return Foreign(_pairs(PLAIN, _flat("lora_unet_"), DOWN_UP, alpha), header, alpha / RANK)


def musubi_for_comfyui() -> Foreign:
    """q, k and v fused, three times the rank and alpha."""
    tensors = _native(PLAIN, _flat("lora_unet_"), DOWN_UP)
    ranks = {key.split(".")[0]: t.shape[0] for key, t in tensors.items() if "lora_down" in key}
    alphas = {f"{stem}.alpha": torch.tensor(rank / RANK) for stem, rank in ranks.items()}
    return Foreign(tensors | alphas, {"ss_network_module": "networks.lora_zimage"}, 1 / RANK)


def musubi_converted() -> Foreign:
    """Written by its other conversion: alpha folded into both factors."""
    return Foreign(_pairs(PLAIN, _dotted("diffusion_model.")))


def _config(alpha: float) -> dict[str, str]:
    config = {
        "r": RANK,
        "lora_alpha": alpha,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["to_k", "to_q"],
    }
    header = {f"transformer.{key}": value for key, value in config.items()}
    return {"lora_adapter_metadata": json.dumps(header), "format": "pt"}


def diffusers_script() -> Foreign:
    """``transformer.``, alpha equal to the rank, in the header."""
    return Foreign(_pairs(ATTENTION, _dotted("transformer.")), _config(RANK))


def simpletuner() -> Foreign:
    """``transformer.``, an alpha of twice the rank, in the header alone."""
    header = _config(2 * RANK) | {"modelspec.implementation": "https://github.com/bghira/SimpleTuner"}
    return Foreign(_pairs(ATTENTION, _dotted("transformer.")), header, 2.0)


def simpletuner_for_comfyui() -> Foreign:
    """``diffusion_model.`` with an alpha that is not the rank."""
    return Foreign(_pairs(ATTENTION, _dotted("diffusion_model."), alpha=2.0 * RANK), {}, 2.0)


def onetrainer() -> Foreign:
    """``transformer.``, alpha folded into B."""
    return Foreign(_pairs(PLAIN, _dotted("transformer.")), {"ot_revision": "1", "ot_branch": "master"})


def onetrainer_legacy() -> Foreign:
    """``transformer.`` with kohya's endings and alpha."""
    return Foreign(_pairs(PLAIN, _dotted("transformer."), DOWN_UP, 1.0), {"ot_branch": "master"}, 1 / RANK)


def onetrainer_kohya() -> Foreign:
    """kohya's flat names on the modulation too."""
    return Foreign(_pairs(ALL, _flat("lora_unet_"), DOWN_UP, 1.0), {"ot_branch": "master"}, 1 / RANK)


def transformer_with_alpha() -> Foreign:
    """``transformer.`` with alpha as tensors."""
    return Foreign(_pairs(PLAIN, _dotted("transformer."), alpha=float(RANK)))


def diffsynth() -> Foreign:
    """Bare names, PEFT's adapter name left in."""
    return Foreign(_pairs(PLAIN, _dotted(""), ("lora_A.default.weight", "lora_B.default.weight")))


def bare() -> Foreign:
    """Bare names."""
    return Foreign(_pairs(PLAIN, _dotted("")))


def peft_folder() -> Foreign:
    """``adapter_model.safetensors`` of a folder that PEFT saved."""
    return Foreign(_pairs(ATTENTION, _dotted("base_model.model.")))


def native() -> Foreign:
    """The names of the original model: q, k and v fused."""
    return Foreign(_native(PLAIN, _dotted("diffusion_model."), ("lora_A.weight", "lora_B.weight")))


def flat_lycoris() -> Foreign:
    """LyCORIS as SimpleTuner writes it, plain LoRA."""
    return Foreign(_pairs(PLAIN, _flat("lycoris_"), DOWN_UP, float(RANK)))


def _kronecker(module: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + ALL.index(module))
    rows, columns = shape(module)
    return torch.randn(2, 2, generator=generator), torch.randn(rows // 2, columns // 2, generator=generator) * 0.1


def lokr(prefix: str = "diffusion_model.", flat: bool = False, alpha: float | None = 9999999999.0) -> Foreign:
    """LoKr with two full factors."""
    name = _flat(prefix) if flat else _dotted(prefix)
    tensors = {}
    for module in ALL:
        w1, w2 = _kronecker(module)
        tensors |= {f"{name(module)}.lokr_w1": w1, f"{name(module)}.lokr_w2": w2}
        if alpha is not None:
            tensors[f"{name(module)}.alpha"] = torch.tensor(alpha)
    return Foreign(tensors)


def loha(prefix: str = "diffusion_model.", flat: bool = False) -> Foreign:
    """LoHa: the product, element by element, of two low-rank matrices."""
    name = _flat(prefix) if flat else _dotted(prefix)
    tensors = {}
    for module in PLAIN:
        a, b = factors(module)
        for part in ("w1", "w2"):
            tensors |= {f"{name(module)}.hada_{part}_a": b, f"{name(module)}.hada_{part}_b": a}
        tensors[f"{name(module)}.alpha"] = torch.tensor(float(RANK))
    return Foreign(tensors)


def dora(prefix: str = "transformer.", role: str = "dora_scale") -> Foreign:
    """A LoRA with magnitudes of the rows."""
    tensors = _pairs(PLAIN, _dotted(prefix))
    for module in PLAIN:
        generator = torch.Generator().manual_seed(200 + ALL.index(module))
        magnitude = 0.5 + torch.rand(shape(module)[0], 1, generator=generator)
        tensors[f"{prefix}{module}.{role}"] = magnitude if role == "dora_scale" else magnitude.flatten()
    return Foreign(tensors)


def full_difference() -> Foreign:
    """Whole differences of weights, no factors."""
    tensors = {f"diffusion_model.{module}.diff": factors(module)[1] @ factors(module)[0] for module in PLAIN}
    return Foreign(tensors)


def expected(module: str, foreign: Foreign) -> Tensor:
    """The change of a module's weight (out, in) that the file was trained for, before any DoRA rescaling."""
    if any(".lokr_" in key for key in foreign.tensors):
        return torch.kron(*_kronecker(module))
    a, b = factors(module)
    if any(".hada_" in key for key in foreign.tensors):
        return (b @ a) ** 2
    return b @ a * foreign.scale


def _with_alpha(tensors: dict[str, Tensor], ending: str) -> dict[str, Tensor]:
    """``tensors`` with an alpha equal to the rank for each module."""
    alphas = {
        key.replace(ending, "alpha"): torch.tensor(float(t.shape[0])) for key, t in tensors.items() if ending in key
    }
    return tensors | alphas


def _renamed(foreign: Foreign, old: str, new: str) -> Foreign:
    return Foreign({key.replace(old, new, 1): tensor for key, tensor in foreign.tensors.items()}, foreign.metadata)


A_B = ("lora_A.weight", "lora_B.weight")
DEFAULT = ("lora_A.default.weight", "lora_B.default.weight")
_DM, _TR, _BARE = _dotted("diffusion_model."), _dotted("transformer."), _dotted("")
_STRAY_TEXT = {"lora_te_x.lora_down.weight": torch.ones(2, 3), "lora_te_x.lora_up.weight": torch.ones(3, 2)}

FILES: dict[str, Callable[[], Foreign]] = {
    "ai-toolkit": ai_toolkit,
    "ai-toolkit LoKr": lokr,
    "musubi-tuner": musubi,
    "musubi-tuner for ComfyUI": musubi_for_comfyui,
    "musubi-tuner converted": musubi_converted,
    "musubi-tuner LoKr": lambda: lokr("lora_unet_", flat=True),
    "musubi-tuner LoHa": lambda: loha("lora_unet_", flat=True),
    "diffusers script": diffusers_script,
    "SimpleTuner": simpletuner,
    "SimpleTuner for ComfyUI": simpletuner_for_comfyui,
    "SimpleTuner LyCORIS LoKr": lambda: lokr("lycoris_", flat=True, alpha=float(RANK)),
    "LyCORIS LoRA": flat_lycoris,
    "LyCORIS LoHa": lambda: loha("lycoris_", flat=True),
    "OneTrainer": onetrainer,
    "OneTrainer legacy": onetrainer_legacy,
    "OneTrainer kohya": onetrainer_kohya,
    "OneTrainer DoRA": dora,
    "transformer. A/B, alpha": transformer_with_alpha,
    "transformer. down/up": lambda: Foreign(_pairs(ALL, _TR, DOWN_UP)),
    "DiffSynth": diffsynth,
    "DiffSynth, alpha 1": lambda: Foreign(_pairs(ALL, _BARE, DEFAULT, 1.0), {}, 1 / RANK),
    "bare": bare,
    "bare, alpha": lambda: Foreign(_pairs(ALL, _BARE, A_B, float(RANK))),
    "bare, alpha 1": lambda: Foreign(_pairs(ALL, _BARE, A_B, 1.0), {}, 1 / RANK),
    "bare down/up, alpha 1": lambda: Foreign(_pairs(ALL, _BARE, DOWN_UP, 1.0), {}, 1 / RANK),
    "PEFT folder": peft_folder,
    "charloom": lambda: Foreign(_pairs(ALL, _DM, A_B, float(RANK))),
    "diffusion_model. A/B, alpha 1": lambda: Foreign(_pairs(ALL, _DM, A_B, 1.0), {}, 1 / RANK),
    "diffusion_model. A/B, alpha in the header": lambda: Foreign(_pairs(ATTENTION, _DM), _config(2 * RANK), 2.0),
    "diffusion_model. default": lambda: Foreign(_pairs(ALL, _DM, DEFAULT)),
    "diffusion_model. down/up": lambda: Foreign(_pairs(ALL, _DM, DOWN_UP)),
    "diffusion_model. down/up, alpha": lambda: Foreign(_pairs(ALL, _DM, DOWN_UP, float(RANK))),
    "diffusion_model. down/up, alpha 1": lambda: Foreign(_pairs(ALL, _DM, DOWN_UP, 1.0), {}, 1 / RANK),
    "flat": lambda: Foreign(_pairs(PLAIN, _flat("lora_unet_"), DOWN_UP)),
    "flat, attention alone": lambda: Foreign(_pairs(ATTENTION, _flat("lora_unet_"), DOWN_UP, float(RANK))),
    "flat A/B, alpha": lambda: Foreign(_pairs(PLAIN, _flat("lora_unet_"), A_B, float(RANK))),
    "flat fused": lambda: Foreign(_native(PLAIN, _flat("lora_unet_"), DOWN_UP)),
    "lora_transformer_, alpha": lambda: Foreign(_pairs(PLAIN, _flat("lora_transformer_"), DOWN_UP, float(RANK))),
    "native": native,
    "native, alpha": lambda: Foreign(_with_alpha(_native(PLAIN, _DM, A_B), A_B[0])),
    "native down/up, alpha": lambda: Foreign(_with_alpha(_native(PLAIN, _DM, DOWN_UP), DOWN_UP[0])),
    "native bare": lambda: Foreign(_native(PLAIN, _BARE, A_B)),
    "LoHa": loha,
    "LoHa transformer.": lambda: loha("transformer."),
    "LoHa bare": lambda: loha(""),
    "LoKr, no alpha": lambda: lokr(alpha=None),
    "LoKr transformer.": lambda: lokr("transformer.", alpha=None),
    "LoKr transformer., alpha": lambda: lokr("transformer."),
    "LoKr bare": lambda: lokr("", alpha=None),
    "LoKr bare, alpha": lambda: lokr(""),
    "DoRA": lambda: dora("diffusion_model."),
    "DoRA, alpha": lambda: Foreign(_with_alpha(dora("diffusion_model.").tensors, A_B[0])),
    "DoRA of PEFT": lambda: dora("transformer.", "lora_magnitude_vector"),
    "DoRA, magnitude": lambda: dora("diffusion_model.", "magnitude"),
    "full difference": full_difference,
    "full difference transformer.": lambda: _renamed(full_difference(), "diffusion_model.", "transformer."),
    "with a text encoder": lambda: Foreign(ai_toolkit().tensors | _STRAY_TEXT),
    "transformer. with a text encoder": lambda: Foreign(onetrainer().tensors | _STRAY_TEXT),
    "with a key of nobody": lambda: Foreign(ai_toolkit().tensors | {"odd.key": torch.ones(3)}),
    "transformer. with a key of nobody": lambda: Foreign(onetrainer().tensors | {"odd.key": torch.ones(3)}),
    "transformer. with an embedding": lambda: Foreign(onetrainer().tensors | {"bundle_emb.x.text": torch.ones(3)}),
}
