"""Grids of samples as pictures: one checkpoint with all prompts, or all checkpoints side by side.

Sizes are in pixels. Every length is proportional to the width of a cell, so that grids of 256-pixel and
1024-pixel samples look alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from charloom.config.kinds import PICTURES
from charloom.core import files
from charloom.core import pictures as pictures_of
from charloom.core.errors import UserError
from charloom.core.words import pattern
from charloom.report import fonts
from charloom.report.palette import LIGHT

PAPER, INK, SOFT, LINE, MARK = (LIGHT[name] for name in ("paper", "ink", "soft", "line", "mark"))
CELL = 384
"""Maximum width of a sample in the grid of one checkpoint, so that 1024-pixel samples do not make it huge."""
COLUMNS = 5
"""Samples per row in the grid of one checkpoint."""
COMPARISON_CELL = 256
"""Width of a sample in the comparison of all checkpoints."""
DRAWN_CELL = 512
"""The same for a few checkpoints that the user selects."""


@dataclass(frozen=True)
class Cell:
    """A picture with its number and its prompt."""

    number: str
    text: str
    picture: Path | Image.Image


def open_rgb(picture: Path | Image.Image) -> Image.Image:
    """Open a picture as RGB.

    Raises:
        UserError: the file is missing or is not a picture.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    return pictures_of.read(picture, pictures_of.MADE_HERE).image


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale ``image`` to fit a box, centred on the line colour."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    if size == (width, height):
        return image
    page = Image.new("RGB", (width, height), LINE)
    page.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
    return page


def wrap(text: str, font: fonts.Font, width: int, lines: int) -> list[str]:
    """Wrap ``text`` into at most ``lines`` lines of ``width`` pixels; text that does not fit ends in an ellipsis."""
    out: list[str] = []
    words = text.split()
    while words and len(out) < lines:
        line = words.pop(0)
        if not line.isascii() and (fitting := _fitting(line, font, width)) < len(line):
            # A sentence in a script without spaces may continue on the next line.
            words.insert(0, line[fitting:])
            out.append(line[:fitting])
            continue
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line += f" {words.pop(0)}"
        out.append(line)
    if words:
        out[-1] += " …"
    # A word, or a last line with its ellipsis, may still be too long.
    return [_cut(line, font, width) for line in out]


def _fitting(line: str, font: fonts.Font, width: int) -> int:
    """How many letters of ``line``, at least one, fit into ``width`` pixels."""
    return next((end for end in range(len(line), 1, -1) if font.getlength(line[:end]) <= width), 1)


