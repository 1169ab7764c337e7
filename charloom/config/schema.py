"""Validates YAML files against JSON schemas, with one plain line per mistake.

Reads the schemas in ``config/schemas/``, fills in their defaults and turns every violation into
``file: key: what is wrong; what is allowed``. Independent of what the keys mean.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

import yaml

from charloom.config.yaml import KINDS, Document, describe, read_yaml, scalar
from charloom.core import words
from charloom.core.home import home

SCHEMAS = home() / "config" / "schemas"

# PyYAML follows YAML 1.1, where `1e-4` has no dot and is therefore a text.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NAMED = 6
"""Keys of a group that a message names."""
_NUMBERS = ("number", "integer")
_WRITTEN = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema ``config/schemas/<name>.schema.yaml`` with its references to other files inlined."""
    resolved: dict[str, Any] = _resolve(read_yaml(SCHEMAS / f"{name}.schema.yaml"))
    return resolved


def is_name(text: str) -> bool:
    """Whether characters, shots, sets and bases can be called so: it becomes part of paths, on any system."""
    return _name().fullmatch(text) is not None


@cache
def _name() -> re.Pattern[str]:
    return re.compile(load_schema("name")["pattern"])


def _resolve(node: Any) -> Any:
    if isinstance(node, list):
        return [_resolve(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        referred = load_schema(node["$ref"].removesuffix(".schema.yaml"))
        local = {key: value for key, value in node.items() if key != "$ref"}
        if "description" in local and "description" in referred:
            local["description"] = f"{local['description']}; {referred['description']}"
        return {**{k: v for k, v in referred.items() if k not in ("$schema", "title")}, **local}
    return {key: _resolve(value) for key, value in node.items()}


def defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """The tree of all defaults that ``schema`` gives."""
    tree: dict[str, Any] = {}
    for key, part in schema.get("properties", {}).items():
        if "default" in part:
            tree[key] = part["default"]
        elif part.get("properties"):
            tree[key] = defaults(part)
    return tree


def coerce(value: Any, schema: dict[str, Any]) -> Any:
    """``value`` with its scalars converted to the types of the schema.

    The text ``1e-4`` becomes a number, ``300`` becomes ``300.0`` for a number and ``3e3`` becomes ``3000`` for an
    integer. Values from a command line are all texts: one that the schema does not accept is parsed as YAML; one that
    it accepts, such as ``no`` or ``007``, stays a text. A group or list that contains only comments is empty. Values
    that do not fit are left for :func:`check` to report.
    """
    kind = schema.get("type") or next((s["type"] for s in schema.get("anyOf", ()) if s.get("type") in _NUMBERS), None)
    if value is None and kind in ("object", "array"):
        return {} if kind == "object" else []
    if isinstance(value, dict):
        named = schema.get("properties", {})
        other = schema.get("additionalProperties")
        groups = [s for s in schema.get("anyOf", ()) if s.get("type") == "object"]
        if not named and not isinstance(other, dict) and groups:
            return coerce(value, groups[0])
        fallback = other if isinstance(other, dict) else {}
        return {key: coerce(item, named.get(key, fallback)) for key, item in value.items()}
    if isinstance(value, list):
        lists = [schema, *schema.get("anyOf", ())]
        items: dict[str, Any] = next((s["items"] for s in lists if "items" in s), {})
        return [coerce(item, items) for item in value]
    if kind in _NUMBERS and not isinstance(value, bool):
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        if kind == "number" and isinstance(value, int):
            try:
                return float(value)
            except OverflowError:  # hundreds of digits
                return math.inf if value > 0 else -math.inf
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return int(value)
    if isinstance(value, str) and (kind == "boolean" or "anyOf" in schema) and not _fits(value, schema):
        read = scalar(value)
        return read if _fits(read, schema) else value
    return value


_PATHS = ("file", "init", "judge_weights", "masks", "path", "reference", "transformer_file")
_ESCAPED = "holds a tab or a line break, because \\ is special between double quotes; use single quotes, or /"


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    from jsonschema import Draft202012Validator

    return bool(Draft202012Validator(schema).is_valid(value))


def check(
    data: dict[str, Any], schema_name: str, label: str, part_of: tuple[Document, Sequence[str]] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """``data`` with its scalars converted by :func:`coerce`, and one line per violation of the schema.

    ``part_of`` is the document that ``data`` belongs to and its path in there, unless it is a :class:`Document` itself.
    """
    from jsonschema import Draft202012Validator

    schema = load_schema(schema_name)
    document, place = part_of or (data, ())
    source = (getattr(document, "text", ""), place)
    data = coerce(data, schema)
    problems = []
    for error in sorted(Draft202012Validator(schema).iter_errors(data), key=_place):
        problems.extend(_lines(error, schema, label, source))
    problems += [f"{label}: {where}: {_ESCAPED}" for where in _with_control_characters(data)]
    problems += [f"{label}: {dotted(path)}: must be a finite number, not {value}" for path, value in _endless(data)]
    return data, problems


def _with_control_characters(value: Any, place: tuple[Any, ...] = ()) -> Iterator[str]:
    """Where paths hold a tab or a line break: between double quotes, that is what YAML makes of ``D:\\new``."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _with_control_characters(item, (*place, key))
    elif isinstance(value, str) and place and place[-1] in _PATHS and any(letter < " " for letter in value):
        yield dotted(list(place))


def _endless(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    """Infinite numbers and ``.nan``, each with its path."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _endless(item, (*path, key))


def _unquoted(error: Any, label: str, source: tuple[str, Sequence[str]]) -> list[str]:
    """A line for a value that was meant as text but that YAML reads as another type, such as 007, off or null."""
    value, path, (text, place) = error.instance, list(error.absolute_path), source
    if isinstance(value, str | dict | list):
        return []
    written = _written(text, [*place, *path]) if text else "" if value is None else str(value)
    wanted = error.validator == "type" and error.validator_value == "string"
    if not written or not (wanted or (error.validator == "anyOf" and _fits(written, error.schema))):
        return []
    read_as = "true or false" if isinstance(value, bool) else "nothing" if value is None else "a date"
    read_as = "a number" if isinstance(value, int | float) and not isinstance(value, bool) else read_as
    quoted = f'- "{written}"' if isinstance(path[-1], int) else f'{path[-1]}: "{written}"'
    if not text:  # from a command line, where the shell takes the outer quotes
        quoted = f"""'{path[-1]}="{written}"'"""
    return [f"{label}: {dotted(path)}: must be a text, and {written} is {read_as}; put it in quotes: {quoted}"]


def _written(text: str, path: list[Any]) -> str:
    """The scalar at ``path`` of a YAML file, as it is written there."""
    node = _as_written(text)
    for part in path:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return ""  # the path is not in the file itself
    return node if isinstance(node, str) else ""


@lru_cache(maxsize=8)
def _as_written(text: str) -> Any:
    """A YAML file with its scalars as texts; read once, however many mistakes are in it."""
    return yaml.load(text, Loader=_WRITTEN)  # noqa: S506 (yields only texts, lists and groups)


def _place(error: Any) -> list[str]:
    return [f"{part:06d}" if isinstance(part, int) else part for part in error.absolute_path]


def dotted(path: Any) -> str:
    """A path as text: ``train.lr``, ``shots[3].pose`` (counted from 1)."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def causes(error: Any) -> list[Any]:
    """The errors behind an ``anyOf``: the alternative that the user means is the one of the same type."""
    value = error.instance
    if error.validator != "anyOf" or not isinstance(value, dict | list | int | float) or isinstance(value, bool):
        return [error]
    kinds = ("object",) if isinstance(value, dict) else ("array",) if isinstance(value, list) else _NUMBERS
    same = [index for index, part in enumerate(error.validator_value) if part.get("type") in kinds]
    inside = [e for e in error.context if same and e.schema_path[0] == same[0]]
    return [e for part in sorted(inside, key=_place) for e in causes(part)] or [error]


def _lines(error: Any, root: dict[str, Any], label: str, source: tuple[str, Sequence[str]]) -> list[str]:
    """The lines for one error; ``source`` is the text of the file and the path in it that was checked."""
    if found := _unquoted(error, label, source):
        return found
    path = dotted(error.absolute_path)
    where = f"{label}: {path}" if path else label
    rule, value, schema = error.validator, error.instance, error.schema
    meaning = schema.get("description", "")
    if (inside := causes(error)) != [error]:
        return [line for e in inside for line in _lines(e, root, label, source)]
    if rule == "additionalProperties":
        unknown = [key for key in value if key not in schema.get("properties", {})]
        return [
            f"{label}: {dotted([*error.absolute_path, key])}: unknown key; {_instead(str(key), schema, root)}"
            for key in unknown
        ]
    if rule == "required":
        missing = next(key for key in error.validator_value if key not in value and f"'{key}'" in error.message)
        what = schema["properties"].get(missing, {}).get("description", "")
        return [
            f"{label}: {dotted([*error.absolute_path, missing])}: is missing" + (f"; expected {what}" if what else "")
        ]
    if rule == "type":
        kind = error.validator_value
        if value is None:
            return [f"{where}: is empty; expected {meaning or KINDS[kind]}, or take the key out"]
        return [f"{where}: must be {KINDS[kind]}, not {describe(value)}{_misread(kind, value, error.schema)}"]
    if rule == "enum":
        return [
            f"{where}: {describe(value)} is not known; {_choices(str(value), [str(v) for v in error.validator_value])}"
        ]
    if rule in ("pattern", "anyOf", "const", "propertyNames"):
        return [f"{where}: {describe(value)} is not valid; expected {meaning or error.validator_value}"]
    bounds = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "exclusiveMinimum": "more than {}",
        "exclusiveMaximum": "less than {}",
        "multipleOf": "a multiple of {}",
    }
    if rule in bounds:
        return [f"{where}: must be {bounds[rule].format(error.validator_value)}, not {value}"]
    if rule in ("minItems", "maxItems"):
        word = "at least" if rule == "minItems" else "at most"
        entries = "1 entry" if error.validator_value == 1 else f"{error.validator_value} entries"
        return [f"{where}: must have {word} {entries}, not {len(value)}"]
    if rule == "minLength":
        return [f"{where}: must not be empty"]
    if rule == "uniqueItems":
        return [f"{where}: an entry appears twice"]
    return [f"{where}: {error.message}"]


def meant(name: str, names: Sequence[str]) -> str:
    """A remedy for an unknown name: the similar one of ``names``, or all of them."""
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"there is only {names[0]}" if len(names) == 1 else f"there are {', '.join(names) or 'none'}"


def _choices(word: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}Allowed: {', '.join(allowed)}" if hint else f"allowed: {', '.join(allowed)}"


def _misread(kind: str, value: Any, group: Any) -> str:
    """A remedy for what YAML reads differently from what was meant."""
    if kind == "string" and isinstance(value, dict) and list(value.values()) == [None]:
        return "; a text that begins with { needs quotes: '{" + str(*value) + "}'"
    if kind == "object" and isinstance(value, str):
        keys = list(group.get("properties", ())) if isinstance(group, dict) else []
        which = f", {words.listed(keys, _NAMED)}," if keys else ""
        return f"; write each of its keys{which} as key: value, on a line of its own"
    return ""


def _instead(key: str, group: dict[str, Any], root: dict[str, Any]) -> str:
    """A remedy for an unknown key of a group: the same key elsewhere, its name here, a similar or any sibling."""
    siblings = list(group.get("properties", {}))
    # Two keys may stand for one, as width and height for size.
    own = [name for name in (group.get("aka", {}).get(key),) if name and {*name.split(" and ")} <= {*siblings}]
    there = [f"{prefix}{key}" for prefix, part in _groups(root) if key in part.get("properties", {})]
    other = [f"{prefix}{part['aka'][key]}" for prefix, part in _groups(root) if key in part.get("aka", {})]
    meant = own or there or other or difflib.get_close_matches(key.lower(), siblings, n=1)
    if meant:
        return f"did you mean {' or '.join(meant[:3])}?"
    return f"allowed here: {', '.join(siblings)}" if siblings else "nothing is allowed here"


def _groups(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every group of keys in a schema and its prefix: "", "recipe.", "datasets[]."."""
    yield prefix, schema
    for key, part in schema.get("properties", {}).items():
        if "properties" in part:
            yield from _groups(part, f"{prefix}{key}.")
        if "properties" in part.get("items", {}):
            yield from _groups(part["items"], f"{prefix}{key}[].")
