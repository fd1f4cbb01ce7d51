"""Pydantic's errors in plain words: what is wrong, what is allowed, the nearest guess.

Not the checks themselves: those are `model.py` (one key) and `lint.py` (across keys).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from gateway.config.diagnostics import KeyPath
from gateway.config.guess import nearest
from gateway.config.model import Config
from gateway.config.units import parse_duration

_SECRET_KEYS = frozenset({"psk", "ppk", "local_key", "password", "secret", "older_secrets", "inline"})
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    (str, "text in quotes"),
    (int, "a whole number"),
    (float, "a number with a point"),
    ((list, tuple), "an array"),
    (dict, "a table"),
    ((datetime, date, time), "a date"),
)
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text in quotes",
    "dict_type": "tables by name",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "too small", "at least"),
    "greater_than": ("gt", "too small", "more than"),
    "less_than_equal": ("le", "too large", "at most"),
    "less_than": ("lt", "too large", "less than"),
}
_SAME_WORD = 0.9
_NAME_RULE = "a name has 1 to 32 letters, digits, '_', '.' or '-' and begins with a letter or digit"


def problems(error: ValidationError, root: type[BaseModel] = Config) -> list[tuple[KeyPath, str]]:
    """(path, message) for every mistake pydantic found in a file of this model, without its echoes."""
    found = []
    for item in error.errors(include_url=False):
        path: KeyPath = tuple(part for part in item["loc"] if part != "[key]")
        # An array whose elements are all wrong is not also empty.
        if item["type"] == "too_short" and item["input"]:
            continue
        found.append((path, _message(item["type"], path, item["input"], item.get("ctx", {}), root)))
    return found


def model_at(path: KeyPath, root: type[BaseModel] = Config) -> type[BaseModel] | None:
    """The section a table path belongs to: ("bgp", "neighbor", "x") -> Neighbor."""
    model: type[BaseModel] | None = root
    by_name = False
    for part in path:
        if isinstance(part, int):
            continue  # of an array of tables
        if by_name:
            by_name = False
            continue
        field = model.model_fields.get(str(part)) if model is not None else None
        model = None if field is None else _section_of(field)
        by_name = field is not None and _is_named(field)
    return None if by_name else model


def _message(kind: str, path: KeyPath, value: Any, context: Mapping[str, Any], root: type[BaseModel]) -> str:
    if kind in _BOUNDS:
        bound, how, word = _BOUNDS[kind]
        unit = _unit(path, root)
        # Of what may be absent, pydantic gives back what was written
        shown = value if isinstance(value, str) else f"{value:.15g}{unit}"
        return f"{shown} is {how}; {word} {context[bound]:.15g}{unit}"
    say = _MESSAGES.get(kind)
    if say is None:
        return f"expected {_expected(kind, path)}, got {_kind_of(value)}"
    return say(path, value, context, root)


def _unit(path: KeyPath, root: type[BaseModel]) -> str:
    field = _field_at(path, root)
    return " s" if field is not None and _is_duration((*field.metadata, *get_args(field.annotation))) else ""


def _is_duration(parts: Iterable[object]) -> bool:
    return any(getattr(item, "func", None) is parse_duration or _is_duration(get_args(item)) for item in parts)


def _field_at(path: KeyPath, root: type[BaseModel]) -> FieldInfo | None:
    model = model_at(path[:-1], root)
    return model.model_fields.get(str(path[-1])) if model is not None else None


def _missing(path: KeyPath, root: type[BaseModel]) -> str:
    field = _field_at(path, root)
    purpose = f"; {field.description}" if field is not None and field.description else ""
    return f"required key '{path[-1]}' is missing{purpose}"


def _expected(kind: str, path: KeyPath) -> str:
    if kind == "tuple_type":
        example = {"proposals": "aes256gcm16-prfsha384-ecp384", "esp_proposals": "aes256gcm16-ecp256"}
        address = {"ca": "certs/ca.pem", "crl": "certs/ca.crl", "tunnel_address": "169.254.21.1/30", "udp_gro": "eth1"}
        if path[-1] == "cpus":
            return "an array such as [0, 1]"
        if path[-1] == "older_secrets":
            return 'an array such as [{ file = "secrets/old.secret" }]'
        text = (example | address).get(str(path[-1]), "10.1.0.0/16")
        return f'an array such as ["{text}"]'
    if kind == "model_type":
        if "older_secrets" in path:
            return 'a table such as { file = "secrets/old.secret" }'
        if path[-1] in _SECRET_KEYS:
            return (
                f'a table such as {path[-1]} = {{ file = "secrets/{path[-2] if len(path) > 1 else "x"}.{path[-1]}" }}'
            )
        return f"a table [{'.'.join(str(part) for part in path)}]"
    return _EXPECTED.get(kind, "another kind of value")


def _kind_of(value: object) -> str:
    return next((name for kinds, name in _KINDS if isinstance(value, kinds)), "something else")


def _shown(path: KeyPath, value: object) -> str:
    if _SECRET_KEYS.intersection(path):
        return "the value"
    text = str(value)
    return f"'{text if len(text) <= 40 else text[:37] + '...'}'"


def _unknown_key(path: KeyPath, root: type[BaseModel]) -> str:
    key = str(path[-1])
    model = model_at(path[:-1], root)
    known = list(model.model_fields) if model is not None else []
    homes = [table for table, other in _tables(root, "").items() if other is not model and key in other.model_fields]
    # The right word in the wrong table, unless it is all but a word of this one (local_address, local_addrs).
    guess = nearest(key, known, cutoff=_SAME_WORD) or (None if homes else nearest(key, known))
    if guess:
        end = f"; did you mean '{guess}'?"
    elif homes:
        end = f"; it belongs in {' or '.join(homes)}"
    else:
        end = f"; allowed here: {', '.join(known)}"
    return f"unknown key '{key}'{end}"


def _not_a_choice(value: object, expected: str) -> str:
    choices = re.findall(r"'([^']*)'", expected)
    if not isinstance(value, str):
        return f"expected one of {', '.join(choices)} in quotes, got {_kind_of(value)}"
    guess = nearest(value, choices)
    end = f"; did you mean '{guess}'?" if guess else ""
    return f"'{value}' is not one of {', '.join(choices)}{end}"


def _is_named(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is dict


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation: Any = field.annotation
    candidates = (annotation, *get_args(annotation))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _tables(model: type[BaseModel], path: str) -> dict[str, type[BaseModel]]:
    found = {f"[{path}]": model} if path else {}
    for name, field in model.model_fields.items():
        section = _section_of(field)
        if section is None:
            continue
        below = f"{path}.{name}" if path else name
        found |= _tables(section, f"{below}.NAME" if _is_named(field) else below)
    return found


_EMPTY = "nothing is given; give at least one value or remove the key"
_MESSAGES: dict[str, Callable[[KeyPath, object, Mapping[str, Any], type[BaseModel]], str]] = {
    "missing": lambda path, value, context, root: _missing(path, root),
    "extra_forbidden": lambda path, value, context, root: _unknown_key(path, root),
    "value_error": lambda path, value, context, root: str(context["error"]),
    "literal_error": lambda path, value, context, root: _not_a_choice(value, context["expected"]),
    "string_pattern_mismatch": lambda path, value, context, root: f"{_shown(path, value)} is not a name; {_NAME_RULE}",
    "too_short": lambda path, value, context, root: _EMPTY,
    "too_long": lambda path, value, context, root: f"{context['actual_length']} given; at most {context['max_length']}",
    "string_too_short": lambda path, value, context, root: _EMPTY,
}
