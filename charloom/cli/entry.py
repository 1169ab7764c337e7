"""The entry point of the ``charloom`` command: a package that is missing is one line, wherever it is imported."""

from __future__ import annotations

import sys

PACKAGES = {"PIL": "pillow", "yaml": "pyyaml"}
"""Packages that are called otherwise than what they hold."""


def main() -> None:
    """Run the command line."""
    try:
        from charloom.cli.main import app

        app()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "charloom"):
            raise
        package = PACKAGES.get(module, module)
        print(f"error: the package {package} is missing; pip install {package}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
