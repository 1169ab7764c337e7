"""The entry point of the ``charloom`` command. A missing package gets one line, wherever it is imported."""

from __future__ import annotations

from charloom.core import missing_package


def main() -> None:
    """Run the command line."""
    with missing_package.named():
        from charloom.cli.main import app
        from charloom.core import garbage

        garbage.while_loading()
        app()


if __name__ == "__main__":
    main()
