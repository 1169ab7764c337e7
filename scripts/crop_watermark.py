"""Cut a generator's watermark off the right and bottom edges of images.

A file or a whole folder; originals are kept, results are lossless PNGs:

    python scripts/crop_watermark.py IN --output OUT
    python scripts/crop_watermark.py photo.png --output cropped.png --right 120 --bottom 120
"""

from __future__ import annotations

import argparse
from pathlib import Path

from charloom.config.image_folder import images
from charloom.config.inventory import unread
from charloom.core.errors import UserError, cli
from charloom.dataset.crop import crop_file
from charloom.workflow.arguments import value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="an image, or a folder of images")
    parser.add_argument("--output", type=Path, required=True, help="file, or folder if the input is one")
    parser.add_argument("--right", type=int, default=150, help="pixels off the right edge (150)")
    parser.add_argument("--bottom", type=int, default=150, help="pixels off the bottom edge (150)")
    parser.add_argument("--minimum", type=int, default=1024, help="shortest side that may remain, in pixels (1024)")
    parser.add_argument("--settings", type=value, help="the three values as JSON, for the workflow")
    arguments = parser.parse_args()
    chosen = arguments.settings or vars(arguments)
    sizes = {key: chosen[key] for key in ("right", "bottom", "minimum")}
    if min(sizes.values()) < 0:
        raise UserError("--right, --bottom and --minimum must not be negative; give 0 or more")
    if not arguments.input.is_dir():
        crop_file(arguments.input, arguments.output, **sizes)
        return
    found = images(arguments.input)
    if not found:
        raise UserError(
            f"{arguments.input}: no images in it (such as .png, .jpg or .webp); name the folder that has them"
        )
    if arguments.output.is_file():
        raise UserError(f"{arguments.output}: is a file; name a folder for the crops of a folder")
    problems: list[str] = []
    stems: dict[str, str] = {}
    for image in found:
        twin = stems.setdefault(image.stem, image.name)
        if twin != image.name:
            problems.append(f"{image}: {twin} has the same name; rename one of them")
            continue
        try:
            width, height = crop_file(image, arguments.output / f"{image.stem}.png", **sizes)
            print(f"{image.name}: {width}x{height}")
        except UserError as error:
            problems.append(str(error))
    problems += [f"{entry.where}: {entry.what}" for entry in unread(arguments.input)]
    if problems:
        raise UserError.several(problems)


if __name__ == "__main__":
    cli(main)
