"""YAML files, read safely: whole numbers are decimal, no key appears twice, and a mistake is one line."""

from __future__ import annotations

import codecs
import io
import os
import re
from pathlib import Path
from typing import Any

import yaml

from charloom.core.errors import UserError

_INTEGER = "tag:yaml.org,2002:int"
_TEXT = "tag:yaml.org,2002:str"

LARGEST = 2**20
"""Bytes of a YAML file, at most; a thousand shots take 300 kB."""
MOST = 100_000
"""Values in a file, at most, with every alias (``*name``) counted as what it stands for."""

KINDS = {
    "object": "a group of keys",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "empty",
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, which also refuses a key that is written twice, and reads whole numbers as decimal."""

    yaml_implicit_resolvers = {
        sign: [(tag, pattern) for tag, pattern in resolvers if tag != _INTEGER]
        for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _WrittenTwice(yaml.constructor.ConstructorError):  # type: ignore[misc]
    """A key that a group has already."""


class Document(dict[str, Any]):
    """The content of a YAML file; ``text`` is the file as it was written."""

    text = ""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if isinstance(key_node, yaml.ScalarNode):
            key_node.tag = _TEXT  # a shot may be called 01 or off, with or without quotes
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str | int | float | bool) and key in seen:
            raise _WrittenTwice(None, None, f"the key '{key}' is written twice; remove one", key_node.start_mark)
        seen.add(key if isinstance(key, str | int | float | bool) else id(key_node))
    loader.flatten_mapping(node)
    values: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return values


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 reads 000200 as 128 and 16:9 as 969.
_Loader.add_implicit_resolver(_INTEGER, re.compile(r"[-+]?\d+(_\d+)*$"), list("-+0123456789"))
_Loader.add_constructor(_INTEGER, lambda loader, node: int(loader.construct_scalar(node)))


def read_yaml(path: str | Path, label: str | None = None) -> Document:
    """The mapping in a YAML file; a missing or broken file is a :class:`UserError` naming the line and a remedy."""
    label = label or str(path)
    try:
        with open(path, "rb") as file:
            size, data = os.fstat(file.fileno()).st_size, file.read(LARGEST)
        if b"\0" in data[:1024] and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{label}: is not a text file, so it cannot be YAML; correct its name")
        if size > LARGEST:
            raise UserError(
                f"{label}: has {size:,} bytes, a configuration at most {LARGEST:,}; put its contents elsewhere"
            )
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except FileNotFoundError:
        raise UserError(f"{label}: there is no such file; make it, or correct its name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{label}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from None
    try:
        data = _load(text, label)
    except RecursionError:
        raise UserError(f"{label}: is nested too deeply to be a configuration; remove some brackets") from None
    except yaml.MarkedYAMLError as error:
        number, remedy = _remedy(error, text.splitlines())
        raise UserError(f"{label}: line {number}: {remedy}") from None
    except (yaml.YAMLError, ValueError) as error:  # an impossible date raises a plain ValueError
        raise UserError(f"{label}: not valid YAML ({' '.join(str(error).split())}); correct that place") from None
    if not isinstance(data, dict | None):
        raise UserError(f"{label}: holds {describe(data)}, not keys and values; write 'key: value' lines")
    document = Document(data or {})
    document.text = text
    return document


def _load(text: str, label: str) -> Any:
    """The value of a document. Aliases can make a few lines stand for billions: such a file is refused unread."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node) > MOST:
            raise UserError(f"{label}: its aliases (*name) stand for more than {MOST:,} values; use fewer of them")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded(root: yaml.Node) -> float:
    """How many values a node stands for with its aliases written out; infinite if it contains itself."""
    sizes: dict[int, float] = {}
    todo = [(root, False)]
    while todo:
        node, known = todo.pop()
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        if known:
            sizes[id(node)] = 1 + sum(sizes[id(part)] for part in parts)
        elif id(node) not in sizes:
            sizes[id(node)] = float("inf")  # until its parts are known: what refers to itself has no size
            todo += [(node, True), *((part, False) for part in parts)]
    return sizes[id(root)]


def _remedy(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[int, str]:
    """The line of the mistake, counted from 1, and a remedy.

    The parser reports where it gave up, which is often after the mistake, and in terms of grammar.
    """
    mark = error.problem_mark or error.context_mark
    last = min(mark.line, len(lines) - 1)
    first = min(error.context_mark.line, last) if error.context_mark else last
    line, context, problem = lines[last], error.context or "", error.problem or ""
    if isinstance(error, _WrittenTwice):  # the line itself is right, whatever it looks like
        return last + 1, problem
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return last + 1, "begins with a tab, which YAML does not allow; indent it with spaces"
    if "quoted scalar" in context:
        if "end of stream" in problem:
            return first + 1, "a quote is opened and never closed; close it"
        return last + 1, "\\ has a meaning of its own between double quotes; use single quotes, or / in paths"
    value = re.sub(r"^\s*(?:- +)*(?:[^\s:#'\"{\[][^:]*: +)?", "", line)
    # A placeholder such as {trigger}; a group of keys has a colon.
    if re.match(r"\{+[^{}:]*\}+[^#]*[^\s#]|[@`%*&!]", value):
        return last + 1, f"a text that begins with {value[0]} needs quotes: {_quoted(value)}"
    if re.match(r"""("[^"]*"|'[^']*')\s*[^\s#]""", value):
        return last + 1, "text goes on after the closing quote; put all of it in quotes of the other kind"
    if isinstance(error, yaml.constructor.ConstructorError):
        return last + 1, problem
    if "block" in context and (closing := line[mark.column : mark.column + 1]) in ("]", "}"):
        return last + 1, f"a {closing} too many; remove it"
    if "flow" in context:
        rest = line[mark.column :].strip()
        if mark.line == first and rest:
            if begun := re.search(r"\{+[^{}:,]*\}+\s*$", line[: mark.column]):
                text = line[begun.start() : mark.column] + re.split(r"[,\]}]", rest)[0]
                return first + 1, f"a text that begins with {{ needs quotes: {_quoted(text)}"
            if rest.startswith(":"):  # what stands before it was read as one text
                return first + 1, "a comma is missing in this line; put one between its entries"
            return first + 1, f"a comma or a bracket is missing before '{rest}'; put it there"
        return first + 1, "a [ or { is opened and never closed; close it"
    if "simple key" in context:
        return first + 1, f"no colon and space after '{lines[first].strip()}'; write it as key: value"
    if "mapping values" in problem:
        before = [n for n in range(last) if lines[n].strip() and not lines[n].lstrip().startswith("#")]
        if re.search(r":\s", line[: mark.column]) or not before:
            return last + 1, f"a text with a colon in it needs quotes: {_quoted(value)}"
        if re.search(r":\s", lines[before[-1]]):
            return last + 1, "is indented too far; align it with the key above"
        return before[-1] + 1, f"no colon and space after '{lines[before[-1]].strip()}'; write it as key: value"
    if "block" in context:
        return last + 1, "is not aligned with the keys that it belongs to; fix its indentation"
    return last + 1, f"not valid YAML: {problem}"


def _quoted(text: str) -> str:
    text = text.strip()
    return "'" + text.replace("'", "''") + "'"


def scalar(text: str) -> Any:
    """``text`` parsed as a single YAML value; anything but a boolean or number stays text."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Merge layers, later over earlier ones, group by group; lists and single values are replaced as a whole."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                result[key] = merge(result[key], value)
            else:
                result[key] = merge(value) if isinstance(value, dict) else value
    return result


def describe(value: Any) -> str:
    """A value in the words of an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value}'" if len(value) <= 60 else f"the text '{value[:57]}...'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a group of keys"
    return "a list" if isinstance(value, list) else str(value)
