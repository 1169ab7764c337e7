"""Pictures open upright, in 8 bits, sRGB and opaque, or fail with one line that names the file."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import small_project
from PIL import Image, ImageCms, PngImagePlugin, features

from charloom.core import pictures
from charloom.core.errors import UserError

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera that is held so stores an upright picture."""


def scene(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Four corners of different colours: no turn of it looks like another."""
    image = Image.new("RGB", size, (200, 30, 30))
    width, height = size
    image.paste((30, 190, 40), (width // 2, 0, width, height // 2))
    image.paste((40, 50, 210), (0, height // 2, width // 2, height))
    image.paste((240, 240, 240), (width // 2, height // 2, width, height))
    return image


def oriented(number: int) -> tuple[Image.Image, bytes]:
    image = scene()
    stored = image.transpose(TURNS[number]) if number in TURNS else image
    exif = Image.Exif()
    exif[0x0112] = number
    return stored, exif.tobytes()


def raw_profile(exif: bytes) -> PngImagePlugin.PngInfo:
    """EXIF as ImageMagick puts it into PNGs."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    return info


def xmp(number: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<x:xmpmeta><rdf:Description tiff:Orientation="{number}"/></x:xmpmeta>')
    return info


def tiff(stored: Image.Image, exif: bytes, path: Path, **options: object) -> None:
    stored.save(path, tiffinfo={274: Image.Exif.get(_loaded(exif), 274)}, **options)


def _loaded(exif: bytes) -> Image.Exif:
    made = Image.Exif()
    made.load(exif)
    return made


WRITERS: dict[str, Callable[[Image.Image, bytes, Path, int], None]] = {
    "a.png": lambda stored, exif, path, _: stored.save(path, exif=exif),
    "raw.png": lambda stored, exif, path, _: stored.save(path, pnginfo=raw_profile(exif)),
    "xmp.png": lambda stored, _, path, number: stored.save(path, pnginfo=xmp(number)),
    "palette.png": lambda stored, exif, path, _: stored.quantize(8).save(path, exif=exif),
    "alpha.png": lambda stored, exif, path, _: stored.convert("RGBA").save(path, exif=exif),
    "a.jpg": lambda stored, exif, path, _: stored.save(path, exif=exif, quality=98, subsampling=0),
    "cmyk.jpg": lambda stored, exif, path, _: stored.convert("CMYK").save(path, exif=exif, quality=98),
    "a.jfif": lambda stored, exif, path, _: stored.save(path, "JPEG", exif=exif, quality=98, subsampling=0),
    "a.webp": lambda stored, exif, path, _: stored.save(path, exif=exif, lossless=True),
    "a.tif": lambda stored, exif, path, _: tiff(stored, exif, path),
    "lzw.tiff": lambda stored, exif, path, _: tiff(stored, exif, path, compression="tiff_lzw"),
    "disguised.jpg": lambda stored, exif, path, _: stored.save(path, "PNG", exif=exif),
}
if features.check("avif"):
    WRITERS["a.avif"] = lambda stored, exif, path, _: stored.save(path, exif=exif, quality=98, subsampling="4:4:4")


def off(image: Image.Image, wanted: Image.Image) -> int:
    """The largest difference in the middles of the four quarters; colours bleed at their borders in lossy formats."""
    assert image.mode == "RGB" and image.size == wanted.size
    spots = [(x, y) for x in (8, 40) for y in (6, 26)]
    return max(abs(a - b) for spot in spots for a, b in zip(image.getpixel(spot), wanted.getpixel(spot), strict=True))


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_stand_upright_whatever_their_format(tmp_path: Path, name: str) -> None:
    for number in range(1, 9):
        stored, exif = oriented(number)
        WRITERS[name](stored, exif, tmp_path / name, number)
        found = pictures.read(tmp_path / name)
        assert off(found.image, scene()) <= 8, number
        assert found.notes == ()


def grey(levels: np.ndarray, path: Path, **options: object) -> Path:
    Image.fromarray(levels).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "white"),
    [
        ("a.png", np.uint8, 255),
        ("a.png", np.uint16, 65535),
        ("a.tif", np.uint16, 65535),
        ("a.tif", np.int32, 65535),
        ("a.tif", np.float32, 1.0),
        ("b.tif", np.float32, 255.0),
    ],
)
def test_grey_is_scaled_and_never_clipped(tmp_path: Path, name: str, kind: type, white: float) -> None:
    ramp = np.linspace(0, 1, 32)[None].repeat(4, 0)
    found = pictures.read(grey((ramp * white).astype(kind), tmp_path / name)).image
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(float) - 255 * ramp[..., None]).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA", "RGB"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "YCbCr" and int(version("pillow").split(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the YCbCr TIFFs that it writes")
    name = "a.tif" if mode in ("CMYK", "YCbCr") else "a.png"
    image = scene().convert(mode)
    image.save(tmp_path / name)
    assert off(pictures.read(tmp_path / name).image, image.convert("RGB")) <= 1


