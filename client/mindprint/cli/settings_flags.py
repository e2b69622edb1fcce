"""Make the settings of a process from flags and `--set`, and print them as TOML."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr, ValidationError

from mindprint.cli.errors import Fail, missing_extra
from mindprint.streaming import first

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings


def part(module: str, what: str, extra: str) -> Any:
    """Import a module of the server, trainer, evaluation or demo by its name, for `mindprint` does not depend on them.

    Args:
        module: Full name of the module.
        what: The part of Mindprint, for the message if it is not installed.
        extra: The extras that install it.

    Raises:
        Fail: A package that it needs is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing_extra(what, extra, error) from error


def parse_sets(sets: Iterable[str] | None) -> dict[str, Any]:
    """Parse `--set NAME=VALUE` items; lists, objects and null are JSON.

    `["port=80", "thinking_prefixes={}"]` becomes `{"port": "80", "thinking_prefixes": {}}`.

    Raises:
        Fail: An item is no NAME=VALUE, or holds wrong JSON.
    """
    found: dict[str, Any] = {}
    for item in sets or ():
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise Fail(f"--set {item!r} is no NAME=VALUE: write it like --set port=8301", code=2)
        found[name.strip().replace("-", "_")] = _value(item, value)
    return found


def parse_engine_args(items: Iterable[str] | None) -> dict[str, str] | None:
    """Parse `--engine-arg NAME=VALUE` items. `["kv-cache-dtype=fp8"]` becomes `{"kv_cache_dtype": "fp8"}`.

    Returns:
        The values as texts, for vLLM knows their types; None if there are none.

    Raises:
        Fail: An item is no NAME=VALUE, or a name is there twice.
    """
    found: dict[str, str] = {}
    for item in items or ():
        written, equals, value = item.partition("=")
        name = written.strip().removeprefix("--").replace("-", "_")
        if not equals or not name:
            raise Fail(f"--engine-arg {item!r} is no NAME=VALUE: write it like --engine-arg kv_cache_dtype=fp8", code=2)
        if name in found:
            raise Fail(f"--engine-arg {name} is there twice: keep one", code=2)
        found[name] = value
    return found or None


def build(
    kind: type[BaseSettings], wanted: Mapping[str, Any], *, config: Path | None = None, command: str
) -> BaseSettings:
    """Build settings. Values in `wanted` override the environment, and the environment overrides the file.

    Args:
        kind: The class of the settings.
        wanted: Values of flags, by the name of the setting.
        config: A TOML file in place of the default one.
        command: The command, for messages.

    Raises:
        Fail: A setting is unknown or wrong.
    """
    from pydantic_settings import SettingsError

    if config is not None:
        kind = type(kind.__name__, (kind,), {"model_config": {"toml_file": config}, "__module__": kind.__module__})
    try:
        return kind(**wanted)
    except ValidationError as error:
        unknown = error.errors()[0]["type"] == "extra_forbidden"
        message = f"{error.errors()[0]['loc'][0]}: there is no such setting" if unknown else first(error)
        raise Fail(f"setting {message} (`mindprint {command} --print-config` lists them)", code=2) from error
    except SettingsError as error:
        raise Fail(f"the environment holds a wrong setting: {error}", code=2) from error
    except tomllib.TOMLDecodeError as error:
        raise Fail(f"{config or 'mindprint.toml'} is no TOML: {error}", code=2) from error


def as_toml(settings: BaseSettings) -> str:
    """Return all settings as a configuration file. What is not set or is secret becomes a comment."""
    return "".join(_line(name, getattr(settings, name)) for name in type(settings).model_fields)


def _line(name: str, value: Any) -> str:
    if value is None:
        return f"# {name} is not set\n"
    if isinstance(value, SecretStr):
        return f"# {name} is set and not shown\n"
    return f"{name} = {_toml(value)}\n"


def _toml(value: Any) -> str:
    """Strings, numbers and booleans are written in TOML as in JSON. TOML has no null: a value of a table is "none"."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if value is None:
        return json.dumps("none")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple | set):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _value(item: str, value: str) -> Any:
    if value != "null" and not value.startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Fail(f"--set {item!r} holds wrong JSON ({error})", code=2) from error
