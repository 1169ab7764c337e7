"""The ``charloom`` command."""