CLEAR: dict[str, Callable[[Image.Image, Path], None]] = {
    "rgba.png": lambda image, path: image.save(path),
    "la.png": lambda image, path: image.convert("LA").save(path),
    "palette.png": lambda image, path: image.quantize(16).save(path),
    "a.webp": lambda image, path: image.save(path, lossless=True),
    "a.gif": lambda image, path: image.save(path),
    "a.tif": lambda image, path: image.save(path),
    # One colour, or one level of grey, that stands for clear.
    "rgb.png": lambda image, path: on_key(image).save(path, transparency=(1, 2, 3)),
    "grey.png": lambda image, path: on_key(image).convert("L").save(path, transparency=2),
    "grey16.png": lambda image, path: grey16(image).save(path, transparency=777),
}


def on_key(image: Image.Image) -> Image.Image:
    made = Image.new("RGB", image.size, (1, 2, 3))
    made.paste(image, mask=image.getchannel("A"))
    return made


def grey16(image: Image.Image) -> Image.Image:
    levels = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return Image.fromarray(np.where(np.asarray(image.getchannel("A")) == 0, 777, levels).astype(np.uint16))


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_transparent_stands_on_white_and_is_noted(tmp_path: Path, name: str) -> None:
    image = scene().convert("RGBA")
    CLEAR[name](image, tmp_path / name)
    assert pictures.read(tmp_path / name).notes == ()  # it could let something through, and does not
    image.paste((0, 0, 0, 0), (0, 0, 24, 32))
    CLEAR[name](image, tmp_path / name)
    found = pictures.read(tmp_path / name)
    assert found.notes == (pictures.FLATTENED,)
    assert found.image.getpixel((8, 26)) == (255, 255, 255) != found.image.getpixel((40, 6))
    image.paste((0, 0, 0, 0), (0, 0, 48, 32))
    CLEAR[name](image, tmp_path / name)
    with pytest.raises(UserError, match="is completely transparent; replace it"):
        pictures.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_several_frames_the_first_is_taken_and_that_is_noted(tmp_path: Path, name: str) -> None:
    scene().save(tmp_path / name, save_all=True, append_images=[Image.new("RGB", (48, 32), "black")])
    found = pictures.read(tmp_path / name)
    assert found.notes == (pictures.FIRST_FRAME,) and off(found.image, scene()) <= 8


def test_notes_survive_a_png_of_ours(tmp_path: Path) -> None:
    made = pictures.Picture(scene(), tuple(pictures.NOTES))
    pictures.save_png(made, tmp_path / "a.png")
    assert pictures.read(tmp_path / "a.png").notes == tuple(pictures.NOTES)
    pictures.save_png(pictures.Picture(scene()), tmp_path / "b.png")
    plain = Image.open(tmp_path / "b.png")
    assert plain.tobytes() == scene().tobytes() and plain.info == {}


# colour profiles


