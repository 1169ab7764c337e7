"""The header of the file to ship: fields that other programs show and look up, in addition to what training wrote.

Field names are those of the Model Spec (modelspec.sai_model_spec 1.0.0) and of kohya's scripts. Nothing in it depends
on the time, the machine or the user, so the same run gives the same bytes; a date is written only if
``SOURCE_DATE_EPOCH`` asks for one (https://reproducible-builds.org/specs/source-date-epoch/).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charloom.core import pictures
from charloom.core.canonical import canonical_json
from charloom.core.epoch import moment

LARGEST_THUMBNAIL = 64 * 1024
"""Largest size in bytes of a thumbnail in the header, as a data URI."""
SIDE = 256
"""Longest side of a thumbnail in pixels, as the Model Spec recommends."""


def header(
    trained: Mapping[str, str], sha256: str, about: Mapping[str, Any], sample: Path | None, epoch: str
) -> dict[str, str]:
    """The whole header of the file to ship.

    Args:
        trained: the header of the checkpoint.
        sha256: digest of its tensors (:func:`charloom.core.headers.tensors_sha256`).
        about: ``name``, ``base``, ``license``, ``resolution`` (pixels), ``shift`` (of the noise levels), ``sampler``
            (``steps``, ``guidance``, where 1 is without) and ``sample`` (``prompt``, ``seed``, ``strength``) of the
            picture, or None; ``architecture`` if the base is not Z-Image-Turbo.
        sample: the picture that the checkpoint drew for ``sample``, or None.
        epoch: seconds since 1970, UTC, or "" for no date.

    Raises:
        UserError: ``epoch`` is not a number of seconds, or the picture cannot be read.
    """
    sampler = {"sampler": "euler", "scheduler": "simple", "shift": about["shift"], **about["sampler"]}
    out = {
        **trained,
        "modelspec.title": about["name"],
        "modelspec.resolution": "{0}x{0}".format(about["resolution"]),
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "v",
        "modelspec.usage_hint": "{steps} steps, cfg {guidance:g}, sampler {sampler}, schedule {scheduler}, "
        "shift {shift:g}".format(**sampler),
        "modelspec.hash_sha256": f"0x{sha256}",
        "sshs_model_hash": sha256,
        "charloom.base": about["base"],
        **({"modelspec.architecture": about["architecture"]} if "architecture" in about else {}),
        "charloom.sampler": canonical_json(sampler),
    }
    if about["license"]:
        out["modelspec.license"] = about["license"]
    if epoch:
        out["modelspec.date"] = date(epoch)
    if sample is not None and about["sample"]:
        out["modelspec.thumbnail"] = thumbnail(sample)
        out["charloom.sample"] = canonical_json(about["sample"])
    return out


def date(epoch: str) -> str:
    """``SOURCE_DATE_EPOCH`` as ISO 8601 in UTC.

    Raises:
        UserError: it is not a number of seconds.
    """
    return moment(epoch).isoformat().replace("+00:00", "Z")


def thumbnail(picture: Path) -> str:
    """A picture as a JPEG in a data URI of at most :data:`LARGEST_THUMBNAIL` bytes.

    The same bytes for the same picture and version of Pillow.
    """
    image = pictures.read(picture, pictures.MADE_HERE).image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    for quality in (90, 80, 70, 60, 50, 40, 30, 20, 10):
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality, optimize=True)
        uri = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
        if len(uri) <= LARGEST_THUMBNAIL:
            return uri
    raise AssertionError("256 pixels of the lowest quality are a few kilobytes")
