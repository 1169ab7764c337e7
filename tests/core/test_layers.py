"""The shape of the code: packages import only packages below them, and files stay short enough to read."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

BELOW = {
    "core": (),
    "config": ("core",),
    "base": ("config",),
    "zimage": ("base",),
    "kernels": ("zimage",),
    "lora": ("kernels",),
    "engine": ("lora",),
    "train": ("engine",),
    "paperdoll": ("core",),
    "judge": ("paperdoll", "base"),
    "dataset": ("paperdoll", "deliver"),
    "interop": ("dataset",),
    "report": ("dataset", "zimage"),
    "deliver": ("base",),
    "workflow": ("train", "judge", "dataset"),
    "planning": ("core",),
    "experiments": ("workflow", "report"),
    "watch": ("workflow", "report"),
    "cli": ("workflow", "interop", "watch", "deliver"),
}
"""Each package and those it stands on: it may import these and everything below them. There is no way to write a
circle."""

LONGEST = 400
"""Lines of a file, drawings aside."""


def below(package: str) -> set[str]:
    """Every package that ``package`` may import."""
    return {package}.union(*(below(other) for other in BELOW[package]))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, package) of each import of charloom in a file, lazy ones and those for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [module] if module != "charloom" else [f"charloom.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name.split(".")[1]) for name in names if name.startswith("charloom."))


def test_packages_import_only_what_is_below_them() -> None:
    found = []
    for path in sorted((ROOT / "charloom").glob("*/**/*.py")):
        package = path.relative_to(ROOT / "charloom").parts[0]
        allowed = below(package)
        found += [
            f"{path.relative_to(ROOT)}:{line}: {package} imports {other}, which is not below it"
            for line, other in imports(path)
            if other not in allowed
        ]
    assert not found, "\n".join(found)


def test_every_package_has_a_place() -> None:
    there = {path.parent.name for path in (ROOT / "charloom").glob("*/__init__.py")}
    assert there == set(BELOW)
    assert not [path.name for path in (ROOT / "charloom").glob("*.py") if path.name != "__init__.py"]


def test_files_are_short() -> None:
    files = [path for part in ("charloom", "scripts", "rules", "tests", "tools", "benchmarks")
             for path in (ROOT / part).rglob("*") if path.suffix in (".py", ".smk")]  # fmt: skip
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
        if "paperdoll/art" not in path.as_posix()
    }
    found = {name: length for name, length in lengths.items() if length > LONGEST}
    assert not found, f"longer than {LONGEST} lines: {found}; split them by what they know"


def test_variables_of_the_environment_are_spelt_once() -> None:
    """As constants beside their owner, so that a name that is changed is changed for whoever sets and reads it."""
    parts = ("charloom", "scripts", "rules", "snakemake_logger_plugin_charloom")
    files = [path for part in parts for path in (ROOT / part).rglob("*") if path.suffix in (".py", ".smk")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    spelt = Counter(re.findall(r'"(CHARLOOM_\w+)"', text))
    assert spelt and max(spelt.values()) == 1, spelt.most_common(3)
