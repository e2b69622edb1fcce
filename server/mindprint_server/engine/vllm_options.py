"""The setting `engine_args`: options of `vllm serve`, read as its own command line reads them.

vLLM's parser says which options there are, of what type, and with which choices. Mindprint sorts them: some go to the
engine, some to the chat routes. The others belong to vLLM's HTTP server, which does not run here.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

CHAT_OPTIONS = frozenset(
    {
        "chat_template_content_format",
        "enable_auto_tool_choice",
        "enable_force_include_usage",
        "enable_prompt_tokens_details",
        "exclude_tools_when_tool_choice_none",
        "fingerprint_mode",
        "fingerprint_value",
        "response_role",
        "return_tokens_as_token_ids",
        "tool_call_parser",
        "tool_parser_plugin",
        "tool_strict_level",
        "trust_request_chat_template",
        "trust_request_mm_kwargs",
    }
)
"""Options that vLLM's command line has for its chat routes, and not for its engine."""
SWITCHES: Mapping[str, bool] = {"true": True, "false": False}
_FLAG = re.compile(r"--([a-z][a-z0-9-]*)")


class WrongOption(ValueError):
    """An option of `engine_args` is unknown, or has a wrong value."""


@dataclass(frozen=True)
class VllmOptions:
    """Options with the types that vLLM gives them.

    Attributes:
        engine: Arguments of vLLM's `AsyncEngineArgs`.
        chat: Arguments of its chat routes.
    """

    engine: Mapping[str, Any] = field(default_factory=dict)
    chat: Mapping[str, Any] = field(default_factory=dict)


def serve_parser() -> argparse.ArgumentParser:
    """Build the parser of `vllm serve`."""
    try:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    except ImportError:  # before 0.31
        from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser())
    return parser


def read_vllm_options(given: Mapping[str, Any]) -> VllmOptions:
    """Read `engine_args` with the installed vLLM.

    Args:
        given: Values by the names of vLLM's Python, from the settings.

    Raises:
        WrongOption: vLLM has no such option, or it has another type, or no such parser of tools or reasoning.
    """
    if not given:
        return VllmOptions()
    from vllm.engine.arg_utils import AsyncEngineArgs

    names = {one.name for one in fields(AsyncEngineArgs)}
    options = sort_options(given, known_options(serve_parser()._actions), names)
    _check_parsers(options)
    return options


def known_options(actions: Iterable[argparse.Action]) -> dict[str, argparse.Action]:
    """Return options of a command line by their long names, written with `_`. `--no-…` is no option of its own."""
    found = {
        flag.removeprefix("--").replace("-", "_"): action
        for action in actions
        for flag in action.option_strings
        if flag.startswith("--") and action.dest != "help"
    }
    return {name: action for name, action in found.items() if not _negates(name, found)}


def _negates(name: str, known: Mapping[str, argparse.Action]) -> bool:
    positive = name.removeprefix("no_")
    return positive != name and known.get(positive) is known[name]


def sort_options(
    given: Mapping[str, Any], known: Mapping[str, argparse.Action], engine: Collection[str]
) -> VllmOptions:
    """Give options the types of the command line, and say what each belongs to.

    Args:
        given: Values by name: texts, or what TOML and JSON hold.
        known: The options of the command line, from `known_options`.
        engine: Names of the engine's arguments.

    Raises:
        WrongOption: An option is unknown, has a wrong value, or belongs to vLLM's HTTP server.
    """
    for_engine: dict[str, Any] = {}
    for_chat: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise WrongOption(f"vLLM has no option {name}{_closest(name, known)}")
        option = known[name]
        if option.dest in CHAT_OPTIONS:
            for_chat[option.dest] = read_value(name, option, value)
        elif option.dest in engine:
            for_engine[option.dest] = read_value(name, option, value)
        else:
            raise WrongOption(f"{name} is an option of vLLM's HTTP server, which Mindprint does not run: take it out")
    return VllmOptions(for_engine, for_chat)


def _closest(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else ": `vllm serve --help=all` lists its options"


def read_value(name: str, option: argparse.Action, value: Any) -> Any:
    """Return a value with the type of its option.

    Args:
        name: Name of the option, for messages.
        option: The option in vLLM's parser.
        value: A text, or what TOML and JSON hold.

    Raises:
        WrongOption: The value has another type, or is none of the option's choices.
    """
    if option.nargs == 0:
        return _switch(name, value)
    if option.nargs == "?" and (value is True or value == "true"):
        return option.const
    if option.nargs is None or option.nargs == "?":
        return _one(name, option, value)
    values = value
    if isinstance(value, str):
        values = _json(name, value) if value.startswith("[") else [value]
    if not isinstance(values, list) or not values:
        raise WrongOption(f'{name} takes a list: write it like ["a", "b"]')
    return [_one(name, option, one) for one in values]


def _switch(name: str, value: Any) -> bool:
    found = SWITCHES.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise WrongOption(f"{name} takes true or false, not {value!r}")
    return found


def _one(name: str, option: argparse.Action, value: Any) -> Any:
    if isinstance(value, list):
        raise WrongOption(f"{name} takes one value, not a list")
    text = value if isinstance(value, str) else json.dumps(value)
    read: Callable[[str], Any] = option.type if callable(option.type) else str
    try:
        found = read(text)
    except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
        raise WrongOption(f"{name} cannot be {text!r}: {error}") from error
    if option.choices is not None and found not in option.choices:
        choices = ", ".join(str(choice) for choice in option.choices if choice is not None)
        raise WrongOption(f"{name} cannot be {text!r}: it is one of {choices}")
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise WrongOption(f"{name} holds wrong JSON ({error})") from error


def _check_parsers(options: VllmOptions) -> None:
    """Import plugins with parsers, and check the names of parsers, as `vllm serve` does before it loads a model."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    if plugin := options.chat.get("tool_parser_plugin"):
        ToolParserManager.import_tool_parser(plugin)
    if plugin := options.engine.get("reasoning_parser_plugin"):
        ReasoningParserManager.import_reasoning_parser(plugin)
    tool_parser = options.chat.get("tool_call_parser")
    if options.chat.get("enable_auto_tool_choice") and not tool_parser:
        raise WrongOption("enable_auto_tool_choice needs a parser: set tool_call_parser too")
    for name, parser, parsers in (
        ("tool_call_parser", tool_parser, ToolParserManager.list_registered()),
        ("reasoning_parser", options.engine.get("reasoning_parser"), ReasoningParserManager.list_registered()),
    ):
        if parser and parser not in parsers:
            raise WrongOption(f"{name} cannot be {parser!r}: it is one of {', '.join(sorted(parsers))}")


def explain_flags(message: str) -> str:
    """Return a message of vLLM, with how to set in Mindprint the flags that it names."""
    names = [flag.replace("-", "_") for flag in _FLAG.findall(message)]
    ours = [name for name in dict.fromkeys(names) if name in CHAT_OPTIONS]
    if not ours:
        return message
    return f"{message}: start the server with {' '.join(f'--engine-arg {name}=…' for name in ours)}"
