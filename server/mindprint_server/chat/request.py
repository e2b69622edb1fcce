"""Reads a chat request: OpenAI's fields stay in the body, Mindprint's own are taken out of it. Pure."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mindprint.chat_format import SWITCH_NAMES
from mindprint.types import AskedMode, QueryKind
from mindprint.types.base import Choices
from mindprint.types.keys import ModelName
from mindprint_server.chat.bounds import check_lengths, check_numbers, read_answer_count
from mindprint_server.chat.messages import (
    last_question,
    parse_model_name,
    read_messages,
    read_mode,
    read_model,
    reject_unanswerable,
    reject_unsupported,
    remove_special_tokens,
)
from mindprint_server.exceptions import Invalid

REFUSED: Mapping[str, str] = {
    "functions": "functions are not taken: send tools, which took their place",
    "audio": "audio is not offered: this server answers with texts",
}
"""Fields of OpenAI's that would change the answer and that vLLM ignores, each with the message for the caller."""
OWN_FIELDS = ("mode", "choices", "thinking_temperature")
"""Fields that OpenAI's API and vLLM do not have."""
MAX_TEMPERATURE = 2.0
_ID = re.compile("[A-Za-z0-9._-]{1,64}")
_CHOICES: TypeAdapter[list[str]] = TypeAdapter(Choices)


@dataclass(frozen=True)
class ChatRequest:
    """A chat request that can be answered.

    Attributes:
        body: The request without Mindprint's fields, and without special tokens in its texts.
        messages: Its messages.
        model: Who is asked.
        mode: The mode that is asked for.
        choices: The answers that the question allows; None for an open question.
        thinking_temperature: Temperature of the thinking; None takes that of the answer.
        answers: Answers that are generated at once, `n`.
        is_streamed: Whether the answer is sent as an event stream.
        id: Identifies the completion.
        created: When it was asked for, in seconds since 1970.
    """

    body: Mapping[str, Any]
    messages: list[dict[str, Any]]
    model: ModelName
    mode: AskedMode
    choices: tuple[str, ...] | None
    thinking_temperature: float | None
    answers: int
    is_streamed: bool
    id: str
    created: int

    @property
    def kind(self) -> QueryKind:
        """Return the kind of the question, by which `mode: auto` decides."""
        return "open" if self.choices is None else "closed"

    @property
    def question(self) -> str:
        """Return the text of the last user's message."""
        return last_question(self.messages)


def read_request(
    body: Mapping[str, Any], *, special: Sequence[str], unsupported: Mapping[str, str], max_answers: int
) -> ChatRequest:
    """Read a chat request.

    Args:
        body: The request in OpenAI's form, with Mindprint's fields.
        special: Texts of the special tokens, which are removed.
        unsupported: `Engine.unsupported_fields`.
        max_answers: Most sequences that one request may ask for.

    Raises:
        NotFound: The name of the model has another form.
        Invalid: A value is wrong.
    """
    reject_unsupported(body, unsupported)
    reject_unsupported({field: body[field] for field in REFUSED if body.get(field)}, REFUSED)
    model, mode = read_model(body), _agreed_mode(read_mode(body.get("mode", "direct")), body)
    has_memory = parse_model_name(model)[0] is not None
    _refuse_prompts(body, has_memory=has_memory)
    choices, temperature = _read_choices(body), _read_thinking_temperature(body)
    cleaned = remove_special_tokens({k: v for k, v in body.items() if k not in OWN_FIELDS}, special)
    messages = read_messages(cleaned)
    check_lengths(cleaned)
    check_numbers(cleaned)
    if has_memory or mode != "direct":
        reject_unanswerable(messages)
    return ChatRequest(
        body=cleaned,
        messages=messages,
        model=model,
        mode=mode,
        choices=choices,
        thinking_temperature=temperature,
        answers=read_answer_count(cleaned, max_answers),
        is_streamed=read_stream(cleaned),
        id=check_id(cleaned) or uuid.uuid4().hex,
        created=int(time.time()),
    )


def _agreed_mode(mode: AskedMode, body: Mapping[str, Any]) -> AskedMode:
    """Return the mode of a request whose template arguments may ask for thinking, or for none, too.

    Raises:
        Invalid: Mode and arguments ask for different things.
    """
    if mode == "auto" and body.get("reasoning_effort") == "none":
        return "direct"
    given = body.get("chat_template_kwargs")
    for name in SWITCH_NAMES:
        value = given.get(name) if isinstance(given, Mapping) else None
        if value is None or bool(value) == (mode != "direct"):
            continue
        if mode == "auto":
            return "direct"
        thinks, cure = ("does not think", "generic") if mode == "direct" else ("thinks", "direct")
        message = (
            f"mode {mode} {thinks}, and chat_template_kwargs has {name}={json.dumps(value, default=str)[:40]}: "
            f"send mode {cure}, or leave {name} out"
        )
        raise Invalid("validation_error", message, param="chat_template_kwargs")
    return mode


def _read_choices(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    choices = body.get("choices")
    if choices is None:
        return None
    try:
        found = tuple(_CHOICES.validate_python(choices, strict=True))
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
        message = f"choices must be a list of 2 to 64 different texts ({detail}): leave it out for an open question"
        raise Invalid("validation_error", message, param="choices") from None
    if len(set(found)) < len(found):
        raise Invalid("validation_error", "choices holds a text twice: send each once", param="choices")
    return found


def _read_thinking_temperature(body: Mapping[str, Any]) -> float | None:
    value = body.get("thinking_temperature")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TEMPERATURE:
        message = f"thinking_temperature must be a number from 0 to {MAX_TEMPERATURE:g}: 0 is greedy"
        raise Invalid("validation_error", message, param="thinking_temperature")
    return float(value)


def read_stream(body: Mapping[str, Any]) -> bool:
    """Return whether a request asks for a stream.

    Raises:
        Invalid: `stream` is neither true nor false.
    """
    value = body.get("stream")
    if value is not None and not isinstance(value, bool):
        raise Invalid("validation_error", "stream must be true or false: send no text for it", param="stream")
    return bool(value)


def check_id(body: Mapping[str, Any]) -> str | None:
    """Return the caller's `request_id`, which vLLM takes.

    Raises:
        Invalid: It has another form.
    """
    value = body.get("request_id")
    if value is None or (isinstance(value, str) and _ID.fullmatch(value)):
        return value
    message = "request_id must be 1 to 64 letters, digits, '.', '_' or '-': leave it out for one of the server's"
    raise Invalid("validation_error", message, param="request_id")


def _refuse_prompts(body: Mapping[str, Any], *, has_memory: bool) -> None:
    """Refuse what would score the prompt, or show one that the user's memory is in."""
    if body.get("echo") and (body.get("logprobs") or body.get("top_logprobs")):
        message = "echo with logprobs is not taken in a chat: leave out one, or send them to /v1/completions"
        raise Invalid("validation_error", message, param="echo")
    for field in ("return_token_ids", "return_prompt_text"):
        if has_memory and body.get(field):
            message = f"{field} is not taken for user/… and cohort/… models: it would show the memory; leave it out"
            raise Invalid("validation_error", message, param=field)