def _cut(line: str, font: fonts.Font, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    line = line.removesuffix(" …")
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def short(text: str, trigger: str = "") -> str:
    """A prompt or caption without what all of them share.

    "a full body photo of l3yla, a woman with red hair, dancing" becomes "full body, dancing": article, trigger
    and the identity line behind it (a phrase with hair or eyes) are left out.
    """
    text = " ".join(text.split())
    if trigger:
        text = re.sub(
            rf"( ({'|'.join(PICTURES)}))? of {pattern(trigger)}(, an? [^,]*\b(hair|eyes|bob|cut)\b[^,]*)?",
            "",
            text,
            count=1,
        )
    return text.removeprefix("a ").removeprefix("an ")


def differences(texts: Sequence[str]) -> list[str]:
    """What tells prompts apart: each without the comma-separated phrases that all share; unchanged if all are equal."""
    phrases = [text.split(", ") for text in texts]
    shared = set(phrases[0]).intersection(*phrases[1:]) if len(set(texts)) > 1 else set()
    own = [", ".join(part for part in parts if part not in shared) for parts in phrases]
    return [left or text for left, text in zip(own, texts, strict=True)]


def _rounded(image: Image.Image, radius: int) -> Image.Image:
    """Round the corners with a mask that is drawn large and reduced, because Pillow does not smooth edges."""
    mask = Image.new("L", (image.width * 4, image.height * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * 4, fill=255)
    return mask.resize(image.size, Image.Resampling.LANCZOS)


def checkpoint_grid(cells: Sequence[Cell], *, title: str, largest: int = CELL) -> Image.Image:
    """Draw the samples of one checkpoint as one labelled picture.

    Args:
        cells: samples in the order of the prompts.
        title: heading, for example the character and the step.
        largest: greatest width of a sample.
    """
    if not cells:
        raise UserError("a grid needs at least one sample; draw one")
    pictures = [open_rgb(cell.picture) for cell in cells]
    columns = min(COLUMNS, len(cells))
    width = min(largest, max(image.width for image in pictures))
    height = round(width * max(image.height / image.width for image in pictures))
    gap, margin = round(width * 0.07), round(width * 0.12)
    font = fonts.of([title, *(cell.text for cell in cells)])
    label, number, heading = font(width * 0.048), font(width * 0.062), font(width * 0.125)
    line = round(width * 0.062)
    head = round(width * 0.24)
    words = 3 * line + round(width * 0.05)
    rows = -(-len(cells) // columns)
    page = Image.new(
        "RGB",
        (2 * margin + columns * (width + gap) - gap, margin + head + rows * (height + words + gap) - gap + margin // 2),
        PAPER,
    )
    draw = ImageDraw.Draw(page)
    draw.text((margin, margin), title, INK, font=heading, anchor="lt")
    for index, (cell, image) in enumerate(zip(cells, pictures, strict=True)):
        x = margin + index % columns * (width + gap)
        y = margin + head + index // columns * (height + words + gap)
        image = fit(image, width, height)
        page.paste(image, (x, y), _rounded(image, max(3, width // 40)))
        top = y + height + round(width * 0.035)
        indent = max(round(width * 0.115), *(round(number.getlength(one.number) + width * 0.005) for one in cells))
        draw.text((x, top + 0.75 * line), cell.number, MARK, font=number, anchor="ls")
        for i, words_ in enumerate(wrap(cell.text, label, width - indent, 3)):
            draw.text((x + indent, top + (i + 0.75) * line), words_, INK if i == 0 else SOFT, font=label, anchor="ls")
    return page


def comparison_grid(
    rows: Sequence[tuple[str, str]],
    columns: Sequence[tuple[str, Sequence[Path | Image.Image | None]]],
    *,
    chosen: int | None = None,
    title: str,
    cell: int = COMPARISON_CELL,
) -> Image.Image:
    """Draw rows of prompts and columns of checkpoints, with the chosen column highlighted.

    Args:
        rows: (number, words) of each prompt.
        columns: (label, pictures in the order of ``rows``) of each checkpoint; ``None`` leaves a gap.
        chosen: index of the column to ship.
        title: heading.
        cell: greatest width of a picture.
    """
    if not rows or not columns:
        raise UserError("a comparison needs at least one prompt and one checkpoint; name them")
    pictures = [[None if p is None else open_rgb(p) for p in column] for _, column in columns]
    if cell != COMPARISON_CELL:
        cell = min(cell, max((image.width for column in pictures for image in column if image), default=cell))
    gap, margin, side = cell // 24, cell // 6, round(cell * 0.92)
    shapes = [image.height / image.width for column in pictures for image in column if image]
    height = round(cell * max(shapes, default=1.0))
    font = fonts.of([title, *(words for _, words in rows), *(name for name, _ in columns)])
    label, number, heading = font(cell * 0.062), font(cell * 0.085), font(cell * 0.15)
    top = margin + round(cell * 0.3) + round(cell * 0.2)
    page = Image.new(
        "RGB",
        (2 * margin + side + len(columns) * (cell + gap), top + len(rows) * (height + gap) + margin - gap),
        PAPER,
    )
    draw = ImageDraw.Draw(page)
    draw.text((margin, margin), title, INK, font=heading, anchor="lt")
    for c, (name, _) in enumerate(columns):
        x = margin + side + gap + c * (cell + gap)
        if c == chosen:
            box = (x - gap, top - cell * 0.2, x + cell + gap - 1, page.height - margin + gap)
            draw.rounded_rectangle(box, gap * 2, fill=MARK)
        draw.text((x + cell / 2, top - cell * 0.09), name, "white" if c == chosen else INK, font=number, anchor="mm")
    for r, (prompt, words) in enumerate(rows):
        y = top + r * (height + gap)
        draw.text((margin, y), prompt, MARK, font=number, anchor="lt")
        for i, line in enumerate(wrap(words, label, side - gap, 7)):
            draw.text((margin, y + cell * (0.18 + 0.085 * i)), line, SOFT, font=label, anchor="ls")
        for c, column in enumerate(pictures):
            image = column[r]
            if image is not None:
                page.paste(fit(image, cell, height), (margin + side + gap + c * (cell + gap), y))
    return page


def save_picture(image: Image.Image, output: Path) -> None:
    """Write a PNG, completely or not at all."""
    with files.whole(output) as temporary:
        image.save(temporary, format="PNG")
