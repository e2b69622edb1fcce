"""Render the reference pages from the code: routes, commands, settings, errors, metrics, states."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

from _pictures import MACHINES

ROOT = Path(__file__).resolve().parent.parent
DECISIONS = ROOT / "docs" / "decisions"


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


# --- HTTP API ----------------------------------------------------------------------


def http_api() -> str:
    """Render every route and every type that goes over the wire."""
    from mindprint_server.app import create_app
    from mindprint_server.settings import Settings

    schema = create_app(Settings()).openapi()
    routes: dict[str, list[tuple[str, str, dict[str, Any]]]] = defaultdict(list)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            routes[operation.get("tags", ["server"])[0]].append((method.upper(), path, operation))
    summary = table(
        "route | what it does",
        (
            (f"[`{method} {path}`](#{_anchor(operation)})", first_sentence(_what(operation)))
            for group in routes.values()
            for method, path, operation in group
        ),
    )
    parts = [summary]
    for group, operations in routes.items():
        parts.append(f"## Routes: {group}")
        parts += [_operation(method, path, operation) for method, path, operation in operations]
    parts.append("## Types")
    parts += [_type(name, kind) for name, kind in sorted(schema["components"]["schemas"].items())]
    about = (
        "The server describes itself at `GET /openapi.json`; this page is made from the same description. Errors have "
        "one form, `ErrorReply`, with a code for programs: [Errors](errors.md). Most lists take `limit` and "
        "`after`; the reply's `next` is the `after` of the following page."
    )
    return page("HTTP API", about, parts)


def _anchor(operation: Mapping[str, Any]) -> str:
    return str(operation["operationId"]).replace("_", "-")


def _what(operation: Mapping[str, Any]) -> str:
    text: str = operation.get("description") or operation["summary"]
    return text.replace("\n\n", "\n").strip()


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### `{method} {path}` {{ #{_anchor(operation)} }}", docstring(_what(operation))]
    lines.append(
        table(
            "parameter | in | type | default",
            (
                (code(p["name"]), p["in"], _schema(p["schema"]), code(p["schema"].get("default", "")))
                for p in operation.get("parameters", ())
            ),
        )
    )
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        lines.append(f"Body ({kind}): {_schema(content.get('schema', {})) or 'see above'}")
    replies = []
    for status, reply in sorted(operation["responses"].items()):
        if status[0] in "45":
            continue
        kinds = [_schema(content.get("schema", {})) or kind for kind, content in reply.get("content", {}).items()]
        replies.append(f"{status} {', '.join(kinds) or reply['description']}")
    lines.append(f"Replies: {'; '.join(replies)}")
    return "\n\n".join(line for line in lines if line)


def _schema(schema: Mapping[str, Any]) -> str:
    """Return a type in words, with its bounds and links to other types."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        kinds = [_schema(kind) for kind in schema["anyOf"]]
        return " or ".join(kind for kind in kinds if kind)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "")
    if kind == "array":
        bounds = _bounds(schema, "minItems", "maxItems")
        return f"list of {_schema(schema.get('items', {})) or 'anything'}{bounds}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object of {_schema(inner)}" if isinstance(inner, Mapping) and inner else "object"
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
    told = ", ".join(part for part in parts if part)
    unit = " characters" if low == "minLength" and told else " items" if low == "minItems" and told else ""
    return f" ({told}{unit})" if told else ""


def _type(name: str, schema: Mapping[str, Any]) -> str:
    from mindprint import types

    owner = getattr(types, name, None)
    docs = field_docs(owner) if isinstance(owner, type) else {}
    required = set(schema.get("required", ()))
    rows = []
    for field, kind in schema.get("properties", {}).items():
        default = "required" if field in required else code(_default(kind))
        rows.append((code(field), _schema(kind), default, kind.get("description") or docs.get(field, "")))
    fields = table("field | type | default | meaning", rows)
    return f"### {name}\n\n{docstring(schema.get('description', ''))}\n\n{fields}".rstrip()


