"""What vLLM says about a wrong request, and what its caller reads. vLLM's errors and types are scripted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from mindprint_server.engine import vllm_errors
from mindprint_server.exceptions import BackendRefused


class VLLMValidationError(ValueError):
    """As vLLM 0.32 has it: the field stands in the text, too."""

    def __init__(self, message: str, *, parameter: str | None = None, value: Any = None) -> None:
        super().__init__(message)
        self.parameter, self.value = parameter, value

    def __str__(self) -> str:
        shown = f" (parameter={self.parameter}, value={self.value})" if self.parameter else ""
        return super().__str__() + shown


class Developer(BaseModel):
    role: Literal["developer"]
    content: str | list[str]


class Tool(BaseModel):
    role: Literal["tool"]
    content: str
    tool_call_id: str


class Format(BaseModel):
    type: Literal["text", "json"]


class Asked(BaseModel):
    messages: list[Developer | Tool] = []
    response_format: Format | None = None
    stop: str | list[str] | None = None
    prompt: list[int] | None = None


def complaint(body: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(ValidationError) as told:
        Asked.model_validate(body)
    return vllm_errors.describe(told.value, body)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"stop": 5}, "stop", "stop: input should be a valid string"),
        ({"stop": ["a", 5]}, "stop", "stop: input should be a valid string"),
        ({"prompt": [1, "x"]}, "prompt[1]", "prompt[1]: input should be a valid integer"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "response_format.type: input should be 'text'"),
        ({"response_format": {}}, "response_format.type", "response_format.type: field required"),
        (
            {"messages": [{"role": "developer", "content": None}]},
            "messages[0].content",
            "messages[0].content: input should be a valid string",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id",
            "messages[0].tool_call_id: field required",
        ),
    ],
)
def test_a_field_is_named_as_callers_write_it(body: dict[str, Any], param: str, message: str) -> None:
    """Not `messages.0.Developer.content.str`, nor that a tool's message should be a developer's."""
    said, field = complaint(body)
    assert field == param
    assert said.startswith(message)


def test_a_part_that_vllm_reads_late_is_one_of_messages_and_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as told:
        Tool.model_validate({"role": "tool", "content": ["private"], "tool_call_id": "1"})
    refused = vllm_errors.refusal_of(told.value, {"content": "other"})
    assert refused.param == "messages"
    assert refused.message == "a part of messages has a wrong form (content: input should be a valid string)"


@pytest.mark.parametrize(
    ("error", "param", "message"),
    [
        (
            VLLMValidationError("max_tokens must be at least 1, got 0.", parameter="max_tokens", value=0),
            "max_tokens",
            "max_tokens must be at least 1, got 0.",
        ),
        (ValueError("stop cannot contain an empty string."), "stop", "stop cannot contain an empty string."),
        (ValueError("nothing of the kind"), None, "nothing of the kind"),
        (
            ValueError("bad key (parameter=logit_bias, value=['x (y)'])"),
            "logit_bias",
            "bad key",
        ),
    ],
)
def test_a_refusal_names_the_field_apart(error: Exception, param: str | None, message: str) -> None:
    refused = vllm_errors.refusal_of(error, {"stop": "", "max_tokens": 0})
    assert (refused.status, refused.param, refused.message) == (400, param, message)


def test_an_unreadable_request_names_the_field_apart() -> None:
    error = VLLMValidationError("Stream options need a stream.", parameter="stream_options")
    refused = vllm_errors.unreadable(error, {})
    assert (refused.param, refused.message) == (
        "stream_options",
        "the request cannot be read: Stream options need a stream.",
    )


def test_a_reply_that_is_an_error_is_raised() -> None:
    vllm_errors.raise_error(SimpleNamespace(choices=[]), {})
    error = SimpleNamespace(message="n must be 1", type="BadRequestError", param=None, code=400)
    with pytest.raises(BackendRefused, match="n must be 1") as refused:
        vllm_errors.raise_error(SimpleNamespace(error=error), {"n": 2})
    assert (refused.value.status, refused.value.param) == (400, "n")
