"""Encode a caption or prompt; if it is not stored, encode all texts of the character, and with --latents its images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.errors import cli, reason
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.core.words import several, swapped
from charloom.dataset import captions
from charloom.engine.options import EngineOptions
from charloom.workflow import jobs, latents, texts
from charloom.workflow.arguments import value


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--file", type=Path, help="a caption; on a miss all captions of the character are encoded")
    what.add_argument("--text", type=value, help="the text itself, JSON")
    parser.add_argument("--siblings", type=value, default=[], help="other texts to encode on a miss, JSON")
    parser.add_argument("--swap", type=value, help="trigger and class word, JSON; captions are then encoded with both")
    parser.add_argument(
        "--as-class", action="store_true", help="encode --file with the class word in place of the trigger"
    )
    parser.add_argument("--latents", type=value, help="settings of latents, JSON: encode the images on a miss too")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    parser.add_argument("--engine", type=value, default={}, help="how the GPU is used, JSON")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "embeddings")
    lock, settings, store = arguments.lock, arguments.settings, arguments.store
    text = captions.made(arguments.file) if arguments.file else arguments.text
    if arguments.as_class:
        text = swapped(text, arguments.swap)

    def make() -> None:
        limit = EngineOptions.from_values(arguments.engine).limit
        device = jobs.torch_device(arguments.device, arguments.threads, limit, lock)
        # The output may be deeper: embeddings/<data set>/<image>.safetensors.
        results = Results(next(folder.parent for folder in arguments.output.parents if folder.name == "embeddings"))
        texts_of_images = [captions.read(path) for path in sorted(results.dataset.rglob("*.txt"))]
        classes = [swapped(caption, arguments.swap) for caption in texts_of_images] if arguments.swap else []
        wanted = dict.fromkeys([text, *arguments.siblings, *texts_of_images, *classes])
        log(f"encoding up to {several(len(wanted), 'text')} on {device}")
        if not fits(lambda: texts.make(wanted, lock, settings, store, device, log=log)):
            log("the text encoder does not fit into the GPU memory: encoding on the CPU, which takes longer")
            texts.make(wanted, lock, settings, store, jobs.torch_device("cpu", arguments.threads), log=log)
            return
        if arguments.latents:
            images_too(results, lock, arguments.latents, store, device, log)

    key = texts.key(text, lock, settings)
    whose = jobs.character_of(arguments.output, "embeddings")
    jobs.serve(store, texts.KIND, key, ".safetensors", arguments.output, f"encode-text-{whose}", make)
    log.quietly(f"{key}: {text}")


def images_too(
    results: Results, lock: dict[str, Any], settings: dict[str, Any], store: Store, device: Any, log: jobs.Log
) -> None:
    """Encode the images as ``encode_latents`` would, which would have to load torch again in a process of its own.

    What fails here is left to that rule, which reports it.
    """
    images = sorted(results.dataset.glob("*.png"))
    log.quietly(f"encoding up to {several(len(images), 'image')} on {device}")
    try:
        with store.lock(f"encode-latents-{results.root.name}", wait=False):
            latents.make(images, lock, settings, store, device)
    except Exception as error:  # the texts are encoded, whatever it is
        log.quietly(f"images are left to encode_latents: {reason(error)}")


def fits(work: Callable[[], object]) -> bool:
    """Do ``work``; False if it ran out of GPU memory."""
    import torch

    try:
        work()
    except torch.OutOfMemoryError:
        return False
    return True


if __name__ == "__main__":
    cli(main)
