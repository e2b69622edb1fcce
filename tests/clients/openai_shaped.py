"""What holds for clients in Python that return OpenAI's objects. They differ in how they are called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from surface import (
    FORCED,
    PERSONAL,
    QUESTION,
    SCHEMA,
    TEXT,
    TOOL,
    Refused,
    must_fail,
    refused_without_parser,
    said,
    same,
)

ASK: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8}
GREEDY: dict[str, Any] = ASK | {"temperature": 0}
OWN: dict[str, Any] = GREEDY | {"model": "user/ann", "max_tokens": 40, "extra_body": PERSONAL}
RAW: dict[str, Any] = {"model": "base", "prompt": TEXT, "max_tokens": 6, "temperature": 0}
INPUT: dict[str, Any] = {"model": "base", "input": QUESTION, "max_output_tokens": 16, "temperature": 0}
"""Sixteen is OpenAI's least, to which LiteLLM raises a lower number."""
CALL = {"id": "call1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "lake"}'}}


class OpenAIShaped:
    """The features of a client. A subclass says how the client is called."""

    bad_request: type[Exception]
    not_found: type[Exception]

    def ask(self, *, model: str, **body: Any) -> Any:
        """Return a whole chat completion, or the chunks of one."""
        raise NotImplementedError

    def complete(self, *, model: str, **body: Any) -> Any:
        """Return a whole text completion, or the chunks of one."""
        raise NotImplementedError

    def respond(self, *, model: str, **body: Any) -> Any:
        """Return a whole response, or its events."""
        raise NotImplementedError

    def _text(self, **body: Any) -> str:
        return said(self.ask(**body).choices[0].message.content)

    def _deltas(self, **body: Any) -> Iterator[Any]:
        for chunk in self.ask(**body, stream=True):
            for choice in chunk.choices:
                yield choice.delta

    def chat(self) -> None:
        answer = self.ask(**ASK)
        said(answer.choices[0].message.content)
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert 0 < answer.usage.completion_tokens <= 8

    def chat_stream(self) -> None:
        pieces = [delta.content or "" for delta in self._deltas(**GREEDY)]
        assert len([piece for piece in pieces if piece]) > 1
        same("".join(pieces), self._text(**GREEDY))

    def content_parts(self) -> None:
        parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
        same(self._text(**GREEDY | {"messages": parts}), self._text(**GREEDY))

    def system_roles(self) -> None:
        for role in ("system", "developer"):
            said(self._text(**GREEDY | {"messages": [{"role": role, "content": "Be brief."}, *ASK["messages"]]}))

    def tool_turn(self) -> None:
        turns = [
            *ASK["messages"],
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call1", "content": "sunny"},
        ]
        for model in ("base", "user/ann"):
            said(self._text(**GREEDY | {"model": model, "messages": turns}))

    def tools(self) -> Refused | None:
        try:
            answer = self.ask(**GREEDY | {"tools": [TOOL], "tool_choice": FORCED, "max_tokens": 120})
        except self.bad_request as error:
            return refused_without_parser(str(error))
        [call] = answer.choices[0].message.tool_calls
        same((call.function.name, json.loads(call.function.arguments)), ("weather", {"at": "lake"}))
        return None

    def two_answers(self) -> None:
        same([choice.index for choice in self.ask(**ASK, n=2).choices], [0, 1])

    def seed(self) -> None:
        body = ASK | {"temperature": 1, "seed": 7}
        same(self._text(**body), self._text(**body))

    def logprobs(self) -> None:
        tokens = self.ask(**GREEDY, logprobs=True, top_logprobs=2).choices[0].logprobs.content
        assert [len(token.top_logprobs) for token in tokens] == [2] * 8
        assert all(token.logprob <= 0 for token in tokens)

    def json_schema(self) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
        same(json.loads(self._text(**GREEDY | {"response_format": wanted, "max_tokens": 60})), {"at": "lake"})

    def stream_usage(self) -> None:
        *_, last = self.ask(**GREEDY, stream=True, stream_options={"include_usage": True})
        same(last.usage.completion_tokens, self.ask(**GREEDY).usage.completion_tokens)

    def max_completion_tokens(self) -> None:
        body = {name: value for name, value in GREEDY.items() if name != "max_tokens"}
        same(self.ask(**body, max_completion_tokens=5).usage.completion_tokens, 5)

    def personal(self) -> None:
        said(self.ask(**OWN).choices[0].message.content)

    def reasoning(self) -> None:
        said(thinking_of(self.ask(**OWN).choices[0].message))

    def reasoning_stream(self) -> None:
        pieces = [thinking_of(delta) or "" for delta in self._deltas(**OWN)]
        assert len([piece for piece in pieces if piece]) > 1
        same("".join(pieces), thinking_of(self.ask(**OWN).choices[0].message))

    def reasoning_tokens(self) -> None:
        usage = self.ask(**OWN).usage
        assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens

    def completions(self) -> None:
        answer = self.complete(**RAW)
        said(answer.choices[0].text)
        same(answer.usage.completion_tokens, 6)

    def completions_stream(self) -> None:
        chunks = list(self.complete(**RAW, stream=True))
        pieces = [choice.text or "" for chunk in chunks for choice in chunk.choices]
        assert len([piece for piece in pieces if piece]) > 1
        same("".join(pieces), self.complete(**RAW).choices[0].text)

    def echo_logprobs(self) -> None:
        choice = self.complete(**RAW, echo=True, logprobs=1).choices[0]
        assert choice.text.startswith(TEXT)
        first, *rest = choice.logprobs.token_logprobs
        assert first is None
        assert len(rest) > 6
        assert all(value <= 0 for value in rest)

    def responses(self) -> None:
        answer = self.respond(**INPUT)
        same(output_text(answer), self._text(**GREEDY | {"max_tokens": 16}))
        same(answer.usage.output_tokens, 16)

    def responses_stream(self) -> None:
        events = list(self.respond(**INPUT, stream=True))
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert len(pieces) > 1
        same("".join(pieces), output_text(self.respond(**INPUT)))
        assert events[-1].type in ("response.completed", "response.incomplete")

    def unknown_model(self) -> None:
        must_fail(self.not_found, "model must be", self.ask, **ASK | {"model": "gpt-4"})

    def bad_value(self) -> None:
        must_fail(self.bad_request, "temperature", self.ask, **ASK | {"temperature": -3})


def thinking_of(message: Any) -> str | None:
    """Return the thinking of a message or delta, under either name."""
    found: str | None = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return found


def output_text(answer: Any) -> str:
    """Return the text of a response."""
    return "".join(part.text for item in answer.output if item.type == "message" for part in item.content)
