"""Identifies an adapter file from its keys, alphas and header: trainer, layout, kind, and the modules it changes.

Trainers name the same matrices differently: dotted or flat, q, k and v separate or fused, with or without alpha. Works
on names and small tensors only; nothing is merged, loaded or converted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from charloom.lora.modules import kind

_BLOCK = r"(layers|noise_refiner|context_refiner)\.\d+"
_PARTS = (
    r"attention\.(to_q|to_k|to_v|to_out\.0|qkv|out|norm_q|norm_k|q_norm|k_norm)",
    r"feed_forward\.w[123]",
    r"adaLN_modulation\.0",
    r"(attention|ffn)_norm[12]",
)
_HEADS = (
    r"t_embedder\.mlp\.[02]",
    r"cap_embedder\.[01]",
    r"(all_x_embedder\.2-1|x_embedder)",
    r"(all_final_layer\.2-1|final_layer)\.(linear|adaLN_modulation\.1)",
)
_DOTTED = re.compile(rf"{_BLOCK}\.({'|'.join(_PARTS)})|{'|'.join(_HEADS)}")

# Flat names have underscores in place of dots; only a list of all names can undo that.
_FLAT_BLOCK = re.compile(r"(layers|noise_refiner|context_refiner)_(\d+)_(.+)")
_FLAT_PARTS = {
    name.replace(".", "_"): name
    for name in (
        *(f"attention.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0", "qkv", "out")),
        *(f"feed_forward.w{i}" for i in (1, 2, 3)),
        "adaLN_modulation.0",
    )
}
_FLAT_HEADS = {
    name.replace(".", "_"): name
    for name in (
        *("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.1", "all_x_embedder.2-1", "x_embedder"),
        *("all_final_layer.2-1.linear", "all_final_layer.2-1.adaLN_modulation.1"),
        *("final_layer.linear", "final_layer.adaLN_modulation.1"),
    )
}

_DOTTED_PREFIXES = ("diffusion_model.", "base_model.model.", "transformer.", "")
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")

# (role, family of endings) by ending; longer endings first.
_ENDINGS = {
    ".lora_A.default.weight": ("lora_A", "default"),
    ".lora_B.default.weight": ("lora_B", "default"),
    ".lora_A.weight": ("lora_A", "A/B"),
    ".lora_B.weight": ("lora_B", "A/B"),
    ".lora_down.weight": ("lora_A", "down/up"),
    ".lora_up.weight": ("lora_B", "down/up"),
    ".alpha": ("alpha", ""),
    ".dora_scale": ("dora_scale", ""),
    ".lora_magnitude_vector.weight": ("magnitude", ""),
    ".lora_magnitude_vector": ("magnitude", ""),
    ".magnitude": ("magnitude", ""),
    **{f".lokr_{part}": (f"lokr_{part}", "") for part in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b")},
    **{f".hada_{part}": (f"hada_{part}", "") for part in ("w1_a", "w1_b", "w2_a", "w2_b")},
    ".diff": ("diff", ""),
    ".diff_b": ("diff_b", ""),
}

_TEXT_ENCODER = re.compile(r"^(lora_te\d*_|text_encoder|te\d*[._]|bundle_emb|lora_prior_te)")

# Names that belong to other models, the most specific ones first.
_OTHERS = (
    (r"single_transformer_blocks[._]\d|single_blocks[._]\d|double_blocks[._]\d", "FLUX, or a model built like it"),
    (r"transformer_blocks[._]\d+[._](img_mlp|img_mod|txt_mlp|txt_mod)", "Qwen-Image"),
    (r"joint_blocks[._]\d|transformer_blocks[._]\d+[._]attn[._]add_q_proj", "Stable Diffusion 3"),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn)", "Wan"),
    (r"lora_te2_|text_encoder_2|(input_blocks_[78]|output_blocks_[01])_1_transformer_blocks_[2-9]", "SDXL"),
    (r"(down|up)_blocks[._]\d+[._]attentions[._]\d+[._]transformer_blocks[._][2-9]", "SDXL"),
    (r"(input|output|down|up)_blocks[._]\d|mid(dle)?_block[._]", "Stable Diffusion 1, 2 or SDXL"),
    (r"(^|\.)layers\.\d+\.(self_attn|mlp)\.", "a language model"),
)

LAYOUTS = {
    "diffusion_model": "diffusion_model.<module>, names of diffusers",
    "native": "diffusion_model.<module>, names of the original model (q, k and v fused)",
    "transformer": "transformer.<module>, names of diffusers",
    "bare": "<module> without a prefix, names of diffusers",
    "native bare": "<module> without a prefix, names of the original model (q, k and v fused)",
    "peft": "base_model.model.<module>, as PEFT saves a folder",
    "flat": "lora_unet_<module>, kohya's flat names",
    "flat fused": "lora_unet_<module>, kohya's flat names with q, k and v fused",
    "flat transformer": "lora_transformer_<module>, flat names",
    "lycoris": "lycoris_<module>, flat names",
}
_LAYOUT_OF = {
    ("diffusion_model.", False): "diffusion_model",
    ("diffusion_model.", True): "native",
    ("transformer.", False): "transformer",
    ("", False): "bare",
    ("", True): "native bare",
    ("base_model.model.", False): "peft",
    ("lora_unet_", False): "flat",
    ("lora_unet_", True): "flat fused",
    ("lora_transformer_", False): "flat transformer",
    ("lycoris_", False): "lycoris",
}


@dataclass(frozen=True)
class Key:
    """A parsed key: prefix, module (dotted), role of the tensor, family of its ending."""

    prefix: str
    module: str
    role: str
    ending: str


@dataclass
class Contents:
    """A file's tensors by module and role, and the keys that do not belong to an adapter for Z-Image."""

    modules: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    text_encoder: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    prefixes: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)

    @property
    def layout(self) -> str | None:
        """A key of :data:`LAYOUTS`; None if the file mixes prefixes or uses unknown ones."""
        fused = any(module.endswith(("attention.qkv", "attention.out")) for module in self.modules)
        return _LAYOUT_OF.get((next(iter(self.prefixes)), fused)) if len(self.prefixes) == 1 else None

    @property
    def kinds(self) -> Counter[str]:
        """Number of modules by kind, a key of :data:`charloom.lora.modules.KINDS`."""
        return Counter(kind(parts) for parts in self.modules.values())


