"""What charloom takes from diffusers and PEFT, imported without what both import for other users.

Every process that computes imports them, and bitsandbytes (which loads torch's compiler) and scipy are a quarter of
that time. charloom asks neither library for anything that needs these; whoever wants bitsandbytes itself imports it as
usual. Take the names from here, never from diffusers or PEFT: whoever imports these first decides.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

UNUSED = ("bitsandbytes", "scipy")
"""Packages that diffusers and PEFT import if they are installed."""
USERS = ("accelerate", "diffusers", "peft", "transformers")
"""Packages that look once whether those of :data:`UNUSED` are installed, and rely on it from then on."""


@contextlib.contextmanager
def without_unused() -> Iterator[None]:
    """Inside the block the packages of :data:`UNUSED` seem not to be installed.

    Nothing is hidden if one of :data:`USERS` is loaded already, since it may have seen them.
    """
    hidden = [] if any(name in sys.modules for name in USERS) else [one for one in UNUSED if one not in sys.modules]
    # An entry that is None is Python's own way to say that there is no such module.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with without_unused():
    import peft
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from diffusers.utils import logging as diffusers_logging
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.tuners_utils import BaseTunerLayer

__all__ = ["AutoencoderKL", "BaseTunerLayer", "LoraLinear", "ZImageTransformer2DModel", "diffusers_logging", "peft"]
