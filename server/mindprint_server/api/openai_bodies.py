"""The bodies of OpenAI's routes, as the OpenAPI description states them.

They name the usual fields. The routes take all fields of vLLM's request types: vLLM itself reads and checks the values.
"""

from __future__ import annotations

from typing import Any, get_args

from mindprint.types import AskedMode

MODEL = {
    "type": "string",
    "description": "`base`, `user/<id>` or `cohort/<name>`; the latter two may have `@<version>`",
}
MODE = {
    "type": "string",
    "enum": [*get_args(AskedMode)],
    "default": "direct",
    "description": "Whether the model thinks first: not, in general, about this user, or where it was shown to pay",
}
MESSAGES = {"type": "array", "minItems": 1, "items": {"type": "object"}, "description": "Messages in OpenAI's form"}
PROMPT = {
    "description": "A text, texts, token ids, or lists of token ids",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        {"type": "array", "minItems": 1, "items": {"type": "integer"}},
        {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 1, "items": {"type": "integer"}}},
    ],
}
INPUT = {
    "description": "A text, or messages and results of function calls",
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": {"type": "object"}}],
}
STREAM = {"type": "boolean", "default": False, "description": "Send the answer as server-sent events"}
SAMPLING = {"temperature": {"type": "number"}, "top_p": {"type": "number"}, "seed": {"type": "integer"}}
OPTIONS = {"type": "object", "description": "With `include_usage` the stream ends with the counts of tokens"}
STOP = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
COUNT = {"type": "integer", "default": 1, "description": "Number of answers"}

CHOICES = {
    "type": "array",
    "items": {"type": "string"},
    "description": "The answers that a closed question allows",
}
THINKING_TEMPERATURE = {"type": "number", "description": "Temperature of the thinking; without, that of the answer"}


def _body(*required: str, **fields: dict[str, Any]) -> dict[str, Any]:
    schema = {"required": list(required), "properties": {**fields, **SAMPLING, "stream": STREAM}}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


CHAT = _body(
    "model", "messages", model=MODEL, messages=MESSAGES, mode=MODE, n=COUNT, stop=STOP, stream_options=OPTIONS,
    max_completion_tokens={"type": "integer"}, max_tokens={"type": "integer"},
    logprobs={"type": "boolean"}, top_logprobs={"type": "integer"},
    choices=CHOICES, thinking_temperature=THINKING_TEMPERATURE,
    response_format={"type": "object"}, tools={"type": "array", "items": {"type": "object"}},
)  # fmt: skip
"""For `openapi_extra` of `POST /v1/chat/completions`."""
COMPLETION = _body(
    "model", "prompt", model=MODEL, prompt=PROMPT, n=COUNT, stop=STOP, stream_options=OPTIONS,
    max_tokens={"type": "integer", "default": 16, "description": "0 with `echo` writes nothing"},
    echo={"type": "boolean", "default": False, "description": "Put the prompt before the answer, with `logprobs`"},
    logprobs={"type": "integer", "description": "Number of the likeliest tokens to list at each place"},
)  # fmt: skip
"""For `openapi_extra` of `POST /v1/completions`."""
RESPONSE = _body(
    "model", "input", model=MODEL, input=INPUT, mode=MODE, instructions={"type": "string"},
    choices=CHOICES, thinking_temperature=THINKING_TEMPERATURE,
    max_output_tokens={"type": "integer"}, text={"type": "object"},
    tools={"type": "array", "items": {"type": "object"}},
)  # fmt: skip
"""For `openapi_extra` of `POST /v1/responses`."""
