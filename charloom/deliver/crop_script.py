"""Crop a generator's watermark off the right and bottom edges of all pictures in a folder. Needs Pillow alone.

python crop.py IN OUT --right 150 --bottom 150
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageOps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of pictures; they are not changed")
    parser.add_argument("target", type=Path, help="folder for the crops, as PNG")
    parser.add_argument("--right", type=int, default=150, help="pixels off the right edge (150)")
    parser.add_argument("--bottom", type=int, default=150, help="pixels off the bottom edge (150)")
    arguments = parser.parse_args()
    if arguments.source.resolve() == arguments.target.resolve():
        parser.error("name another folder for the crops, so that the pictures stay")
    arguments.target.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.source.iterdir()):
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            continue
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        width, height = image.width - arguments.right, image.height - arguments.bottom
        if min(width, height) < 1:
            parser.error(f"{path.name}: {image.width}x{image.height} is too small for this crop")
        image.crop((0, 0, width, height)).save(arguments.target / f"{path.stem}.png")


if __name__ == "__main__":
    main()
