"""Files that many jobs read are hashed once: a part of :mod:`charloom.workflow.lean` for the run itself.

After each job Snakemake records the digest of every file the job has read. The checkpoints of a character, hundreds of
megabytes each, are read by every preview and every picture of the strength sweep.
"""

from __future__ import annotations

from typing import Any

from charloom.core.contents import signature
from charloom.workflow import swaps


def hash_once() -> None:
    """Remember digests by path, as long as size, dates and inode stay."""
    from snakemake import io

    def made(original: Any) -> Any:
        known: dict[tuple[Any, ...], str] = {}

        async def checksum(self: Any, threshold: int | None = None, force: bool = False, algorithm: Any = None) -> Any:
            if self.is_storage or threshold is None or algorithm is not None:
                return await original(self, threshold, force, algorithm)
            try:
                state = signature(self.file)
            except OSError:
                return await original(self, threshold, force, algorithm)
            key = (self.file, *state)
            if key not in known or state[0] > threshold:
                found = await original(self, threshold, force, algorithm)
                if found is None or signature(self.file) != state:
                    return found
                known[key] = found
            return known[key]

        return checksum

    swaps.method(io._IOFile, "checksum", made)
