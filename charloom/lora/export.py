"""The exported file: one layout that every loader reads with the right strength.

``diffusion_model.<diffusers module>.lora_A.weight`` (rank, in), ``.lora_B.weight`` (out, rank) and ``.alpha``
equal to the rank, so that loaders with and without alpha agree; the trained scale alpha / rank is folded
into B. DoRA adds ``.dora_scale`` (out, 1); LoKr uses the LyCORIS names, its scale folded into the second
factor. Factors are written in the chosen dtype. Values that scale whole weights stay fp32: bf16 represents integers
exactly only up to 256, so an alpha of 257 would change the strength, and DoRA's magnitudes, which training changes by a
percent, would lose a quarter of that. Independent of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from charloom.core.canonical import canonical_json
from charloom.core.errors import UserError
from charloom.core.tensors import write_safetensors
from charloom.lora.network import Network

PREFIX = "diffusion_model."
SCALED = ("lora_B", "lokr_w2", "lokr_w2_b")
"""Factors that start at zero and into which the scale alpha / rank is folded."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def layout(parameters: Mapping[str, Tensor], network: Network, dtype: str) -> dict[str, Tensor]:
    """Tensors of the file from fp32 parameters named as in :class:`charloom.lora.attach.Adapter`.

    Raises:
        UserError: a value is not finite, or too large for fp16.
    """
    out: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        module, role = _parts(name)
        if role == "lora_magnitude_vector":
            key = f"{PREFIX}{module}.dora_scale"
        elif role.startswith("lokr"):
            key = f"{PREFIX}{module}.{role}"
        else:
            key = f"{PREFIX}{module}.{role}.weight"
        out[key] = _written(key, role, parameter, network, dtype)
        out[f"{PREFIX}{module}.alpha"] = torch.tensor(float(network.rank))
    return out


def as_written(parameters: Mapping[str, Tensor], network: Network, dtype: str) -> dict[str, Tensor]:
    """The parameters (fp32, on the CPU) as read back from the file: rounded to its dtype."""
    out = {}
    for name, parameter in parameters.items():
        role = _parts(name)[1]
        value = _written(name, role, parameter, network, dtype).float().view(parameter.shape)
        out[name] = value / _scale(role, network)
    return out


def _parts(name: str) -> tuple[str, str]:
    """(module, role) of a parameter's name."""
    module, role = name.removesuffix(".weight").rsplit(".", 1)
    return module, role


def _scale(role: str, network: Network) -> float:
    return network.alpha / network.rank if role in SCALED else 1.0


def _written(key: str, role: str, parameter: Tensor, network: Network, dtype: str) -> Tensor:
    """A parameter as it is written to the file."""
    value = parameter.detach().float().cpu() * _scale(role, network)
    if role == "lora_magnitude_vector":
        return _cast(key, value.view(-1, 1), "fp32")
    return _cast(key, value, dtype)


def _cast(key: str, value: Tensor, dtype: str) -> Tensor:
    cast = value.to(DTYPES[dtype]).contiguous()
    if not torch.isfinite(cast).all():
        if torch.isfinite(value).all():
            raise UserError(f"{key} holds {value.abs().max():.3g}, too large for {dtype}; use save.dtype: bf16 or fp32")
        raise UserError(f"{key} holds NaN or infinity: the adapter is broken; go back to an earlier checkpoint")
    return cast


def metadata(
    network: Network, *, title: str, trigger: str, step: int, provenance: Mapping[str, object]
) -> dict[str, str]:
    """Header of the file, str to str; ``provenance`` (JSON values) is stored as canonical JSON."""
    return {
        "format": "pt",
        "ss_base_model_version": "zimage",
        "ss_network_dim": str(network.rank),
        "ss_network_alpha": str(network.rank),
        "ss_network_module": f"charloom.{network.type}",
        "ss_output_name": title,
        "ss_steps": str(step),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "z-image-turbo/lora",
        "modelspec.title": title,
        "modelspec.trigger_phrase": trigger,
        "charloom.provenance": canonical_json(dict(provenance)),
    }


def export(
    path: Path, parameters: Mapping[str, Tensor], network: Network, dtype: str, header: Mapping[str, str]
) -> None:
    """Write the file to ``path``; the same parameters and header give the same bytes."""
    write_safetensors(path, layout(parameters, network, dtype), header)
