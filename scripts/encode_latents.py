"""Encode an image into latents; if it is not stored, encode all images of its folder."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.canonical import file_digest
from charloom.core.errors import UserError, cli
from charloom.core.words import several
from charloom.engine.options import EngineOptions
from charloom.workflow import jobs, latents
from charloom.workflow.arguments import value


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("image", type=Path, help="the image; on a miss all PNGs of its folder are encoded")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    parser.add_argument("--engine", type=value, default={}, help="how the GPU is used, JSON")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "latents")
    lock, settings, store = arguments.lock, arguments.settings, arguments.store

    def make() -> None:
        limit = EngineOptions.from_values(arguments.engine).limit
        device = jobs.torch_device(arguments.device, arguments.threads, limit, lock)
        images = [arguments.image, *sorted(set(arguments.image.parent.glob("*.png")) - {arguments.image})]
        log(f"encoding up to {several(len(images), 'image')} on {device}")
        for image, reason in latents.make(images, lock, settings, store, device, log):
            if image == arguments.image:
                raise UserError(reason)
            log(f"left out for now: {reason}")

    key = latents.key(file_digest(arguments.image), lock, settings)
    whose = jobs.character_of(arguments.output, "latents")
    jobs.serve(store, latents.KIND, key, ".safetensors", arguments.output, f"encode-latents-{whose}", make)
    log.quietly(f"{arguments.image.name}: {key}")


if __name__ == "__main__":
    cli(main)
