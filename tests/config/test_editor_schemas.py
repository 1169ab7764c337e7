"""Editors find the schema of every YAML file of ours by its first line, and the schemas find each other."""

from __future__ import annotations

from pathlib import Path
from urllib.request import url2pathname

import pytest
import small_project
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from charloom.config import scaffold, schema
from charloom.interop.aitoolkit import read

CONFIG = small_project.ROOT / "config"
FILES = sorted(path for path in CONFIG.rglob("*.yaml") if path.parent != schema.SCHEMAS)
SIGN = "# yaml-language-server: $schema="


def named_schema(file: Path, text: str) -> Path:
    """The schema that the first line of a file names, relative to the file."""
    first = text.splitlines()[0]
    assert first.startswith(SIGN), f"{file}: {first}"
    return (file.parent / first.removeprefix(SIGN)).resolve()


def validator(path: Path) -> Draft202012Validator:
    """As an editor reads a schema: references are addresses relative to the file."""

    def retrieve(uri: str) -> Resource:
        text = Path(url2pathname(uri.removeprefix("file:"))).read_text(encoding="utf-8")
        return Resource.from_contents(yaml.safe_load(text))

    return Draft202012Validator({"$ref": path.as_uri()}, registry=Registry(retrieve=retrieve))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.relative_to(CONFIG).as_posix())
def test_files_that_are_shipped(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    path = named_schema(file, text)
    kind = file.parent.name.removesuffix("s")
    assert path == schema.SCHEMAS / f"{'character' if kind == 'example' else kind}.schema.yaml"
    assert [error.message for error in validator(path).iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize("written", ["new", "import"])
def test_files_that_are_written(written: str) -> None:
    text = scaffold.character_file("mara")
    if written == "import":
        text = read.character_yaml(read.Imported("mara", yaml.safe_load(text)), Path("job.yaml"))
    assert named_schema(CONFIG / "characters" / "mara.yaml", text) == schema.SCHEMAS / "character.schema.yaml"


def test_mistakes_in_parts_of_other_schemas_are_found() -> None:
    wrong = yaml.safe_load(scaffold.character_file("mara"))
    wrong |= {"recipe": {"train": {"stepz": 3}}, "base": "No Name", "datasets": [{"name": "a", "path": "b", "crop": 1}]}
    errors = validator(schema.SCHEMAS / "character.schema.yaml").iter_errors(wrong)
    assert {".".join(map(str, error.absolute_path)) for error in errors} == {"recipe.train", "base", "datasets.0.crop"}