def wide_gamut() -> bytes:
    """A profile whose red and green are swapped, which nobody can take for sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(profile[128:132]), 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.tif"])
def test_colours_are_those_of_the_profile(tmp_path: Path, name: str) -> None:
    options = {"quality": 98, "subsampling": 0} if name == "a.jpg" else {"lossless": True} if name == "a.webp" else {}
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    scene().save(tmp_path / name, **options)
    plain = pictures.read(tmp_path / name).image
    for profile, changed in ((wide_gamut(), True), (srgb, False), (b"no profile", False), (b"", False)):
        scene().save(tmp_path / name, icc_profile=profile, **options)
        found = pictures.read(tmp_path / name).image
        assert (found.tobytes() != plain.tobytes()) is changed
        if changed:
            red, green, _ = found.getpixel((8, 6))
            assert red < 90 and green > 190  # stored as red


# what is broken


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    check = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(*between: bytes, size: tuple[int, int] = (48, 32)) -> bytes:
    """A PNG with more chunks between its header and the image."""
    buffer = io.BytesIO()
    scene(size).save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + b"".join(between) + data[33:]


def saved(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    scene((256, 256)).save(buffer, format, **options)
    return buffer.getvalue()


def header(width: int, height: int) -> bytes:
    data = png()
    return data[:8] + chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)) + data[33:]


LONG = zlib.compress(b"x" * 3_000_000)
FINE = {
    "long text": png(chunk(b"zTXt", b"parameters\0\0" + LONG)),
    "long international text": png(chunk(b"iTXt", b"parameters\0\1\0\0\0" + LONG)),
    "profile that is none": png(chunk(b"iCCP", b"icc\0\0" + LONG)),
    "nonsense for EXIF": png(chunk(b"eXIf", b"MM\0\x2a\xff\xff\xff\xff" * 3)),
    "unknown chunk": png(chunk(b"prVt", b"x" * 100)),
}
BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"no picture at all", "is not a picture that can be read"),
    "cut PNG": (png()[:60], "is not a picture that can be read"),
    "PNG without its end": (saved("PNG")[:-120], "is not a picture that can be read"),
    "PNG whose data is noise": (png()[:41] + bytes(range(40)) + png()[81:], "is not a picture that can be read"),
    "wrong checksum": (png(chunk(b"tEXt", b"a\0b", crc=1)), "is not a picture that can be read"),
    "profile of nothing": (png(chunk(b"iCCP", b"")), "is not a picture that can be read"),
    "short header": (png()[:8] + chunk(b"IHDR", b"ab") + png()[33:], "is not a picture that can be read"),
    "bomb": (header(60000, 60000), "has more than 179 million pixels"),
    "a bomb of text": (png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20), 1))), "is not a picture that can"),
    "cut JPEG": (saved("JPEG")[:400], "is not a picture that can be read"),
    "cut WebP": (saved("WEBP", lossless=True)[:60], "is not a picture that can be read"),
    "cut GIF": (saved("GIF")[:40], "is not a picture that can be read"),
    "cut BMP": (saved("BMP")[:100], "is not a picture that can be read"),
    "cut TIFF": (saved("TIFF")[:100], "is not a picture that can be read"),
    "JPEG XL": (b"\xff\x0a" + bytes(40), "is in an unsupported format (JPEG XL)"),
    "SVG": (b'<?xml version="1.0"?><svg/>', "is in an unsupported format (SVG)"),
    "web page": (b"<!DOCTYPE html><html>403", "is in an unsupported format (a web page)"),
    "film": (b"\0\0\0\x18ftypmp42" + bytes(40), "is in an unsupported format (a film)"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", FINE)
def test_odd_extras_do_not_matter(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(FINE[name])
    assert off(pictures.read(tmp_path / "a.png").image, scene()) == 0


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_one_line_with_its_name(tmp_path: Path, name: str) -> None:
    data, why = BROKEN[name]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError) as caught:
        pictures.read(tmp_path / "a.png")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'a.png'}: {why}") and "\n" not in line and len(line) < 350


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), struct.error("x"), EOFError(), KeyError(3)])
def test_whatever_a_library_throws_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scene().save(tmp_path / "a.png")

    def load(self: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(UserError, match=r"a\.png: .*; replace it$"):
        pictures.read(tmp_path / "a.png")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing.png: there is no such picture; correct the name"):
        pictures.read(tmp_path / "nothing.png")
    with pytest.raises(UserError, match="nothing.png: there is no such picture; make it first"):
        pictures.read(tmp_path / "nothing.png", pictures.MADE_HERE)
    with pytest.raises(UserError, match="is a folder, not a picture; name a file"):
        pictures.read(tmp_path)


def test_large_pictures_and_odd_metadata_print_nothing(tmp_path: Path) -> None:
    Image.new("1", (12000, 8000)).save(tmp_path / "large.png")  # 96 million pixels: Pillow warns of a bomb
    (tmp_path / "odd.png").write_bytes(FINE["nonsense for EXIF"])
    code = "from charloom.core import pictures; [pictures.read(name) for name in ('large.png', 'odd.png')]"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(small_project.ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


BESIDE_A_BROKEN_LIBRARY = """
from charloom.core import pictures
from charloom.core.errors import UserError
before = pictures.endings()
print(pictures.read("fine.png").image.size)
try:
    pictures.read("phone.heic")
except UserError as error:
    print(error)
pictures.endings.cache_clear()
print(pictures.endings() == before, ".heic" in before)
"""


def test_a_broken_library_of_heic_pictures_is_named_and_spoils_no_others(tmp_path: Path) -> None:
    scene().save(tmp_path / "fine.png")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (tmp_path / "pillow_heif.py").write_text("raise ImportError('libheif.so.1: no such file')")
    environment = {"PYTHONPATH": f"{tmp_path}:{small_project.ROOT}", "PATH": ""}
    command = [sys.executable, "-c", BESIDE_A_BROKEN_LIBRARY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "(48, 32)",
        "phone.heic: needs pillow_heif, which cannot be imported (libheif.so.1: no such file); "
        "pip install --upgrade --force-reinstall --no-deps pillow-heif, or uninstall it",
        "True True",
    ], done.stderr


def test_nobody_else_opens_pictures() -> None:
    for folder in ("charloom", "scripts"):
        for path in (small_project.ROOT / folder).rglob("*.py"):
            if path.name != "crop_script.py":  # goes into bundles and runs without charloom
                assert "Image.open(" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_the_crop_alone_stands_upright_as_well(tmp_path: Path, name: str) -> None:
    stored, exif = oriented(6)
    WRITERS[name](stored, exif, tmp_path / name, 6)
    command = [sys.executable, str(small_project.ROOT / "scripts/crop_watermark.py"), name, "--output", "out.png"]
    command += ["--right", "0", "--bottom", "0", "--minimum", "8"]
    environment = {"PYTHONPATH": str(small_project.ROOT), "PATH": ""}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    with Image.open(tmp_path / "out.png") as image:
        assert off(image.convert("RGB"), scene()) <= 8 and image.getexif().get(0x0112) is None