def _default(schema: Mapping[str, Any]) -> object:
    default = schema.get("default", "")
    return (
        {None: "null", True: "true", False: "false"}.get(default, default)
        if not isinstance(default, list | dict)
        else default
    )


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


# --- command line ------------------------------------------------------------------


def cli() -> str:
    """Render every command with its arguments and options."""
    import typer

    from mindprint.cli import app

    root = typer.main.get_command(app)
    parts = [
        table("command | what it does", ((f"`{name}`", first_sentence(it.help or "")) for name, it in _commands(root)))
    ]
    for name, command in _commands(root):
        rows = []
        for param in command.params:
            if getattr(param, "hidden", False) or param.name == "help":
                continue
            rows.append((_option(param), getattr(param, "help", "") or "", _option_default(param)))
        parts.append(
            f"## `{name}`\n\n{docstring(command.help or '')}\n\n{table('argument or option | meaning | default', rows)}"
        )
    about = (
        "`mindprint --help` and `mindprint COMMAND --help` show the same in the terminal. `MINDPRINT_URL` names the "
        "server for all commands, `--json` prints what programs read, `MINDPRINT_DEBUG=1` shows tracebacks."
    )
    return page("Command line", about, parts)


def _commands(group: Any, prefix: str = "mindprint") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if getattr(command, "hidden", False):
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _option(param: Any) -> str:
    if param.param_type_name == "argument":
        return code(param.metavar or param.name.upper())
    return ", ".join(code(name) for name in [*param.opts, *param.secondary_opts])


def _option_default(param: Any) -> str:
    if param.required:
        return "required"
    shown = getattr(param, "show_default", None)
    if isinstance(shown, str):
        return shown
    default = param.default
    return "" if default is None or callable(default) or default is False else code(default)


# --- settings ----------------------------------------------------------------------


def settings_server() -> str:
    """Render the server's settings."""
    from mindprint_server.settings import Settings

    about = (
        "Each setting has a default. A TOML file (`mindprint.toml`, or `--config FILE`) overrides it, a variable "
        "overrides the file, and a flag overrides the variable: `mindprint serve --set NAME=VALUE`. Lists, objects and "
        "`null` are written as JSON. `mindprint serve --print-config` shows what is in force."
    )
    return page("Server settings", about, _settings(Settings))


def settings_trainer() -> str:
    """Render the trainer's settings."""
    from mindprint_trainer.settings import Settings

    about = (
        "Each setting has a default. A variable overrides it, and a flag overrides the variable: "
        "`mindprint train --set NAME=VALUE`. `mindprint train --print-config` shows what is in force."
    )
    return page("Trainer settings", about, _settings(Settings))


def _settings(owner: Any) -> Iterator[str]:
    """Yield a table for each group of settings: a base class of the owner, or a field that is a model.

    Fields of the class itself are one group, or several by the comments above them.
    """
    prefix = owner.model_config.get("env_prefix", "")
    groups = {name: field for name, field in owner.model_fields.items() if hasattr(field.annotation, "model_fields")}
    bases = [base for base in reversed(owner.__bases__) if getattr(base, "model_fields", None)]
    for base in bases:
        title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", base.__name__.removesuffix("Settings")).capitalize()
        yield f"## {title}\n\n{docstring(base.__doc__ or '')}".rstrip()
        yield _rows(base, list(base.model_fields), prefix, "")
    if not bases and set(owner.model_fields) - set(groups):
        yield from _tables(owner, set(groups), prefix, "")
    for name, field in groups.items():
        inner: Any = field.annotation
        delimiter = owner.model_config.get("env_nested_delimiter") or "_"
        yield f"## {name}\n\n{docstring(inner.__doc__ or '')}".rstrip()
        yield _rows(inner, list(inner.model_fields), f"{prefix}{name.upper()}{delimiter}", f"{name}.")


def _tables(owner: Any, without: set[str], prefix: str, dotted: str) -> Iterator[str]:
    headings = _headings(owner)
    group: list[str] = []
    title = ""
    for name in owner.model_fields:
        if name in without:
            continue
        if name in headings:
            if group:
                yield f"{title}{_rows(owner, group, prefix, dotted)}"
            title, group = f"## {headings[name]}\n\n", []
        group.append(name)
    yield f"{title}{_rows(owner, group, prefix, dotted)}"


