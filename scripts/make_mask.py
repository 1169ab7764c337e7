"""Find the person in an image: by the user's mask, by transparency, or by a segmenter."""

from __future__ import annotations

from pathlib import Path

from charloom.core.errors import cli
from charloom.workflow import jobs, masks
from charloom.workflow.arguments import path


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("image", type=Path, help="the image that is trained on")
    parser.add_argument("--user-file", type=path, help="the user's own image, which may be transparent; null if drawn")
    parser.add_argument("--mask", type=path, help="the user's mask; null if there is none")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "mask")
    files = arguments.image, arguments.user_file, arguments.mask
    key = masks.key(*files, arguments.settings)

    def make() -> None:
        origin = masks.stored(*files, arguments.settings, arguments.store, key)
        if origin == "nobody":
            log(f"{arguments.image.name}: nobody was found, so the whole picture counts")

    whose = jobs.character_of(arguments.output, "masks")
    jobs.serve(arguments.store, masks.KIND, key, ".safetensors", arguments.output, f"make-mask-{whose}", make)


if __name__ == "__main__":
    cli(main)
