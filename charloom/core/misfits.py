"""Optional packages that are broken count as not installed, instead of ending a job.

A torchvision that was left behind when torch was upgraded cannot be imported, and transformers and diffusers import
what they find, whether a model needs it or not. Training hides them all (:mod:`charloom.zimage.libraries`); for judges,
captioners and generators only what is broken is hidden, because their models may need one. The same holds for Pillow's
additional formats (:mod:`charloom.core.pictures`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module, metadata
from importlib.util import find_spec

from charloom.core.errors import reason

BESIDE_TORCH = (
    "bitsandbytes", "torchvision", "torchaudio", "soundfile", "librosa", "xformers", "flashinfer", "torchao",
    "gptqmodel", "hqq", "aqlm", "eetq", "gguf", "transformer_engine",
)  # fmt: skip
"""What diffusers imports if it is installed."""
FOR_PICTURES = ("torchvision", "torchaudio", "soundfile", "librosa", "torchao", "hqq")
"""Those that transformers imports, in one of its versions, for a model that looks at pictures."""
_why: dict[str, str] = {}


def hide(names: Iterable[str] = FOR_PICTURES) -> None:
    """Hide those of ``names`` that cannot be imported, for the rest of this process."""
    for name in names:
        if name in sys.modules or find_spec(name) is None:
            continue
        try:
            import_module(name)
        except Exception as error:  # an operator that torch lacks, a library of another CUDA version
            sys.modules[name] = None  # type: ignore[assignment]  # makes Python treat it as missing
            _why[name] = reason(error)


def remedy(name: str) -> str | None:
    """Why a hidden package cannot be used, and what to do; None if it is not hidden."""
    if name not in _why:
        return None
    again = f"pip install --upgrade --force-reinstall --no-deps {name.replace('_', '-')}"
    if name in BESIDE_TORCH:
        again = f"install its release for torch {metadata.version('torch').partition('+')[0]}"
    return f"cannot be imported ({_why[name]}); {again}, or uninstall it"


def lacking(name: str) -> str | None:
    """The end of a message that a model needs ``name``, which is broken or not installed; None if it can be used."""
    if broken := remedy(name):
        return f", which {broken}"
    return f": pip install {name}" if find_spec(name) is None else None