def parse(key: str) -> Key | None:
    """Parse a key; None if it does not belong to an adapter for Z-Image."""
    # diffusers once wrote ".lora.down.weight", but no trainer does for Z-Image; it stays unknown.
    for ending, (role, family) in _ENDINGS.items():
        if not key.endswith(ending):
            continue
        stem = key.removesuffix(ending)
        for prefix in _FLAT_PREFIXES:
            if stem.startswith(prefix):
                module = _unflatten(stem.removeprefix(prefix))
                return Key(prefix, module, role, family) if module else None
        for prefix in _DOTTED_PREFIXES:
            if stem.startswith(prefix) and _DOTTED.fullmatch(stem.removeprefix(prefix)):
                return Key(prefix, stem.removeprefix(prefix), role, family)
        return None
    return None


def is_norm(module: str) -> bool:
    """Whether a module is a norm, not a Linear."""
    return "norm" in module or module == "cap_embedder.0"


def _unflatten(name: str) -> str | None:
    if found := _FLAT_BLOCK.fullmatch(name):
        part = _FLAT_PARTS.get(found[3])
        return f"{found[1]}.{found[2]}.{part}" if part else None
    return _FLAT_HEADS.get(name)


def read(tensors: Mapping[str, Tensor]) -> Contents:
    """Group a file's tensors by module."""
    out = Contents()
    for name, tensor in tensors.items():
        key = parse(name)
        if key is None:
            (out.text_encoder if _TEXT_ENCODER.match(name) else out.unknown).append(name)
            continue
        parts = out.modules.setdefault(key.module, {})
        if key.role in parts:
            out.twice.append(name)
        parts[key.role] = tensor
        out.prefixes[key.prefix] += 1
        if key.ending:
            out.endings[key.ending] += 1
    return out


def other_model(keys: Iterable[str]) -> str:
    """What a file without an adapter for Z-Image seems to be, in a few words; empty if unknown."""
    names = list(keys)
    if any(_is_part_of_z_image(name) for name in names):
        return "an adapter for Z-Image of a kind that is not known here"
    whole = sum(name.endswith((".weight", ".bias", ".scale")) and "lora" not in name for name in names)
    if whole > len(names) / 2 and not any(_adapter_ending(name) for name in names):
        ours = sum(_is_weight_of_z_image(name) for name in names) > len(names) / 2
        model = "Z-Image" if ours else _named(names)
        return f"the weights of a whole model ({model}), not a LoRA" if model else "the weights of a whole model"
    if {"emb_params", "string_to_param", "clip_l", "clip_g"} & set(names):
        return "a text embedding, not a LoRA"
    if names and all(_TEXT_ENCODER.match(name) for name in names):
        return "a LoRA for a text encoder alone"
    named = _named(names)
    return f"a LoRA for {named}" if named else ""


