"""The garbage collector while libraries are loaded, and afterwards."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
import weakref
from charloom.core import garbage

usual = gc.get_threshold()
garbage.while_loading()
before = gc.get_stats()[2]["collections"]
kept = [[i] for i in range(2_000_000)]  # by default, several collections of all objects
assert gc.get_stats()[2]["collections"] == before, "old objects were walked through"
assert gc.get_stats()[0]["collections"] > 100, "young ones are collected as always"

garbage.loaded()
assert gc.get_threshold() == usual and gc.get_freeze_count() > 2_000_000


class Cycle:
    def __init__(self):
        self.own = self


later = weakref.ref(Cycle())
gc.collect()
assert later() is None, "what is made afterwards is collected"
"""


def test_libraries_are_loaded_without_walks_through_all_objects() -> None:
    made = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_every_script_begins_so() -> None:
    script = "import gc; from charloom.core.errors import cli; cli(lambda: print(gc.get_threshold()[2]))"
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert made.stdout == "1000\n", made.stderr
