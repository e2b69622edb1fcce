"""Reads the messages of a chat request, and builds those for the model, in OpenAI's form. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mindprint.types import AskedMode, Mode
from mindprint.types.keys import MODEL_NAME_LENGTH, ModelName
from mindprint_server.chat.contents import check_messages, part_text, reject_other_parts
from mindprint_server.exceptions import Invalid, NotFound
from mindprint_server.prompts.templates import query_text, remove_special

SYSTEM_ROLES = ("system", "developer")
ANSWERED_ROLES = ("user", "tool", "function")
"""Roles of the last message where the model answers in its own turn."""
RENDERING = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "truncation",
    }
)
"""Arguments of transformers' `apply_chat_template` that are no variables of a template."""
MAX_SHOWN = 100
"""Characters of a wrong name that a message shows."""
TEXTS = ("messages", "tools", "documents", "chat_template_kwargs")
"""Fields whose texts a chat template may write into the prompt."""


def read_model(body: Mapping[str, Any]) -> ModelName:
    """Read the model's name from a request.

    Raises:
        NotFound: The name has not the form of a model's name.
    """
    model = body.get("model")
    try:
        if isinstance(model, str) and len(model) <= MODEL_NAME_LENGTH:
            return ModelName(model)
    except ValueError:
        pass
    message = (
        f"there is no model {shorten(model)}: model must be base, user/<id> or cohort/<name>, the latter two "
        "optionally with @<version>; GET /v1/models lists the base model and all that have an adapter"
    )
    raise NotFound("model_not_found", message, param="model")


def shorten(model: object) -> str:
    """Return what a request has as its model, for a message."""
    return repr(model) if model is None or len(repr(model)) <= MAX_SHOWN else f"{repr(model)[:MAX_SHOWN]}..."


def parse_model_name(model: str) -> tuple[str | None, str]:
    """Split a model's name into its kind (`user`, `cohort`, or None for the base model) and the name behind it."""
    key = ModelName(model).key
    return (None, model) if key is None else (key.kind, key.name)


def read_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the messages from a request.

    Raises:
        Invalid: See `check_messages`.
    """
    return check_messages(body.get("messages"))


def remove_special_tokens(body: Mapping[str, Any], special: Sequence[str]) -> dict[str, Any]:
    """Return the request without special tokens in the texts that a chat template writes into the prompt.

    Text parts of a content that follow each other become one text, so that none holds half a token.

    Args:
        body: The request.
        special: Texts of the special tokens.

    Raises:
        Invalid: Parts of a content, with other parts between them, hold a special token together.
    """
    cleaned = {field: _remove_special(value, special) if field in TEXTS else value for field, value in body.items()}
    messages = body.get("messages")
    if isinstance(messages, list):
        cleaned["messages"] = [_clean_message(message, special) for message in messages]
    return cleaned


def _clean_message(message: Any, special: Sequence[str]) -> Any:
    if not isinstance(message, dict):
        return _remove_special(message, special)
    content = message.get("content")
    joined = {**message, "content": join_text_parts(content)} if isinstance(content, list) else message
    cleaned: dict[str, Any] = _remove_special(joined, special)
    _reject_split_token(cleaned.get("content"), special)
    for call in _list(cleaned.get("tool_calls")):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            function["arguments"] = _clean_json(function["arguments"], special)
    return cleaned


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def join_text_parts(content: Sequence[Any]) -> str | list[Any]:
    """Return a content in which text parts that follow each other are one; a text where there are no other parts.

    Args:
        content: The parts of a message, in OpenAI's form.
    """
    runs: list[Any] = []
    for part in content:
        text = part_text(part)
        if text is None:
            runs.append(part)
        elif runs and isinstance(runs[-1], str):
            runs[-1] += f"\n{text}"  # vLLM puts the same between the texts of a content
        else:
            runs.append(text)
    if all(isinstance(run, str) for run in runs):
        return "".join(runs)
    return [{"type": "text", "text": run} if isinstance(run, str) else run for run in runs]


def _reject_split_token(content: Any, special: Sequence[str]) -> None:
    whole = "".join(part_text(part) or "" for part in _list(content))
    if remove_special(whole, special) != whole:
        message = "the text parts of a message hold a special token together: take it out"
        raise Invalid("validation_error", message, param="messages")


def _clean_json(text: str, special: Sequence[str]) -> str:
    """Return JSON text without special tokens. An escape can hide one until a template writes it."""
    try:
        parsed = json.loads(text)
        cleaned = _remove_special(parsed, special)
        return text if cleaned == parsed else json.dumps(cleaned, ensure_ascii=False)
    except RecursionError:
        return "{}"  # vLLM writes the same for what it cannot read
    except ValueError:
        return text


def _remove_special(value: Any, special: Sequence[str]) -> Any:
    if isinstance(value, str):
        return remove_special(value, special)
    if isinstance(value, list):
        return [_remove_special(item, special) for item in value]
    if isinstance(value, dict):
        return {remove_special(key, special): _remove_special(item, special) for key, item in value.items()}
    return value


def reject_unsupported(body: Mapping[str, Any], unsupported: Mapping[str, str]) -> None:
    """Reject fields that the engine cannot serve.

    Args:
        body: The request.
        unsupported: `Engine.unsupported_fields`.

    Raises:
        Invalid: The request sets such a field.
    """
    for field, message in unsupported.items():
        if body.get(field) is not None and body[field] is not False:
            raise Invalid("validation_error", message, param=field)


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as vLLM hands them to a chat template: known fields, and the arguments of tool calls as objects.

    Args:
        messages: The caller's messages, cleaned.

    Raises:
        Invalid: A content holds other parts than texts, or a tool call is no call of a function.
    """
    reject_other_parts(messages, "thinking modes, and direct answers of a model whose template opens a thinking,")
    return [_template_message(message) for message in messages]


