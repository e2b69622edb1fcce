"""Render the error codes, found in the server's source: each place that raises one names its code and its message."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from _markdown import code, page, table
from _reference import ROOT
from mindprint_server.api.errors import STATUS
from mindprint_server.store.exceptions import HINTS

SERVER = ROOT / "server" / "mindprint_server"


def errors() -> str:
    """Render the table of codes."""
    rows: dict[tuple[str, str], tuple[str, str]] = {}
    for file in sorted(SERVER.rglob("*.py")):
        for status, name, message in _raised(file):
            rows.setdefault((name, status), (message, str(file.relative_to(SERVER))))
    del rows["<...>_not_found", "404"]
    for kind, hint in HINTS.items():
        rows.setdefault((f"{kind}_not_found", "404"), (f"there is no {kind} <...>: {hint}", "store/exceptions.py"))
    about = (
        "Every error reply has OpenAI's form: `error.code` is for programs, `error.message` says what is wrong and "
        "what to do. 429 and 503 carry `Retry-After` in seconds. `<...>` stands for a value."
    )
    listed = ((code(name), status, message, code(where)) for (name, status), (message, where) in sorted(rows.items()))
    return page("Errors", about, [table("code | status | message | raised in", listed)])


def _raised(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield status, code and message of each error that a file makes: `Kind(code, message)`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    for status, call in _calls(tree):
        first, *rest = call.args
        if status == "":
            status = str(first.value) if isinstance(first, ast.Constant) else "that of HTTP"
        else:
            rest = call.args
        if len(rest) >= 2 and (name := _text(rest[0])):
            yield status, name, _text(rest[1]) or _assigned(rest[1], assigned)


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls that make an error, with the status of its kind; "" where the first argument is the status."""
    statuses = {kind.__name__: str(status) for kind, status in STATUS.items()} | {
        "ApiError": "",
        "ServerError": "that of vLLM",
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in statuses:
            yield statuses[_name(node.func)], node
        elif isinstance(node, ast.ClassDef) and (kinds := [_name(b) for b in node.bases if _name(b) in statuses]):
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and _name(call.func) == "__init__":
                    yield statuses[kinds[0]], call


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
