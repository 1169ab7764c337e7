"""On a CPU, memory that torch frees stays with the process, unless the user has said what becomes of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

PAGES = """
import ctypes, resource
from charloom.workflow import jobs
jobs.keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, size = ctypes.c_void_p, 2**26
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    place = ctypes.c_void_p(libc.malloc(size))
    ctypes.memset(place, 1, size)
    libc.free(place)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / size)
"""


def cleared(**environment: str) -> float:
    """How often all pages of a block were cleared by the system when it was taken and freed eight times."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run(
        [sys.executable, "-c", PAGES], env={**own, **environment}, capture_output=True, text=True, check=True
    )
    return float(found.stdout)


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_kept_unless_the_user_decides() -> None:
    assert cleared() < 2 < 6 < cleared(MALLOC_TRIM_THRESHOLD_="131072")
