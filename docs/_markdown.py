"""Markdown of the generated pages: tables, docstrings, types."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any


def page(title: str, about: str, parts: Iterable[str]) -> str:
    """Join the parts of a generated page below its title."""
    return "\n\n".join([f"# {title}", about, *(part for part in parts if part)]) + "\n"


def table(columns: str, rows: Iterable[Iterable[object]]) -> str:
    """Render a Markdown table; `columns` are separated by bars."""
    names = [name.strip() for name in columns.split("|")]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines) if len(lines) > 2 else ""


def cell(value: object) -> str:
    """Return text that stays in one cell."""
    return plain(" ".join(str(value).split())).replace("|", "\\|")


def plain(text: str) -> str:
    """Escape what would be read as HTML, but for line breaks; code in backticks stays as it is."""
    parts = text.split("`")
    return "`".join(part if number % 2 else re.sub(r"<(?!br>)", "&lt;", part) for number, part in enumerate(parts))


def code(text: object) -> str:
    """Return text in backticks, or nothing for nothing."""
    return f"`{text}`" if str(text) else ""


@cache
def field_docs(owner: type) -> Mapping[str, str]:
    """Return the docstrings that stand below the fields of a class, by field, base classes included."""
    found: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        if kind.__module__.startswith(("pydantic", "builtins", "abc", "typing")):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def docstring(text: str) -> str:
    """Return a Google docstring as Markdown: its sections become lists."""
    lines: list[str] = []
    inside = ""
    for line in plain(inspect.cleandoc(text)).splitlines():
        name = line.strip().rstrip(":")
        if line.strip().endswith(":") and name in ("Args", "Returns", "Raises", "Attributes", "Yields"):
            inside = line[: len(line) - len(line.lstrip())] + "    "
            lines += ["", f"**{name}**", ""]
        elif inside and line.startswith(inside) and not line.startswith(inside + " "):
            lines.append(f"- {line.strip()}")
        elif inside and line.strip() and line.startswith(inside):
            lines.append(f"  {line.strip()}")
        else:
            if line.strip():
                inside = ""
            lines.append(line)
    return "\n".join(lines).strip()


def first_sentence(text: str) -> str:
    """Return the first paragraph's first sentence."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".")


def json_type(schema: Mapping[str, Any]) -> str:
    """Return a type in words, with its bounds and links to other types."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        kinds = [json_type(kind) for kind in schema["anyOf"]]
        return " or ".join(kind for kind in kinds if kind)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "")
    if kind == "array":
        size = _bounds(schema, "minItems", "maxItems")
        return f"list of {json_type(schema.get('items', {})) or 'anything'}{size}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object of {json_type(inner)}" if isinstance(inner, Mapping) and inner else "object"
    names = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
    if schema.get("format") == "date-time":
        return "time"
    low = "minLength" if kind == "string" else "minimum"
    high = "maxLength" if kind == "string" else "maximum"
    return f"{names.get(kind, kind)}{_bounds(schema, low, high)}"


def _bounds(schema: Mapping[str, Any], low: str, high: str) -> str:
    least, most = schema.get(low), schema.get(high)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = [f"≥ {least:g}" if least is not None else "", f"> {above:g}" if above is not None else ""]
    parts += [f"≤ {most:,g}" if most is not None else "", f"< {below:,g}" if below is not None else ""]
    bounds = ", ".join(part for part in parts if part)
    unit = " characters" if low == "minLength" and bounds else " items" if low == "minItems" and bounds else ""
    return f" ({bounds}{unit})" if bounds else ""
