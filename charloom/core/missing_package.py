"""If a package that charloom requires is missing, one line names it instead of a traceback.

For what starts first: the command, the Snakefile, and the logger that Snakemake itself imports. Standard library only.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec

PACKAGES = {
    "PIL": "pillow",
    "cudnn": "nvidia-cudnn-frontend",
    "cv2": "opencv-contrib-python-headless",
    "dlib": "dlib-bin",
    "google": "google-genai",
    "google.genai": "google-genai",
    "ruamel": "ruamel.yaml",
    "ruamel.yaml": "ruamel.yaml",
    "yaml": "pyyaml",
}
"""Distribution names that differ from the module's."""


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Exit with a line for the user if a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not (package := missing(error.name or "")):
            raise
        sys.exit(f"error: the package {package} is missing; pip install {package}")


def missing(module: str) -> str:
    """The distribution that ``module`` is of; empty if it is installed without this part, or is charloom itself."""
    # Several distributions share google and ruamel.
    whole = module if module in PACKAGES else module.partition(".")[0]
    if whole in ("", "charloom") or find_spec(whole) is not None:
        return ""
    return PACKAGES.get(whole, whole)


def need(module: str) -> None:
    """Check for a package that only a child process imports, before that ends in a traceback.

    Raises:
        ModuleNotFoundError: it is missing.
    """
    if find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
