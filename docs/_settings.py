"""Render the pages of settings from the classes of settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from _markdown import code, docstring, field_docs, json_type, page, table

DECISIONS = Path(__file__).resolve().parent / "decisions"
EXAMPLE_TOML = """\
model = "/models/my-model"
data_dir = "/var/lib/mindprint"
max_model_len = 8192
max_thinking_tokens = 256
answer_prefix = ""
thinking_prefixes = {}
start_from = "base"
"""


def settings_server() -> str:
    """Render the server's settings."""
    from mindprint_server.settings import Settings

    about = (
        "Each setting has a default. A TOML file (`mindprint.toml` in the working folder, or `--config FILE`) "
        "overrides it, an environment variable overrides the file, and a flag overrides the variable: `mindprint serve "
        "--set NAME=VALUE`. In variables and flags, lists, objects and `null` are written as JSON. `mindprint serve "
        "--print-config` shows the values in use.\n\n"
        f"An example of `mindprint.toml`:\n\n```toml\n{EXAMPLE_TOML}```\n\n"
        "Change these first: `model`, `max_model_len`, `max_thinking_tokens`, `thinking_prefixes` and `answer_prefix` "
        "([Choose a base model](../how-to/choose-a-base-model.md)); `data_dir`; `kv_cache_gib` "
        "([Sizing](../operations/sizing.md)); `start_from` and `cohort_min_traces` "
        "([Use cohorts](../how-to/cohorts.md)); `min_gain` and `min_anchor` "
        "([Tune acceptance](../how-to/tune-acceptance.md))."
    )
    return page("Server settings", about, _settings(Settings))


def vllm_options() -> str:
    """Render the options of vLLM that `engine_args` may not set."""
    from mindprint_server.engine.vllm_options import CHAT_OPTIONS
    from mindprint_server.settings.engine_args import DECIDED

    about = (
        "`engine_args` passes options of `vllm serve` on to vLLM ([Pass options to vLLM]"
        "(../how-to/pass-options-to-vllm.md)): all arguments of its engine, and those of its chat routes in the first "
        "table. The second table names what Mindprint decides itself. What these options mean is in "
        "[vLLM's own reference](https://docs.vllm.ai/en/latest/cli/serve/)."
    )
    chat = table("option of the chat routes", ((code(name),) for name in sorted(CHAT_OPTIONS)))
    decided = table("option that is refused | what to do", ((code(name), DECIDED[name]) for name in sorted(DECIDED)))
    return page("Options of vLLM", about, [chat, decided])


def settings_trainer() -> str:
    """Render the trainer's settings."""
    from mindprint_trainer.settings import Settings

    about = (
        "Each setting has a default. An environment variable overrides it, and a flag overrides the variable: "
        "`mindprint train --set NAME=VALUE`. There is no settings file. `mindprint train --print-config` shows the "
        "values in use.\n\n"
        "An example: `MINDPRINT_TRAIN_LEARNING_RATE=1e-4 mindprint train --set epochs=3`.\n\n"
        "Change these first: `learning_rate`, `rank` and `epochs` "
        "([Choose a base model](../how-to/choose-a-base-model.md)); `min_traces`; `max_concurrent_adapters` "
        "([Run many trainers](../how-to/run-many-trainers.md))."
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
        rows.append((shown, meaning, json_type(schema[name]) or "text", code(_value(field))))
    return table("setting, environment variable | meaning | type | default", rows)


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
