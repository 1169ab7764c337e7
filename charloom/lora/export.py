"""The file that is shipped: one layout that every loader reads with the right strength.

``diffusion_model.<diffusers module>.lora_A.weight`` (rank, in), ``.lora_B.weight`` (out, rank) and ``.alpha``
equal to the rank, so that loaders with and without alpha agree; the trained scale alpha / rank is folded
into B. DoRA adds ``.dora_scale`` (out, 1); LoKr uses the LyCORIS names, its scale folded into the second
factor. It knows nothing of training: it takes parameters and says how they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from charloom.canonical import canonical_json
from charloom.errors import UserError
from charloom.lora.files import write_safetensors
from charloom.train.settings import Network

PREFIX = "diffusion_model."
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def layout(parameters: Mapping[str, Tensor], network: Network, dtype: str) -> dict[str, Tensor]:
    """Tensors of the file from fp32 parameters named as in :class:`charloom.lora.attach.Adapter`.

    Raises:
        UserError: a value is not finite, or too large for fp16.
    """
    scale = network.alpha / network.rank
    out: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        value = parameter.detach().float().cpu()
        module, role = name.removesuffix(".weight").rsplit(".", 1)
        if role in ("lora_B", "lokr_w2", "lokr_w2_b"):
            value = value * scale
        if role == "lora_magnitude_vector":
            key, value = f"{PREFIX}{module}.dora_scale", value.view(-1, 1)
        elif role.startswith("lokr"):
            key = f"{PREFIX}{module}.{role}"
        else:
            key = f"{PREFIX}{module}.{role}.weight"
        out[key] = _cast(key, value, dtype)
        out[f"{PREFIX}{module}.alpha"] = torch.tensor(float(network.rank), dtype=DTYPES[dtype])
    return out


def _cast(key: str, value: Tensor, dtype: str) -> Tensor:
    cast = value.to(DTYPES[dtype]).contiguous()
    if not torch.isfinite(cast).all():
        if torch.isfinite(value).all():
            raise UserError(f"{key} holds {value.abs().max():.3g}, too large for {dtype}: use save.dtype: bf16 or fp32")
        raise UserError(f"{key} holds NaN or infinity: the adapter is broken, go back to an earlier checkpoint")
    return cast


def metadata(
    network: Network, *, title: str, trigger: str, step: int, provenance: Mapping[str, object]
) -> dict[str, str]:
    """Header of the file, text to text; ``provenance`` (plain values) is stored as canonical JSON."""
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