def _is_part_of_z_image(name: str) -> bool:
    """Whether a key is a module of Z-Image plus something other than a weight, such as ``.oft_blocks``."""
    for prefix in _DOTTED_PREFIXES:
        stem, _, ending = name.removeprefix(prefix).rpartition(".")
        if ending not in ("weight", "bias") and _DOTTED.fullmatch(stem):
            return True
    stem, _, ending = name.partition(".")
    return bool(ending) and any(stem.startswith(p) and _unflatten(stem.removeprefix(p)) for p in _FLAT_PREFIXES)


def _adapter_ending(name: str) -> bool:
    return any(name.endswith(ending) for ending in _ENDINGS)


def _is_weight_of_z_image(name: str) -> bool:
    stem = name.removeprefix("model.").removeprefix("diffusion_model.").rsplit(".", 1)[0]
    return bool(_DOTTED.fullmatch(stem))


def _named(names: list[str]) -> str:
    text = "\n".join(names)
    return next((model for pattern, model in _OTHERS if re.search(pattern, text, re.MULTILINE)), "")


def trainer(contents: Contents, metadata: Mapping[str, str]) -> tuple[str, str]:
    """(name of the program that wrote the file, "header" or "key names"); empty if unknown."""
    module = metadata.get("ss_network_module", "")
    if "charloom.provenance" in metadata or module.startswith("charloom."):
        return "charloom", "header"
    text = "\n".join(f"{key} {value[:2000]}" for key, value in metadata.items()).lower()
    for word, name in (("simpletuner", "SimpleTuner"), ("ai-toolkit", "ai-toolkit"), ("diffsynth", "DiffSynth-Studio")):
        if word in text:
            return name, "header"
    if any(key.startswith("ot_") for key in metadata):
        return "OneTrainer", "header"
    if module.endswith("zimage"):
        return "musubi-tuner", "header"
    if module.startswith("lycoris"):
        return "a trainer that uses LyCORIS", "header"
    if module.startswith("networks."):
        return "musubi-tuner or kohya's sd-scripts", "header"
    if "lora_adapter_metadata" in metadata:
        return "the training script of diffusers, or a trainer that saves through diffusers", "header"
    by_name = {
        "flat": "musubi-tuner, kohya's sd-scripts or OneTrainer",
        "flat fused": "musubi-tuner, converted for ComfyUI",
        "lycoris": "SimpleTuner or another trainer that uses LyCORIS",
        "peft": "PEFT",
    }
    if contents.layout == "bare" and contents.endings["default"]:
        return "DiffSynth-Studio", "key names"
    found = by_name.get(contents.layout or "", "")
    return found, "key names" if found else ""


def traits(contents: Contents, scales: Mapping[str, float], header_scale: float | None) -> set[str]:
    """What else decides how loaders read a file, besides layout and kind; in the words of :mod:`charloom.lora.loaders`.

    ``scales`` are alpha / rank of the modules with an alpha, ``header_scale`` that of the header.
    """
    out = {"alpha" if any("alpha" in parts for parts in contents.modules.values()) else "no alpha"}
    if "alpha" in out:
        differs = any(abs(scale - 1.0) > 1e-6 for scale in scales.values())
        out.add("alpha is not the rank" if differs else "alpha is the rank")
    elif header_scale is not None and abs(header_scale - 1.0) > 1e-6:
        out.add("alpha in the header")
    if "alpha in the header" not in out:
        out.add("same in the header")
    if len(contents.endings) == 1:
        out.add(next(iter(contents.endings)))
    attention = sum(".attention." in module for module in contents.modules)
    out.add(
        "no attention" if not attention else "attention" if attention < len(contents.modules) else "attention alone"
    )
    usual = re.compile(r"layers\.\d+\.(attention|feed_forward)\..*")
    out.add("more modules" if any(not usual.fullmatch(m) for m in contents.modules) else "usual modules")
    if contents.text_encoder:
        out.add("text encoder")
    # diffusers searches names for "lora".
    if contents.unknown or any("lora" not in key for key in contents.text_encoder):
        out.add("unknown keys")
    return out
