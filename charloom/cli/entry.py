"""The entry point of the ``charloom`` command: a package that is missing is one line, wherever it is imported."""

from __future__ import annotations

import sys
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


def main() -> None:
    """Run the command line."""
    try:
        from charloom.cli.main import app
        from charloom.core import garbage

        garbage.while_loading()
        app()
    except ModuleNotFoundError as error:
        if not (package := missing(error.name or "")):
            raise
        print(f"error: the package {package} is missing; pip install {package}", file=sys.stderr)
        sys.exit(1)


def missing(module: str) -> str:
    """The distribution that ``module`` is of; empty if it is installed without this part, or is charloom itself."""
    # Several distributions share google and ruamel.
    whole = module if module in PACKAGES else module.partition(".")[0]
    if whole in ("", "charloom") or find_spec(whole) is not None:
        return ""
    return PACKAGES.get(whole, whole)


if __name__ == "__main__":
    main()
