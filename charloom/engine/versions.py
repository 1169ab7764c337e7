"""Name of the device and versions of the libraries, on which the last bits of a run depend."""

from __future__ import annotations

import contextlib
from importlib import metadata

import torch


def versions(device: torch.device) -> dict[str, str]:
    """Name of the device, and versions of the libraries that compute on it."""
    found = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        found |= {"device": torch.cuda.get_device_name(device), "cudnn": str(torch.backends.cudnn.version())}
        for package in ("triton", "nvidia-cudnn-frontend", "bitsandbytes"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[package] = metadata.version(package)
    return found
