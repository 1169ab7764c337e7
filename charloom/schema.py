"""YAML files against JSON schemas, with one plain line for each mistake.

Reads the schemas of ``config/schemas/``, fills in their defaults and turns every violation into
``file: key: what is wrong; what is allowed``. It must not know what any key means.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from charloom.errors import UserError

SCHEMAS = Path(__file__).resolve().parents[1] / "config" / "schemas"

# PyYAML follows YAML 1.1, where `1e-4` has no dot and is therefore a text.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_KIND = {
    "object": "a group of keys",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "empty",
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """The safe loader, which also refuses a key that is written twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str | int | float | bool) and key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is written twice", key_node.start_mark
            )
        seen.add(key if isinstance(key, str | int | float | bool) else id(key_node))
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: str | Path, label: str | None = None) -> dict[str, Any]:
    """The mapping in a YAML file; a missing or broken file is a :class:`UserError` naming line and column."""
    label = label or str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{label}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{label}: cannot be read as UTF-8 text: {error}") from None
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 (a subclass of the safe loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{label}:{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{label}: not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{label}: must be keys and values, not {_what(data)}")
    return data


def scalar(text: str) -> Any:
    """``text`` as YAML reads a single value; a text that is none stays what it is."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema ``config/schemas/<name>.schema.yaml`` with its references to sister files written out."""
    return _resolve(read_yaml(SCHEMAS / f"{name}.schema.yaml"))


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


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Later layers over earlier ones, group by group; lists and single values are replaced whole."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                result[key] = merge(result[key], value)
            else:
                result[key] = merge(value) if isinstance(value, dict) else value
    return result


def coerce(value: Any, schema: dict[str, Any]) -> Any:
    """``value`` with numbers as the schema wants them: ``1e-4`` out of a text, ``300`` as ``300.0`` where a
    fraction may stand, ``3e3`` as ``3000`` where none may. What does not fit is left for :func:`check` to report."""
    kind = schema.get("type")
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
        items = next((s["items"] for s in lists if "items" in s), {})
        return [coerce(item, items) for item in value]
    if kind in ("number", "integer") and not isinstance(value, bool):
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        if kind == "number" and isinstance(value, int):
            return float(value)
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return int(value)
    return value


def check(data: dict[str, Any], schema_name: str, label: str) -> tuple[dict[str, Any], list[str]]:
    """``data`` with its numbers put right, and one line for each way in which it breaks the schema."""
    from jsonschema import Draft202012Validator

    schema = load_schema(schema_name)
    data = coerce(data, schema)
    problems = []
    for error in sorted(Draft202012Validator(schema).iter_errors(data), key=_place):
        problems.extend(_lines(error, schema, label))
    return data, problems


def _place(error: Any) -> list[str]:
    return [f"{part:06d}" if isinstance(part, int) else part for part in error.absolute_path]


def dotted(path: Any) -> str:
    """``train.lr``, ``shots[3].pose`` (counted from 1, as people count)."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _lines(error: Any, root: dict[str, Any], label: str) -> list[str]:
    path = dotted(error.absolute_path)
    where = f"{label}: {path}" if path else label
    rule, value, schema = error.validator, error.instance, error.schema
    meaning = schema.get("description", "")
    if rule == "anyOf" and isinstance(value, dict | list):
        # Of the alternatives, the one that the user means is the one of the same kind.
        kind = "object" if isinstance(value, dict) else "array"
        meant = [index for index, part in enumerate(error.validator_value) if part.get("type") == kind]
        inside = [e for e in error.context if meant and e.schema_path[0] == meant[0]]
        if inside:
            return [line for e in sorted(inside, key=_place) for line in _lines(e, root, label)]
    if rule == "additionalProperties":
        known = list(schema.get("properties", {}))
        unknown = [key for key in value if key not in known]
        return [
            f"{label}: {dotted([*error.absolute_path, key])}: unknown key; {_instead(str(key), known, root, path)}"
            for key in unknown
        ]
    if rule == "required":
        missing = next(key for key in error.validator_value if key not in value and f"'{key}'" in error.message)
        what = schema["properties"].get(missing, {}).get("description", "")
        return [
            f"{label}: {dotted([*error.absolute_path, missing])}: is missing" + (f"; wanted: {what}" if what else "")
        ]
    if rule == "type":
        return [f"{where}: must be {_KIND[error.validator_value]}, not {_what(value)}"]
    if rule == "enum":
        return [
            f"{where}: {_what(value)} is not known; {_choices(str(value), [str(v) for v in error.validator_value])}"
        ]
    if rule in ("pattern", "anyOf", "const", "propertyNames"):
        return [f"{where}: {_what(value)} will not do; wanted: {meaning or error.validator_value}"]
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
        return [f"{where}: must have {word} {error.validator_value} entries, not {len(value)}"]
    if rule == "minLength":
        return [f"{where}: must not be empty"]
    if rule == "uniqueItems":
        return [f"{where}: an entry is there twice"]
    return [f"{where}: {error.message}"]


def _what(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value}'" if len(value) <= 60 else f"the text '{value[:57]}...'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a group of keys"
    return "a list" if isinstance(value, list) else str(value)


def _choices(word: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}Allowed: {', '.join(allowed)}" if hint else f"allowed: {', '.join(allowed)}"


def _instead(key: str, known: list[str], root: dict[str, Any], path: str) -> str:
    """A remedy for an unknown key: a sister of similar name, the same name elsewhere, or the list of sisters."""
    close = difflib.get_close_matches(key.lower(), known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    elsewhere = [name for name in _paths(root) if name.rpartition(".")[2] == key]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"allowed here: {', '.join(known)}" if known else "nothing is allowed here"


def _paths(schema: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, part in schema.get("properties", {}).items():
        names += [f"{prefix}{key}", *_paths(part, f"{prefix}{key}.")]
    return names
