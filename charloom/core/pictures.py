"""Opens and saves pictures: the one place for it, with one wording of errors.

Whatever the format, the result is what a viewer shows: upright, 8-bit sRGB, nothing transparent. Changes on the way
that might surprise are noted. Every failure is one line with the name of the file. Uses Pillow; must not import torch.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.core import files, misfits
from charloom.core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FLATTENED = "transparency on white"
FIRST_FRAME = "first of several frames"
NOTES = {
    FLATTENED: "was transparent and stands on white now; give it a background of its own",
    FIRST_FRAME: "has several frames, of which the first alone is used; save the one that you mean",
}
"""The remark of the check for each note. A PNG that is written here keeps its notes in its comment."""

REPLACE = "replace it"
MADE_HERE = "delete it, so that it is made again"

LARGEST = 178_956_970
"""Pictures of more pixels are refused as decompression bombs (twice Pillow's own warning limit)."""
_HARMLESS = (b"IHDR", b"IDAT", b"IEND", b"sRGB", b"gAMA", b"cHRM", b"pHYs")
"""Chunks of a PNG that neither change what is read nor reveal anything about its author."""
_TEXT = 64 * 2**20
"""Maximal bytes of unpacked text or colour profile in a PNG; image editors store whole histories there."""

_ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
OTHER_ENDINGS = (
    ".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".jpe", ".jpx", ".j2k", ".psd", ".psb", ".xcf", ".kra", ".svg",
    ".eps", ".ico", ".tga", ".dds", ".exr", ".hdr", ".qoi", ".ppm", ".pgm", ".pcx", ".raw", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".orf", ".rw2", ".raf", ".pdf", ".ai", ".mp4", ".mov", ".webm", ".mkv", ".avi",
)  # fmt: skip
"""Extensions of pictures, and of files that are often mistaken for one, that only :func:`endings` may support."""
_HEIF = "pillow_heif"
"""The package that reads HEIC pictures."""
_USUAL = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "DIB": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "HEIF": ".heic",
}
"""Extension by Pillow's name of the format."""
_KINDS = (
    (rb"....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)", "HEIC"),
    (rb"....ftyp(avif|avis)", "AVIF"),
    (rb"....ftyp", "a film"),
    (rb"\xff\x0a|....JXL ", "JPEG XL"),
    (rb"....jP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"8BPS", "Photoshop"),
    (rb"gimp xcf", "GIMP"),
    (rb"%PDF", "PDF"),
    (rb"\s*(<\?xml|<svg|<!DOCTYPE svg)", "SVG"),
    (rb"\s*<(!doctype )?html", "a web page"),
    (rb"version https://git-lfs", "a pointer of Git LFS"),
)
"""First bytes of files whose format is worth naming in the error."""


@dataclass(frozen=True)
class Picture:
    """An upright RGB image, and which of :data:`NOTES` hold for it."""

    image: Image
    notes: tuple[str, ...] = ()


@cache
def endings() -> tuple[str, ...]:
    """Extensions of the supported formats, best first. Looks for installed libraries without importing them."""
    more = (".avif",) if find_spec("PIL._avif") else ()
    # A broken one counts, or the pictures of a folder would depend on whether it has been tried before.
    heif = find_spec(_HEIF) or misfits.remedy(_HEIF)
    return _ENDINGS + more + ((".heic", ".heif", ".hif") if heif else ())


def read(path: str | Path, remedy: str = REPLACE) -> Picture:
    """The picture in a file. ``remedy`` ends the line of an error: what to do with a broken file.

    Raises:
        UserError: it does not exist, cannot be read, is too large to be a picture, or is completely transparent.
    """
    pillow = _pillow()
    try:
        with pillow.open(path, formats=_formats()) as opened:
            # The second picture in a JPEG (MPO) is a preview or the other eye's.
            notes = {FIRST_FRAME} if opened.format != "MPO" and getattr(opened, "is_animated", False) else set()
            opened.load()
            notes |= {note for note in NOTES if note in str(opened.info.get("Comment", "")).split("; ")}
            image, clear = _rgb(_upright(opened), opened)
    # Broken bytes may make imaging libraries raise anything.
    except Exception as error:
        raise _failed(path, error, remedy) from None
    if clear is not None:
        least, most = clear.getextrema()
        if not most:
            raise UserError(f"{path}: is completely transparent; {remedy}")
        if least < 255:
            image = pillow.composite(image, pillow.new("RGB", image.size, "white"), clear)
            notes.add(FLATTENED)
    return Picture(image, tuple(note for note in NOTES if note in notes))


def is_plain(path: str | Path) -> bool:
    """Whether the file is a PNG of upright 8-bit RGB and nothing else: no profile, no transparency, no metadata, which
    could reveal its author, and no bytes after its end."""
    with open(path, "rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return False
        first = True
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind not in _HARMLESS or (first and kind != b"IHDR"):
                return False
            if first and file.read(size)[8:10] != b"\x08\x02":  # bits per level, colour type
                return False
            file.seek((0 if first else size) + 4, os.SEEK_CUR)
            first = False
            if kind == b"IEND":
                return not file.read(1)
    return False


def ending(path: str | Path) -> str:
    """The usual extension of a picture's format, whatever the file is called.

    Raises:
        UserError: as :func:`read`, as far as the head of the file shows it.
    """
    try:
        with _pillow().open(path, formats=_formats()) as opened:
            return _USUAL[str(opened.format)]
    except Exception as error:
        raise _failed(path, error, REPLACE) from None


def opacity(path: str | Path) -> Image | None:
    """How opaque a picture is at each pixel (grey, 255 is opaque), upright; None if it is opaque throughout.

    Raises:
        UserError: as :func:`read`.
    """
    pillow = _pillow()
    try:
        with pillow.open(path, formats=_formats()) as opened:
            opened.load()
            _, clear = _rgb(_upright(opened), opened)
    except Exception as error:
        raise _failed(path, error, REPLACE) from None
    return None if clear is None or clear.getextrema()[0] == 255 else clear


def save_png(picture: Picture, path: Path) -> None:
    """Write a PNG atomically, with the picture's notes.

    Run-length matching after PNG's filters: the files are as small as by full matching, in a third of the time.
    """
    from PIL.PngImagePlugin import PngInfo

    comment = PngInfo()
    if picture.notes:
        comment.add_text("Comment", "; ".join(picture.notes))
    with files.whole(path) as temporary:
        picture.image.save(temporary, format="PNG", compress_type=zlib.Z_RLE, pnginfo=comment)


@cache
def _pillow() -> Any:
    """Pillow's module for images, with its limits set and additional formats registered if they are installed."""
    from PIL import Image, PngImagePlugin

    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = _TEXT, 4 * _TEXT
    Image.MAX_IMAGE_PIXELS = LARGEST // 2
    # Its limit for errors is kept. Nobody could do anything about the warning at half of that, nor about those on odd
    # metadata.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    misfits.hide([_HEIF])
    if find_spec(_HEIF):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image


@cache
def _formats() -> list[str]:
    """Formats that may be tried: others of Pillow's start programs, or read files that are not pictures."""
    more = ["AVIF"] * bool(find_spec("PIL._avif")) + ["HEIF"] * bool(find_spec(_HEIF))
    return ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", *more]


def _upright(image: Any) -> Any:
    """``image`` rotated as its EXIF or XMP data says; invalid data is ignored."""
    flip = _pillow().Transpose
    turns = {
        2: flip.FLIP_LEFT_RIGHT,
        3: flip.ROTATE_180,
        4: flip.FLIP_TOP_BOTTOM,
        5: flip.TRANSPOSE,
        6: flip.ROTATE_270,
        7: flip.TRANSVERSE,
        8: flip.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(0x0112))
    except Exception:
        turn = None
    return image.copy() if turn is None else image.transpose(turn)


def _rgb(image: Any, opened: Any) -> tuple[Any, Any]:
    """(RGB, opacity or None) of an image in any of Pillow's modes, with the colours of its profile."""
    info, clear = opened.info, None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, clear = _scaled(image, opened.format, info.get("transparency"))
    elif image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    elif image.mode in ("P", "PA") or image.has_transparency_data:
        value = info.get("transparency")
        if image.mode == "RGB" and isinstance(value, tuple) and max(value) > 255:
            # Of 16 bits, like the picture was; Pillow has kept the upper 8 of each pixel.
            image.info["transparency"] = tuple(level >> 8 for level in value)
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode in ("RGBA", "LA"):
        clear = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    return _srgb(image, info.get("icc_profile")), clear


def _scaled(image: Any, kind: str, transparency: Any) -> tuple[Any, Any]:
    """Grey levels of more than 8 bits as 8 bits, scaled by their white; the opacity, if a level is transparent."""
    import numpy as np

    pillow = _pillow()
    levels = np.nan_to_num(np.asarray(image).astype(np.float64))
    highest = float(levels.max(initial=0.0))
    if image.mode.startswith("I;16") or kind == "PNG":
        white = 65535.0
    else:  # nothing in the file says so: the smallest of the usual values that is not below any level
        usual = [1.0] * (image.mode == "F") + [255.0, 65535.0, 2.0**31 - 1]
        white = next((level for level in usual if highest <= level), highest)
    grey = np.clip(np.rint(levels * (255.0 / white)), 0, 255).astype(np.uint8)
    clear = None
    if isinstance(transparency, int):
        clear = pillow.fromarray(np.where(levels == transparency, 0, 255).astype(np.uint8))
    return pillow.fromarray(grey), clear


def _srgb(image: Any, profile: bytes | None) -> Any:
    """``image`` (RGB, L, CMYK, …) as RGB, by its colour profile if that is valid and not sRGB."""
    if profile and (turn := _transform(bytes(profile), image.mode)):
        return turn(image)
    return image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """The transform from ``mode`` to sRGB; None if the profile is broken, for another mode, or close to sRGB."""
    import io

    import numpy as np

    pillow = _pillow()
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}.get(mode):
            return None
        made = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )

        def turn(image: Any) -> Any:
            return ImageCms.applyTransform(image, made)

        if mode == "CMYK":
            return turn
        # Profiles called "sRGB" differ by rounding; a picture with one stays the same to the last bit.
        ramp = np.linspace(0, 255, 17).round().astype(np.uint8)
        sample = np.stack(np.meshgrid(ramp, ramp, ramp), -1).reshape(17, -1, 3) if mode == "RGB" else ramp[None]
        plain = pillow.fromarray(sample)
        change = np.abs(np.asarray(turn(plain)).astype(int) - np.asarray(plain.convert("RGB")).astype(int))
        return turn if change.max() > 2 else None
    except Exception:
        return None


