"""Reads requests of OpenAI's Responses API as chat requests. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mindprint_server.chat.messages import reject_unsupported
from mindprint_server.exceptions import Invalid

_STATELESS = "this server stores no responses, so that one request is all it knows: send the whole input"
REFUSED: Mapping[str, str] = {
    "previous_response_id": f"previous_response_id is not taken: {_STATELESS}",
    "conversation": f"conversation is not taken: {_STATELESS}",
    "prompt": "prompt is not taken: this server stores no prompt templates; send instructions and input",
    "messages": "messages are not taken here: send input, or send them to /v1/chat/completions",
    "n": "n is not taken here: a response has one answer; /v1/chat/completions takes n",
}
"""Fields that are refused, each with the message for the caller."""
IGNORED = frozenset(
    {
        *("include", "max_tool_calls", "metadata", "prompt_cache_key", "prompt_cache_retention", "reasoning"),
        *("safety_identifier", "service_tier", "store", "stream_options", "text", "top_logprobs", "truncation", "user"),
        *("background", "input", "instructions", "max_output_tokens", "tools", "tool_choice"),
    }
)
"""Fields that do not reach the chat under their names: those that change nothing here, and those that are converted."""


def read_chat_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request of the Responses API as a chat request. Fields that it does not know are passed on.

    Args:
        body: The request.

    Raises:
        Invalid: It asks for what this server does not do, or an item of the input has a wrong form.
    """
    reject_unsupported(body, REFUSED)
    if body.get("background"):
        raise Invalid("validation_error", "background is not taken: leave it out, or stream", param="background")
    chat = {field: value for field, value in body.items() if field not in IGNORED and field not in REFUSED}
    chat["messages"] = _read_messages(body)
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if body.get("tools"):
        chat["tools"] = [_read_tool(tool) for tool in _items(body["tools"], "tools")]
        chat["tool_choice"] = _read_tool_choice(body.get("tool_choice", "auto"))
    if (response_format := _read_format(body.get("text"))) is not None:
        chat["response_format"] = response_format
    if body.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    return chat


def _read_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    given, instructions = body.get("input"), body.get("instructions")
    if not (instructions is None or isinstance(instructions, str)):
        raise Invalid("validation_error", "instructions must be a text", param="instructions")
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in _items(given, "input"):
        kind = item.get("type", "message")
        if kind == "reasoning":
            continue  # of an earlier response, sent back by the client
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            message = f"input takes no item of type {str(kind)[:40]!r}: send {', '.join(_READERS)}"
            raise Invalid("validation_error", message, param="input")
        _append(messages, read(item))
    return messages


def _append(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Add a message. Calls go to the assistant's turn before them, as chat templates read parallel calls."""
    last = messages[-1] if messages else {}
    if "tool_calls" in message and last.get("role") == "assistant":
        messages[-1] = {**last, "tool_calls": [*last.get("tool_calls", ()), *message["tool_calls"]]}
    else:
        messages.append(message)


def _items(value: object, field: str) -> list[dict[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return value
    wanted = "a text or a list of items" if field == "input" else "a list of objects"
    raise Invalid("validation_error", f"{field} must be {wanted}, and not empty", param=field)


def _read_message(item: Mapping[str, Any]) -> dict[str, Any]:
    content = item.get("content")
    if isinstance(content, list):
        content = [_read_part(part) for part in content]
    return {"role": item.get("role", "user"), "content": content}


def _read_part(part: Any) -> Any:
    """Return a part of a content as the chat has it. Texts have the same form in both."""
    if not isinstance(part, dict) or part.get("type") != "input_image":
        return part
    if not isinstance(part.get("image_url"), str):
        raise Invalid(
            "validation_error", "input: an input_image needs its image_url, as there are no files", param="input"
        )
    detail = {"detail": part["detail"]} if part.get("detail") is not None else {}
    return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}


def _read_call(item: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _read_call_output(item: Mapping[str, Any]) -> dict[str, Any]:
    output = item.get("output")
    if not isinstance(output, str | list):
        raise Invalid("validation_error", "input: the output of a function_call_output must be a text", param="input")
    return {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}


_READERS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_call_output,
}


def _read_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        message = f"tools takes none of type {str(tool.get('type'))[:40]!r}: send functions"
        raise Invalid("validation_error", message, param="tools")
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _read_tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def _read_format(text: Any) -> dict[str, Any] | None:
    given = text.get("format") if isinstance(text, dict) else None
    if not isinstance(given, dict) or given.get("type") == "text":
        return None
    if given.get("type") != "json_schema":
        return given
    if not isinstance(given.get("schema"), dict):
        raise Invalid("validation_error", "text.format of type json_schema needs its schema", param="text")
    schema = {name: value for name, value in given.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}
