"""Render the error codes, found in the server's source: each place that raises one names its code and its message."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from _reference import ROOT, code, page, table

SERVER = ROOT / "server" / "mindprint_server"
CODE = re.compile(r"[a-z]+(_[a-z]+)+|timeout")
RAISERS = {"ApiError": None, "refuse": 422}
"""Functions and classes that are called with a code, and the HTTP status where the call does not name one."""


def errors() -> str:
    """Render the table of codes."""
    rows: dict[tuple[str, str], tuple[str, str]] = {}
    for file in sorted(SERVER.rglob("*.py")):
        for status, name, message in _raised(file):
            rows.setdefault((name, status), (message, str(file.relative_to(SERVER))))
    about = (
        "Every error reply has OpenAI's form: `error.code` is for programs, `error.message` says what is wrong and "
        "what to do. 429 and 503 carry `Retry-After` in seconds. `<...>` stands for a value."
    )
    listed = ((code(name), status, message, code(where)) for (name, status), (message, where) in sorted(rows.items()))
    return page("Errors", about, [table("code | status | message | raised in", listed)])


def _raised(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield status, code and message of each call in a file that raises an error with a code."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or _name(call.func) not in RAISERS:
            continue
        texts = [_text(argument) or _assigned(argument, assigned) for argument in call.args]
        codes = [text for text in texts if CODE.fullmatch(text)]
        status = next((str(a.value) for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, int)), "")
        if codes:
            message = next((text for text in texts if text and text != codes[0]), "")
            yield status or str(RAISERS[_name(call.func)] or ""), codes[0], message


def _assigned(argument: ast.expr, assigned: list[ast.Assign]) -> str:
    """Return the text that was last assigned to a variable above the place where it is used."""
    if not isinstance(argument, ast.Name):
        return ""
    above = [
        node
        for node in assigned
        if node.lineno < argument.lineno and any(_name(target) == argument.id for target in node.targets)
    ]
    return _text(max(above, key=lambda node: node.lineno).value) if above else ""


def _name(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _text(node: ast.expr) -> str:
    """Return a string or f-string as text, with <name> for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "<...>" for part in node.values)
    return ""
