"""Every reason that the IKE core can give for an end or a failure, read off its source: what explain.py must have words for.

Not a type checker: it knows the calls by which reasons leave (`SINKS`), follows a variable to its assignments in the
same function, and lets a name that only runs have (`error.name`, `error.why.name`) be any that there is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from gateway.ike.errors import AUTHENTICATION_REASONS, Violation
from gateway.ike.registry import NotifyType

ROOT = Path(__file__).parents[2] / "gateway" / "ike"
SINKS = {
    "destroy": 1,
    "close": 1,
    "DeleteIke": 0,
    "_refused": 1,
    "_close": 1,
    "ExchangeFailed": 2,
    "DeleteChild": 1,
    "expired": 2,
}
"""Function -> which argument the reason is."""
OF_IKE_SAS = ("destroy", "close", "DeleteIke", "_refused", "_close", "expired")
OF_EXCHANGES = ("ExchangeFailed", "DeleteChild", "expired")
NOTIFIES = frozenset(one.name for one in NotifyType if one.is_error) | {NotifyType(8192).name}
VIOLATIONS = frozenset(Violation.__members__)


def emitted(*sinks: str) -> frozenset[str]:
    """By these calls."""
    return frozenset(found for path in sorted(ROOT.rglob("*.py")) for found in _of_module(path, sinks) if found)


def _of_module(path: Path, sinks: tuple[str, ...]) -> Iterator[str]:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and _name(node.func) in sinks:
                    at = SINKS[_name(node.func)]
                    yield from _values(node.args[at], function) if at < len(node.args) else ()
                if "destroy" in sinks and isinstance(node, (ast.Return, ast.Assign)) and _is_pair(node.value):
                    yield from _values(node.value.elts[0], function)  # type: ignore[union-attr]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_pair(node: ast.expr | None) -> bool:
    """(reason, context), as `sa.hint` and what `unanswered` returns."""
    return isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.elts[1], (ast.Dict, ast.Name))


def _values(node: ast.expr, function: ast.FunctionDef) -> Iterator[str]:
    match node:
        case ast.Constant(str() as text):
            yield text if text.isupper() else ""
        case ast.IfExp(_, body, orelse):
            yield from _values(body, function)
            yield from _values(orelse, function)
        case ast.JoinedStr(parts):
            texts = [""]
            for part in parts:
                more = [part.value] if isinstance(part, ast.Constant) else [*_values(part.value, function)]  # type: ignore[attr-defined]
                texts = [text + one for text in texts for one in more]
            yield from texts
        case ast.Attribute(ast.Attribute(ast.Name("NotifyType"), name), "name"):
            yield name
        case ast.Attribute(ast.Attribute(_, "why"), "name"):
            yield from VIOLATIONS
        case ast.Attribute(_, "name"):
            yield from NOTIFIES
        case ast.Call(ast.Attribute(ast.Name("AUTHENTICATION_REASONS")), [_, default]):
            yield from AUTHENTICATION_REASONS.values()
            yield from _values(default, function)
        case ast.Name(name):
            yield from _assigned(name, function)


def _assigned(name: str, function: ast.FunctionDef) -> Iterator[str]:
    """A parameter is what the callers say, which are looked at too; only a failed CREATE_CHILD_SA has reasons made of names."""
    found = [value for to, value in _assignments(function) if _name(to) == name and not isinstance(value, ast.Name)]
    for value in found:
        yield from _values(value, function)
    if not found and name == "reason" and function.name in ("_failed", "_retry_rekey"):
        yield from NOTIFIES | VIOLATIONS


def _assignments(function: ast.FunctionDef) -> Iterator[tuple[ast.expr, ast.expr]]:
    for one in ast.walk(function):
        for to in one.targets if isinstance(one, ast.Assign) else ():
            if isinstance(to, ast.Tuple) and isinstance(one.value, ast.Tuple):
                yield from zip(to.elts, one.value.elts, strict=True)
            else:
                yield to, one.value
