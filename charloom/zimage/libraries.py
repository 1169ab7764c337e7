"""What charloom uses from diffusers and PEFT, imported without the optional packages that both load.

Every process that computes imports them, and bitsandbytes (which loads torch's compiler), scipy and scikit-learn take a
quarter of that time or more. Others break the import if they do not fit torch, such as a torchvision left behind by an
upgrade of torch. charloom uses nothing of either library that needs these packages; code that needs bitsandbytes itself
imports it as usual. Take the names from here, never from diffusers or PEFT, because the first import decides.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec

from charloom.core import misfits

UNUSED = ("scipy", "sklearn", *misfits.BESIDE_TORCH)
"""Packages that diffusers, PEFT and transformers import if they find them installed."""
USERS = ("accelerate", "diffusers", "peft", "transformers")
"""Packages that check once whether those of :data:`UNUSED` are installed, and remember the answer."""
ASKED = ("bnb", "bnb_4bit", "torchao", "gptqmodel", "hqq", "aqlm", "eetq", "te")
"""Packages that PEFT checks for when it adapts the first layer; it remembers the answers."""


@contextlib.contextmanager
def without_unused() -> Iterator[None]:
    """Inside the block, the packages of :data:`UNUSED` seem not to be installed.

    A package that imports scipy without checking still gets it, because it could not work without; bitsandbytes cannot
    be imported at all, because PEFT tries that and takes an ImportError for an answer. Nothing is hidden if one of
    :data:`USERS` is loaded already, since it may have seen them.
    """
    if any(name in sys.modules for name in USERS):
        yield
        return
    genuine = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in UNUSED else genuine(name, package)

    tried = "bitsandbytes" not in sys.modules
    importlib.util.find_spec = find_spec
    if tried:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        yield
    finally:
        importlib.util.find_spec = genuine
        if tried:
            del sys.modules["bitsandbytes"]


with without_unused():
    import peft
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from diffusers.utils import logging as diffusers_logging
    from peft import import_utils
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.tuners_utils import BaseTunerLayer

    for one in ASKED:
        getattr(import_utils, f"is_{one}_available", bool)()

__all__ = ["AutoencoderKL", "BaseTunerLayer", "LoraLinear", "ZImageTransformer2DModel", "diffusers_logging", "peft"]
