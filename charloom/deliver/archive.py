"""Writes reproducible zip files, and reads zip files that may be hostile.

Written members are sorted by name, dated 1980 or ``SOURCE_DATE_EPOCH``, with plain permissions. When reading, names
that leave the folder, links, encryption, unusual compression, duplicates and bombs are refused before anything is
unpacked.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from charloom.config.portable import is_inside
from charloom.core.epoch import moment
from charloom.core.errors import UserError
from charloom.core.files import on_any_system

EARLIEST = (1980, 1, 1, 0, 0, 0)
LATEST = 2107
_PACKED = (".png", ".jpg", ".jpeg", ".webp", ".safetensors", ".zip")
MEMBERS = 100_000
RATIO = 100
"""Largest ratio of unpacked to packed size. Text shrinks to a tenth, a bomb of zeros to a thousandth."""
SPARE = 2**20
_BLOCK = 2**20


def write(path: Path, members: Mapping[str, bytes | Path], epoch: str = "") -> None:
    """Write ``members`` (bytes or a file, by name) to ``path``."""
    date = _date(epoch)
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            _check_name(name, path)
            info = zipfile.ZipInfo(name, date)
            info.create_system = 3  # Unix, on every system
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_STORED if name.endswith(_PACKED) else zipfile.ZIP_DEFLATED
            content = members[name]
            if isinstance(content, bytes):
                archive.writestr(info, content, compresslevel=9)
                continue
            info.file_size = content.stat().st_size
            with open(content, "rb") as source, archive.open(info, "w") as target:
                while block := source.read(_BLOCK):
                    target.write(block)


def _date(epoch: str) -> tuple[int, int, int, int, int, int]:
    if not epoch:
        return EARLIEST
    found = moment(epoch)
    if found.year > LATEST:
        raise UserError(
            f"SOURCE_DATE_EPOCH={epoch}: a zip file can date nothing after {LATEST}; correct it or unset it"
        )
    return max(EARLIEST, (found.year, found.month, found.day, found.hour, found.minute, found.second))


class Archive:
    """A foreign archive that has been checked: ``names`` are safe to unpack below a folder."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self.names = [info.filename for info in file.infolist() if not info.is_dir()]

    def read(self, name: str, largest: int = 2**26) -> bytes:
        """Read a small member.

        Raises:
            UserError: it is missing, damaged, or larger than ``largest``.
        """
        if name not in self.names:
            raise UserError(f"{self.path}: contains no {name}; get a complete bundle")
        if self._file.getinfo(name).file_size > largest:
            raise UserError(f"{self.path}: {name} is implausibly large; get the bundle again")
        return b"".join(self.blocks(name))

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member in blocks, never more than its entry promises.

        Raises:
            UserError: it is damaged.
        """
        try:
            with self._file.open(name) as source:
                while block := source.read(_BLOCK):
                    yield block
        except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, OverflowError, OSError) as error:
            raise UserError(f"{self.path}: {name} is damaged ({error}); get the bundle again") from None
        except Exception as error:
            if type(error).__module__ == "zlib":
                raise UserError(f"{self.path}: {name} is damaged ({error}); get the bundle again") from None
            raise

    def sha256(self, name: str) -> str:
        """The digest of a member, in hex."""
        digest = hashlib.sha256()
        for block in self.blocks(name):
            digest.update(block)
        return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open a foreign archive.

    Raises:
        UserError: it is not a zip file, or one that should not be unpacked.
    """
    try:
        file = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; correct the path") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise UserError(f"{path}: is not a complete zip file ({error}); get the bundle again") from None
    with file:
        _check(path, file)
        yield Archive(path, file)


def _check(path: Path, file: zipfile.ZipFile) -> None:
    entries = file.infolist()
    if len(entries) > MEMBERS:
        raise UserError(f"{path}: holds {len(entries)} files, too many for a bundle, and is not unpacked; get it again")
    seen: set[str] = set()
    for info in entries:
        name = info.filename
        _check_name(name.removesuffix("/"), path)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(
                f"{path}: {name!r} is a link or a device, not a file: it is not unpacked; get the bundle again"
            )
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{path}: {name!r} is encrypted or packed in an unusual way: it is not unpacked; get the bundle again"
            )
        # Names that differ only in case are one file on Windows and macOS.
        if name.lower() in seen:
            raise UserError(f"{path}: holds {name!r} twice, and is not unpacked; get it again")
        seen.add(name.lower())
    size, packed = sum(info.file_size for info in entries), path.stat().st_size
    if size > RATIO * packed + SPARE:
        raise UserError(
            f"{path}: {packed:,} bytes would unpack to {size:,}, like a zip bomb, and is not unpacked; get it again"
        )


def _check_name(name: str, path: Path) -> None:
    parts = PurePosixPath(name).parts
    plain = is_inside(name) and "\\" not in name and PurePosixPath(*parts).as_posix() == name
    odd = any(part.startswith(".") or not on_any_system(part) for part in parts)
    if not name or not plain or not name.isprintable() or odd:
        raise UserError(
            f"{path}: {name!r} would leave its folder, is hidden, or cannot be a file on Windows: "
            "it is not unpacked; get the bundle again"
        )
