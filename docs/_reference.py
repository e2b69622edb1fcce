"""Render the reference pages from the code: routes, commands, metrics, states."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from _markdown import code, docstring, field_docs, first_sentence, json_type, page, table
from _pictures import MACHINES

ROOT = Path(__file__).resolve().parent.parent


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


def _scopes(operation: Mapping[str, Any]) -> str:
    """Return which scopes a key needs, one of them."""
    scopes = [code(scope) for requirement in operation.get("security", ()) for scope in requirement.get("ApiKey", ())]
    return f"Scope: {' or '.join(scopes)}." if scopes else "Needs no key."


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### `{method} {path}` {{ #{_anchor(operation)} }}", docstring(_what(operation)), _scopes(operation)]
    lines.append(
        table(
            "parameter | in | type | default",
            (
                (code(p["name"]), p["in"], json_type(p["schema"]), code(p["schema"].get("default", "")))
                for p in operation.get("parameters", ())
            ),
        )
    )
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        lines.append(f"Body ({kind}): {json_type(schema) or 'see above'}")
        lines.append(_fields(schema))
    replies = []
    for status, reply in sorted(operation["responses"].items()):
        if status[0] in "45":
            continue
        kinds = [json_type(content.get("schema", {})) or kind for kind, content in reply.get("content", {}).items()]
        replies.append(f"{status} {', '.join(kinds) or reply['description']}")
    lines.append(f"Replies: {'; '.join(replies)}")
    return "\n\n".join(line for line in lines if line)


def _fields(schema: Mapping[str, Any]) -> str:
    """Return the fields of a body that is no type of its own."""
    required = schema.get("required", ())
    rows = (
        (
            code(field),
            json_type(kind),
            "required" if field in required else code(_default(kind)),
            kind.get("description", ""),
        )
        for field, kind in schema.get("properties", {}).items()
    )
    return table("field | type | default | meaning", rows)


def _type(name: str, schema: Mapping[str, Any]) -> str:
    from mindprint import types

    owner = getattr(types, name, None)
    docs = field_docs(owner) if isinstance(owner, type) else {}
    required = set(schema.get("required", ()))
    rows = []
    for field, kind in schema.get("properties", {}).items():
        default = "required" if field in required else code(_default(kind))
        rows.append((code(field), json_type(kind), default, kind.get("description") or docs.get(field, "")))
    fields = table("field | type | default | meaning", rows)
    return f"### {name}\n\n{docstring(schema.get('description', ''))}\n\n{fields}".rstrip()


def _default(schema: Mapping[str, Any]) -> object:
    default = schema.get("default", "")
    return (
        {None: "null", True: "true", False: "false"}.get(default, default)
        if not isinstance(default, list | dict)
        else default
    )


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
        "Counters start at zero with the process. vLLM's own metrics (`vllm:*`) follow: its documentation lists them. "
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
