"""Let the captioner describe an image; if the text is not stored, let it describe all images of the character."""

from __future__ import annotations

from pathlib import Path

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError, cli
from charloom.core.layout import Results
from charloom.engine.options import EngineOptions
from charloom.workflow import describing, jobs
from charloom.workflow.arguments import value


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("image", type=Path, help="the image")
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    parser.add_argument("--siblings", type=value, default=[], help="names of images to describe on a miss, JSON")
    parser.add_argument("--engine", type=value, default={}, help="how the GPU is used, JSON")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "captions")
    settings, store, image = arguments.settings, arguments.store, arguments.image

    def make() -> None:
        others = [arguments.results.image(name) for name in arguments.siblings]
        images = [image, *(other for other in others if other != image and other.is_file())]

        def device() -> object:
            limit = EngineOptions.from_values(arguments.engine).limit
            return jobs.torch_device(arguments.device, arguments.threads, limit)

        failed = describing.make(images, settings, store, device, log)
        if image in failed:
            # All of them at once: Snakemake stops at the first job that fails.
            raise UserError.several(list(failed.values()))
        for why in failed.values():
            log(f"left out for now: {why}")

    key = describing.key(file_digest(image), settings, describing.model_of(settings, store))
    lock = f"caption-image-{arguments.results.root.name}"
    jobs.serve(store, describing.KIND, key, ".json", arguments.output, lock, make)
    log.quietly(f"{image.name}: {describing.text_of(arguments.output)}")


if __name__ == "__main__":
    cli(main)