def _failed(path: str | Path, error: Exception, remedy: str) -> UserError:
    """The line about a picture that cannot be read."""
    broken = misfits.remedy(_HEIF)
    if broken and isinstance(error, _pillow().UnidentifiedImageError) and _kind(_head(path)) == "HEIC":
        return UserError(f"{path}: needs pillow_heif, which {broken}")
    return UserError(f"{path}: {_why(path, error)}; {_remedy(path, error, remedy)}")


def _head(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(64)


def _kind(head: bytes) -> str | None:
    """The format of a file by its first bytes, if it is one of those worth naming."""
    return next((name for sign, name in _KINDS if re.match(sign, head, re.DOTALL | re.IGNORECASE)), None)


def _why(path: str | Path, error: Exception) -> str:
    pillow = _pillow()
    place = Path(path)
    if isinstance(error, FileNotFoundError):
        return "there is no such picture"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if place.is_dir():
        return "is a folder, not a picture"
    if isinstance(error, pillow.DecompressionBombError):
        return f"has more than {LARGEST / 1e6:.0f} million pixels"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    try:
        head = _head(place)
    except OSError as other:
        return f"cannot be read ({other.strerror})"
    if not head:
        return "is empty"
    if isinstance(error, pillow.UnidentifiedImageError):
        if named := _kind(head):
            return f"is in an unsupported format ({named})"
        return "is not a picture that can be read"
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"is not a picture that can be read ({reason})"


def _remedy(path: str | Path, error: Exception, remedy: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "make it first" if remedy == MADE_HERE else "correct the name, or put it there"
    if isinstance(error, PermissionError):
        return "change its permissions"
    if Path(path).is_dir():
        return "name a file"
    if isinstance(error, _pillow().DecompressionBombError):
        return "make it smaller"
    return remedy
