"""Write the manifest of a data set: the digests of its images, captions, latents and embeddings."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.dataset import manifest
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    arguments = parser.parse_args()
    stored = arguments.store.fetched(arguments.results.name)
    files.write_json(arguments.output, manifest.manifest(arguments.results, arguments.settings, stored))


if __name__ == "__main__":
    cli(main)