def _template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    role = message.get("role", "user")
    made = {"role": role, "content": "" if message.get("content") is None else message["content"]}
    made |= {field: message[field] for field in ("name", "task") if isinstance(message.get(field), str)}
    if role == "tool" and "tool_call_id" in message:
        made["tool_call_id"] = message["tool_call_id"]
    if role == "assistant":
        if message.get("reasoning") is not None:
            made["reasoning"] = made["reasoning_content"] = message["reasoning"]
        if message.get("tool_calls"):
            made["tool_calls"] = [_template_call(call) for call in _list(message["tool_calls"])]
    return made


def _template_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) and call.get("type", "function") == "function" else None
    if not isinstance(function, dict):
        raise Invalid("validation_error", "tool_calls must be objects of type function", param="messages")
    return {**call, "function": {**function, "arguments": _read_object(function.get("arguments"))}}


def _read_object(value: Any) -> dict[str, Any]:
    """Return the arguments of a tool call. What is no JSON object becomes an empty one, so that a chat can go on."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def template_arguments(body: Mapping[str, Any], *, thinking: bool) -> dict[str, Any]:
    """Return the arguments that a request has for the chat template, without those that say how it is rendered.

    Args:
        body: The request.
        thinking: Whether the turn begins with a thinking. Only then OpenAI's `reasoning_effort` has a meaning.
    """
    given = body.get("chat_template_kwargs")
    arguments = (
        {name: value for name, value in given.items() if name not in RENDERING} if isinstance(given, dict) else {}
    )
    fields = ("tools", "documents", "reasoning_effort") if thinking else ("tools", "documents")
    return arguments | {name: value for name in fields if (value := body.get(name))}


def read_mode(value: object) -> AskedMode:
    """Read the `mode` of a request.

    Raises:
        Invalid: There is no such mode.
    """
    for mode in get_args(AskedMode):
        if value == mode:
            return mode  # type: ignore[no-any-return]
    raise Invalid("validation_error", "mode must be direct, generic, personal or auto", param="mode")


def reject_unanswerable(messages: Sequence[Mapping[str, Any]]) -> None:
    """Reject messages that thinking modes and `user/…` models cannot answer.

    Raises:
        Invalid: The messages end with another turn than a user's or a tool's, hold none of a user, or hold something
            else than texts.
    """
    reject_other_parts(messages, "thinking modes and user/… models")
    if messages[-1].get("role") not in ANSWERED_ROLES:
        roles = " or ".join(ANSWERED_ROLES)
        message = f"for user/… models and thinking modes the last message must be of role {roles}: add one"
        raise Invalid("validation_error", message, param="messages")
    if not any(message["role"] == "user" for message in messages):
        message = "for user/… models and thinking modes a message of role user must say what is asked: add one"
        raise Invalid("validation_error", message, param="messages")


def last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the last user's message."""
    return str(messages[_last_user(messages)]["content"])


def _last_user(messages: Sequence[Mapping[str, Any]]) -> int:
    return max(index for index, message in enumerate(messages) if message.get("role") == "user")


def add_mode_line(
    messages: Sequence[dict[str, Any]], mode: Mode, choices: Sequence[str] | None, special: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the messages with the mode's line in the last user's, as the prompt templates write a query.

    Turns of tools may follow it: a version has learned the line behind the question, not behind what a tool said.

    Args:
        messages: The caller's messages, see `reject_unanswerable`.
        mode: Mode of the answer.
        choices: The answers that the question allows; None lists none.
        special: Texts of the special tokens, which are removed.
    """
    index = _last_user(messages)
    asked = messages[index]
    text = query_text(asked["content"], choices, mode, special)
    return [*messages[:index], {**asked, "content": text}, *messages[index + 1 :]]


def prepend_memory(messages: Sequence[dict[str, Any]], memory: str) -> list[dict[str, Any]]:
    """Put the memory before the caller's system message, so that the requests of a user share its beginning."""
    if messages[0].get("role") in SYSTEM_ROLES:
        system, rest = messages[0]["content"], messages[1:]
        return [{"role": "system", "content": f"{memory}\n\n{system}"}, *rest]
    return [{"role": "system", "content": memory}, *messages]


def build_messages(
    messages: list[dict[str, Any]],
    mode: Mode,
    memory: str | None,
    choices: Sequence[str] | None,
    special: Sequence[str],
) -> list[dict[str, Any]]:
    """Build the messages that the model reads: memory, the caller's messages, and the line of the mode.

    Args:
        messages: The caller's messages.
        mode: Mode of the answer.
        memory: Text of the memory. None for the base model, whose direct questions stay as they are.
        choices: The answers that the question allows; None lists none.
        special: Texts of the special tokens, which are removed.
    """
    if memory is None:
        return messages if mode == "direct" else add_mode_line(messages, mode, choices, special)
    return prepend_memory(add_mode_line(messages, mode, choices, special), memory)
