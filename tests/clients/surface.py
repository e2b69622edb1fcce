"""What is asked of each client of OpenAI's API, and how a client's module says what it saw.

It runs in the environments of all clients, so it needs nothing but Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FEATURES = {
    "list_models": "list of models",
    "retrieve_model": "one model, with a slash in its name",
    "chat": "chat, whole",
    "chat_stream": "chat, streamed: the same text",
    "content_parts": "message in parts",
    "system_roles": "system and developer messages",
    "tool_turn": "a tool's turn last, after a call without content",
    "tools": "tools: a call is written",
    "two_answers": "`n`",
    "seed": "`seed`: twice the same",
    "logprobs": "`logprobs`",
    "json_schema": "`response_format` with a JSON schema",
    "stream_usage": "`stream_options.include_usage`",
    "max_completion_tokens": "`max_completion_tokens`",
    "personal": "`user/<id>` with `mode: personal`",
    "reasoning": "thinking seen, whole",
    "reasoning_stream": "thinking seen, streamed",
    "reasoning_tokens": "thinking counted in `usage`",
    "completions": "raw prompt, whole",
    "completions_stream": "raw prompt, streamed: the same text",
    "echo_logprobs": "raw prompt, `echo` with `logprobs`",
    "responses": "response, whole",
    "responses_stream": "response, streamed: the same text",
    "unknown_model": "unknown model: the client's own error",
    "bad_value": "bad value: the client's own error",
    "bench_chat": "bench of chats",
    "bench_completions": "bench of raw prompts",
}
"""Names of the functions of a client, and what a reader sees. A client lacks the functions that it cannot offer."""

QUESTION = "A walk by the lake?"
TEXT = "A walk by the lake"
PERSONAL: dict[str, Any] = {"mode": "personal"}
SCHEMA: dict[str, Any] = {
    "title": "place",
    "description": "Where to go",
    "type": "object",
    "properties": {"at": {"type": "string", "enum": ["lake"]}},
    "required": ["at"],
    "additionalProperties": False,
}
"""Has one value only, so that random weights can write it."""
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather", "parameters": SCHEMA, "strict": True},
}
"""Strict: without it vLLM 0.32 does not hold a call to the parameters, and random weights write `Infinity`."""
FORCED: dict[str, Any] = {"type": "function", "function": {"name": "weather"}}


@dataclass(frozen=True)
class Target:
    """A running server.

    Attributes:
        url: Its address, with `/v1`.
        tokenizer: Folder of the model's tokenizer.
        folder: Where a client may write.
    """

    url: str
    tokenizer: str
    folder: str

    @classmethod
    def from_environment(cls) -> Target:
        """Read what `environment` gave to this process."""
        return cls(*(os.environ[f"CLIENT_{name}"] for name in ("URL", "TOKENIZER", "FOLDER")))

    def environment(self) -> dict[str, str]:
        """Return the variables for a process that tries one client."""
        return {"CLIENT_URL": self.url, "CLIENT_TOKENIZER": self.tokenizer, "CLIENT_FOLDER": self.folder}


@dataclass(frozen=True)
class Refused:
    """The server refused what it does not offer, and the client said so with the server's words."""

    why: str


@dataclass(frozen=True)
class Partly:
    """The call was answered, but it does not show the feature whole."""

    why: str


class Failed(Exception):
    """A command of a client ended with an error. The text is the end of what it printed."""


def run(*command: str, cwd: Path | None = None, **environment: str) -> str:
    """Run a command of a client, and return what it printed.

    Args:
        command: Its words.
        cwd: Where it runs; None is this process's folder.
        environment: Variables in addition to those of this process.

    Raises:
        Failed: It ended with an error.
    """
    variables = os.environ | environment
    done = subprocess.run(
        command, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed((done.stderr.strip() or done.stdout.strip())[-1500:])
    return done.stdout.strip()


def script(name: str) -> str:
    """Return the path of a command in this environment."""
    return str(Path(sys.executable).parent / name)


def said(text: str | None) -> str:
    """Return a text that must be there."""
    assert text, f"no text: {text!r}"
    return text


def same(found: object, wanted: object) -> None:
    """Check that two answers are the same."""
    assert found == wanted, f"{found!r} is not {wanted!r}"


def must_fail(kind: type[Exception], word: str, call: Any, *args: Any, **body: Any) -> None:
    """Check that a call raises an error of a kind whose text holds a word of the server's."""
    try:
        call(*args, **body)
    except kind as error:
        message = str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert word in message, f"{word} is not in {message}"


def refused_without_parser(message: str) -> Refused:
    """Return the refusal of tools by a server without a parser; any other is a failure."""
    assert "tool_call_parser" in message, message
    return Refused("the server was started without a parser of tools")