def _headings(owner: Any) -> dict[str, str]:
    """Return the comments that open a group of settings, by the group's first setting."""
    found: dict[str, str] = {}
    pending: list[str] = []
    lines = inspect.getsource(owner).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        text = line.strip()
        if text.startswith("#") and (pending or not before.strip()):
            pending.append(text.lstrip("# "))
        elif pending and ":" in text and text.split(":")[0].isidentifier():
            found[text.split(":")[0]] = " ".join(pending)[:1].upper() + " ".join(pending)[1:]
            pending = []
        elif not text:
            pending = []
    return found


def _rows(owner: Any, names: Iterable[str], prefix: str, dotted: str) -> str:
    docs = field_docs(owner)
    schema = owner.model_json_schema()["properties"]
    rows = []
    for name in names:
        field = owner.model_fields[name]
        meaning = _with_links(field.description or docs.get(name, ""))
        alias = field.validation_alias
        variable = str(alias).upper() if isinstance(alias, str) else f"{prefix}{name.upper()}"
        shown = f"{code(f'{dotted}{name}')}<br>{code(variable)}"
        rows.append((shown, meaning, _schema(schema[name]) or "text", code(_value(field))))
    return table("setting, variable | meaning | type | default", rows)


def _with_links(text: str) -> str:
    """Link "decision NNN" to the record."""
    records = {path.name[:3]: path.name for path in DECISIONS.glob("[0-9]*.md")}
    return re.sub(r"\bdecision\s+(\d{3})\b", lambda found: f"[{found[0]}](../decisions/{records[found[1]]})", text)


def _value(field: Any) -> str:
    if field.default_factory is not None:
        made = field.default_factory()
        return "" if isinstance(made, str) else _toml(made)
    return "" if field.is_required() else _toml(field.default)


def _toml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return str(value)


# --- metrics -----------------------------------------------------------------------


def metrics() -> str:
    """Render every metric of the server's registry."""
    from mindprint_server.observability.metrics import Metrics

    rows = []
    for collector in list(Metrics().registry._collector_to_names):
        kind, name = collector._type, collector._name  # type: ignore[attr-defined]
        shown = f"{name}_total" if kind == "counter" else name
        labels = ", ".join(code(label) for label in collector._labelnames)  # type: ignore[attr-defined]
        rows.append((code(shown), kind, labels, collector._documentation))  # type: ignore[attr-defined]
    about = (
        "`GET /metrics` exports these in Prometheus' format. Labels have few values: never a user, never a path. "
        "Counters start at zero with the process. "
        "[Monitoring](../operations/monitoring-and-alerts.md) says what to watch."
    )
    return page("Metrics", about, [table("metric | kind | labels | meaning", sorted(rows))])


# --- states ------------------------------------------------------------------------


def states() -> str:
    """Render the states of traces, batches, leases and versions, with what changes them."""
    from mindprint import types

    literals = {
        "trace": types.TraceState,
        "batch": types.BatchState,
        "lease": types.LeaseState,
        "version": types.VersionState,
    }
    parts = []
    for name, machine in MACHINES.items():
        known = set(get_args(literals[name]))
        if known != set(machine.states):
            raise SystemExit(f"docs/_pictures.py: states of a {name} are {sorted(known)}, not {sorted(machine.states)}")
        parts += [
            f"## {machine.title}",
            machine.about,
            f'<figure class="picture" markdown="span">\n![{machine.title}](../assets/states-{name}.svg)\n</figure>',
            table("state | meaning", ((code(state), meaning) for state, meaning in machine.states.items())),
            table(
                "change | from | to | when",
                ((n, code(move.start), code(move.end), move.when) for n, move in enumerate(machine.moves, 1)),
            ),
        ]
    about = "States are stored as text and appear in replies. Grey states change no more."
    return page("States", about, parts)
