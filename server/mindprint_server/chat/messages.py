"""What goes into a chat answer and comes out of it, in OpenAI's shapes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mindprint.types import AskedMode, Mode
from mindprint.types.keys import MODEL_NAME_LENGTH, ModelName
from mindprint_server.exceptions import Invalid, NotFound
from mindprint_server.prompts.templates import query_text


def model_of(body: Mapping[str, Any]) -> ModelName:
    """Raises NotFound for what can be no model's name."""
    model = body.get("model")
    try:
        if isinstance(model, str) and len(model) <= MODEL_NAME_LENGTH:
            return ModelName(model)
    except ValueError:
        pass
    message = "model must be base, user/<id> or cohort/<name>, the latter two optionally with @<version>"
    raise NotFound("model_not_found", message, param="model")


def whose(model: str) -> tuple[str | None, str]:
    """Kind (user, cohort, or None for the base) and name of a model."""
    key = ModelName(model).key
    return (None, model) if key is None else (key.kind, key.name)


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Raises Invalid if there is none."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise Invalid("validation_error", "messages must be a list of at least one message", param="messages")
    return messages


def refuse(body: Mapping[str, Any]) -> None:
    """Raises Invalid for what would end the engine for everybody: on CPU, vLLM dies of the log-probabilities of two
    prompts in one step when it serves adapters (docs/decisions/005)."""
    if body.get("prompt_logprobs") is not None:
        message = "prompt_logprobs are not offered: ask for logprobs of the answer"
        raise Invalid("validation_error", message, param="prompt_logprobs")


def mode_of(value: object) -> AskedMode:
    for mode in get_args(AskedMode):
        if value == mode:
            return mode  # type: ignore[no-any-return]
    raise Invalid("validation_error", "mode must be direct, generic, personal or auto", param="mode")


def asked(messages: Sequence[dict[str, Any]], mode: Mode, special: Sequence[str]) -> list[dict[str, Any]]:
    """The last message as the prompt builder would ask it. Raises Invalid if it is not a user's text."""
    last = messages[-1]
    if last.get("role") != "user" or not isinstance(last.get("content"), str):
        message = "for user/… models and thinking modes the last message must be of role user, with text content"
        raise Invalid("validation_error", message, param="messages")
    if not all(isinstance(m.get("content"), str) and isinstance(m.get("role"), str) for m in messages):
        raise Invalid("validation_error", "every message needs a role and text content", param="messages")
    return [*messages[:-1], {**last, "content": query_text(last["content"], None, mode, special)}]


def remembered(messages: Sequence[dict[str, Any]], memory: str) -> list[dict[str, Any]]:
    """Memory first, then the caller's own system message, for the memory is what requests of a user share."""
    if messages[0].get("role") == "system":
        own, rest = messages[0]["content"], messages[1:]
        return [{"role": "system", "content": f"{memory}\n\n{own}"}, *rest]
    return [{"role": "system", "content": memory}, *messages]


def turn(
    messages: list[dict[str, Any]], mode: Mode, memory: str | None, special: Sequence[str]
) -> list[dict[str, Any]]:
    """What the model reads: the caller's messages with the memory before them, and the mode's line at their end.

    Without memory (None: the base is asked) a direct question stays as it is.
    """
    if memory is None:
        return messages if mode == "direct" else asked(messages, mode, special)
    return remembered(asked(messages, mode, special), memory)


def with_thought(answer: dict[str, Any], thought: str, made_by: dict[str, Any]) -> dict[str, Any]:
    """A whole answer with `reasoning_content` beside its content and `mindprint`, what made it."""
    for choice in answer.get("choices", []):
        if thought:
            choice["message"]["reasoning_content"] = thought
        if isinstance(choice["message"].get("content"), str):
            choice["message"]["content"] = choice["message"]["content"].lstrip()
    return {**answer, "mindprint": made_by}


def first_chunk(line: str, thought: str, made_by: dict[str, Any]) -> str:
    """The first line of an event stream, likewise; a line that holds no chunk stays as it is."""
    head, _, data = line.partition("data: ")
    try:
        chunk = json.loads(data)
    except ValueError:
        return line
    if head or not isinstance(chunk, dict) or "error" in chunk:
        return line
    for choice in chunk.get("choices", []):
        if thought:
            choice["delta"]["reasoning_content"] = thought
    return f"data: {json.dumps({**chunk, 'mindprint': made_by}, ensure_ascii=False)}\n\n"
