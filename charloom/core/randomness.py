"""Counter-based randomness: every random choice is a function of its purpose.

A draw depends on (seed, purpose, index…) and on nothing else: not on what was drawn before, the
layout of a batch, the device or the number of processes. So an interrupted run repeats the same
choices, and runs that differ in one setting can be compared step by step.

The generator is Philox-4x64 (Salmon et al. 2011), whose raw output NumPy guarantees to keep; key =
first 128 bits of SHA-256 of "seed:purpose", counter = (0, index…). Uniforms are the upper 53 bits;
normals are Box-Muller in double precision, rounded to fp32. NumPy's own ``standard_normal`` is
avoided because its stream may change with a release.

A *draw index* counts training samples from the start of the run: step N (from 1) with D draws per
step uses the indices (N - 1) D … N D - 1. Batch size 2 and two accumulated batches of 1 are therefore
the same samples.
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
import torch
from torch import Tensor


@functools.lru_cache(maxsize=1024)
def _key(seed: int, purpose: str) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    # Little-endian uint64 words. Python integers would do harm: NumPy makes float64 of a word below and one above 2^63.
    return np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)


def raw(seed: int, purpose: str, count: int, *index: int) -> np.ndarray:
    """``count`` raw words (uint64) of the stream ``(seed, purpose, index…)``; at most three indices."""
    if len(index) > 3:
        raise ValueError("at most three indices fit into the counter")
    counter = np.array([0, *index, *[0] * (3 - len(index))], dtype=np.uint64)
    return np.random.Philox(counter=counter, key=_key(seed, purpose)).random_raw(count)


def uniforms(seed: int, purpose: str, count: int, *index: int) -> np.ndarray:
    """``count`` doubles strictly between 0 and 1."""
    return ((raw(seed, purpose, count, *index) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def uniform(seed: int, purpose: str, *index: int) -> float:
    """One double strictly between 0 and 1."""
    return float(uniforms(seed, purpose, 1, *index)[0])


def normals(seed: int, purpose: str, shape: tuple[int, ...], *index: int) -> Tensor:
    """Standard normal fp32 tensor of ``shape`` on the CPU."""
    count = math.prod(shape)
    half = (count + 1) // 2
    u = uniforms(seed, purpose, 2 * half, *index)
    radius = np.sqrt(-2.0 * np.log(u[:half]))
    angle = 2.0 * np.pi * u[half:]
    out = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]
    return torch.from_numpy(out.astype(np.float32)).view(shape)


def noise(seed: int, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Noise of one training sample."""
    return normals(seed, "noise", shape, draw)


def permutation(seed: int, purpose: str, length: int, *index: int) -> np.ndarray:
    """A random order of ``range(length)``."""
    return np.argsort(raw(seed, purpose, length, *index), kind="stable")


def kaiming_uniform(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform in ±1/sqrt(fan in), which is ``kaiming_uniform_(a=sqrt(5))``, for the weight called ``name``."""
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    u = uniforms(seed, f"init:{name}", math.prod(shape))
    return torch.from_numpy(((2.0 * u - 1.0) * bound).astype(np.float32)).view(shape)


def torch_seed(seed: int, purpose: str, *index: int) -> int:
    """A seed for torch's own generators, for the one thing (dropout inside modules) that draws from them."""
    return int(raw(seed, purpose, 1, *index)[0] >> np.uint64(1))
