"""Render the error codes, found in the server's source: each place that raises one names its code and its message."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from _markdown import code, page, table
from _reference import ROOT
from mindprint_server.api.errors import STATUS
from mindprint_server.exceptions import Invalid
from mindprint_server.sharing.quotas import RATES
from mindprint_server.store.exceptions import HINTS

SERVER = ROOT / "server" / "mindprint_server"
SHARED = ROOT / "client" / "mindprint" / "adapter_config.py"
"""Judges adapters for the server and the client. The server passes its messages on."""
MAX_MESSAGES = 5
"""Messages shown for one code. A code with more of them is described in words instead."""
PASSED_ON = {
    "choices_alike": ("ValueError", "verdicts/likelihood.py"),
    "prompt_too_long": ("PromptTooLong", "engine/vllm.py"),
}
"""Codes whose message is that of another exception: its name and the file that raises it."""
DESCRIBED = {
    "adapter_config": "what adapter_config.json holds that the engine cannot serve, with the name of the option: train "
    "without it, or upload the file that PEFT wrote",
    "artifact_unavailable": "which files of a version this server cannot read or write, and why: retry in a moment; if "
    "it stays so, compare artifact_url of all servers",
    "bad_request": "the message of vLLM's chat server: correct the field that it names",
    "http_error": "the message of the web framework for a status that no other code stands for",
    "template_refused": "the model's chat template refuses the messages, and why: send roles in an order that it takes",
    "validation_error": "`<...>`: what is wrong with this field of the request, then what to send",
}
"""What the messages of a code say, where they are not literals of this server or too many to list."""


def errors() -> str:
    """Render the table of codes."""
    rows: dict[tuple[str, str], tuple[dict[str, None], list[str]]] = {}
    for file in (SHARED, *sorted(SERVER.rglob("*.py"))):
        for status, name, message in _raised(file):
            messages, files = rows.setdefault((name, status), ({}, []))
            files.append(str(file.relative_to(SERVER if file.is_relative_to(SERVER) else SHARED.parents[1])))
            if message:
                messages[message] = None
    del rows["<...>_not_found", "404"], rows["quota_<...>", "429"]
    for name, used_up in RATES.items():
        message = f"{used_up.format(holder='<...>', most='<...>')}: retry in <...> s, or raise <...>"
        rows[f"quota_{name}", "429"] = {message: None}, ["sharing/quotas.py"]
    for kind, hint in HINTS.items():
        message = f"there is no {kind} <...>: {hint}"
        messages, _ = rows.setdefault((f"{kind}_not_found", "404"), ({}, ["store/exceptions.py"]))
        messages.setdefault(message)
    about = (
        "Every error reply has OpenAI's form: `error.code` is for programs, `error.message` says what is wrong and "
        "what to do. 429, 503 and 507 carry `Retry-After` in seconds. `x-should-retry` says whether to send the same "
        "request again. `true`: nothing was done. `false`: the reply will be the same. Where it is missing (500, 504), "
        "only the caller knows. A 503 `store_busy` without both headers means that the change may have been stored. "
        "`<...>` stands for a value."
    )
    listed = (
        (code(name), status, _describe(name, list(messages)), _where(files))
        for (name, status), (messages, files) in sorted(rows.items())
    )
    return page("Errors", about, [table("code | status | message | raised in", listed)])


def _where(files: list[str]) -> str:
    """Return the first file that raises a code, and whether there are others."""
    return code(files[0]) + (", and others" if len(set(files)) > 1 else "")


def _describe(name: str, messages: list[str]) -> str:
    """Return the messages of a code, one a line.

    Raises:
        ValueError: The code has no message that can be shown: add it to `PASSED_ON` or `DESCRIBED`.
    """
    if name in DESCRIBED:
        return DESCRIBED[name]
    if name in PASSED_ON:
        messages = [*_messages_of(*PASSED_ON[name]), *messages]
    if not messages or len(messages) > MAX_MESSAGES:
        raise ValueError(f"error code {name} has {len(messages)} messages: describe it in docs/_errors.py")
    return "<br>".join(messages)


def _messages_of(exception: str, file: str) -> list[str]:
    """Return the literal messages of the exceptions of this name that a file makes."""
    tree = ast.parse((SERVER / file).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == exception]
    return [text for call in calls if call.args and (text := _text(call.args[0]))]


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
        "WrongAdapterConfig": str(STATUS[Invalid]),
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
