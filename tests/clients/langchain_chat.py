"""LangChain's `ChatOpenAI` and `OpenAI`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from langchain_openai import OpenAI as CompletionOpenAI

from surface import (
    FORCED,
    PERSONAL,
    QUESTION,
    SCHEMA,
    TEXT,
    TOOL,
    Partly,
    Refused,
    Target,
    must_fail,
    refused_without_parser,
    said,
    same,
)

ONLY_IN_RESPONSES = Partly("only with `use_responses_api=True`: `ChatOpenAI` drops the field `reasoning` of a chat")
PACKAGES = ("langchain-openai", "langchain-core", "openai")


class Client:
    """LangChain's models of a server."""

    def __init__(self, target: Target) -> None:
        self._where: dict[str, Any] = {"base_url": target.url, "api_key": "none", "max_retries": 0, "timeout": 300}

    def close(self) -> None:
        """Close nothing: LangChain keeps its connections itself."""

    def _chat(self, **options: Any) -> Any:
        return ChatOpenAI(**{"model": "base", "max_tokens": 8, "temperature": 0, **self._where, **options})

    def _own(self, **options: Any) -> Any:
        return self._chat(model="user/ann", max_tokens=40, extra_body=PERSONAL, **options)

    def _raw(self) -> Any:
        return CompletionOpenAI(model="base", max_tokens=6, temperature=0, **self._where)

    def chat(self) -> None:
        answer = self._chat().invoke(QUESTION)
        said(answer.content)
        same(answer.usage_metadata["output_tokens"], 8)

    def chat_stream(self) -> None:
        same_stream(self._chat(), QUESTION, lambda chunk: chunk.content)

    def content_parts(self) -> None:
        parts = [HumanMessage([{"type": "text", "text": QUESTION}])]
        same(self._chat().invoke(parts).content, self._chat().invoke(QUESTION).content)

    def system_roles(self) -> None:
        for more in ({}, {"additional_kwargs": {"__openai_role__": "developer"}}):
            said(self._chat().invoke([SystemMessage("Be brief.", **more), HumanMessage(QUESTION)]).content)

    def tool_turn(self) -> None:
        call = {"id": "call1", "name": "weather", "args": {"at": "lake"}}
        turns = [HumanMessage(QUESTION), AIMessage("", tool_calls=[call]), ToolMessage("sunny", tool_call_id="call1")]
        for model in ("base", "user/ann"):
            said(self._chat(model=model).invoke(turns).content)

    def tools(self) -> Refused | None:
        try:
            answer = self._chat(max_tokens=120).bind_tools([TOOL], tool_choice=FORCED).invoke(QUESTION)
        except openai.BadRequestError as error:
            return refused_without_parser(str(error))
        [call] = answer.tool_calls
        same((call["name"], call["args"]), ("weather", {"at": "lake"}))
        return None

    def two_answers(self) -> None:
        same(len(self._chat(n=2, temperature=1).generate([[HumanMessage(QUESTION)]]).generations[0]), 2)

    def seed(self) -> None:
        chat = self._chat(temperature=1, seed=7)
        same(chat.invoke(QUESTION).content, chat.invoke(QUESTION).content)

    def logprobs(self) -> None:
        answer = self._chat(logprobs=True, top_logprobs=2).invoke(QUESTION)
        same([len(token["top_logprobs"]) for token in answer.response_metadata["logprobs"]["content"]], [2] * 8)

    def json_schema(self) -> None:
        chat = self._chat(max_tokens=60).with_structured_output(SCHEMA, method="json_schema")
        same(chat.invoke(QUESTION), {"at": "lake"})

    def stream_usage(self) -> None:
        counts = [chunk.usage_metadata for chunk in self._chat(stream_usage=True).stream(QUESTION)]
        same([count["output_tokens"] for count in counts if count], [8])

    def max_completion_tokens(self) -> None:
        """What `max_tokens` is sent as."""
        same(self._chat(max_tokens=None, max_completion_tokens=5).invoke(QUESTION).usage_metadata["output_tokens"], 5)

    def personal(self) -> None:
        said(self._own().invoke(QUESTION).content)

    def reasoning(self) -> Partly | None:
        if thinking_of(self._own().invoke(QUESTION)):
            return None
        said(thinking_of(self._own(use_responses_api=True).invoke(QUESTION)))
        return ONLY_IN_RESPONSES

    def reasoning_stream(self) -> Partly | None:
        if any(map(thinking_of, self._own().stream(QUESTION))):
            return None
        pieces = map(thinking_of, self._own(use_responses_api=True).stream(QUESTION))
        assert any(pieces), "chunks hold no thinking, neither of a chat nor with `use_responses_api=True`"
        return ONLY_IN_RESPONSES

    def reasoning_tokens(self) -> None:
        count = self._own().invoke(QUESTION).usage_metadata
        assert 0 < count["output_token_details"]["reasoning"] < count["output_tokens"]

    def completions(self) -> None:
        said(self._raw().invoke(TEXT))

    def completions_stream(self) -> None:
        same_stream(self._raw(), TEXT, lambda chunk: chunk)

    def responses(self) -> None:
        answer = self._chat(use_responses_api=True).invoke(QUESTION)
        same(text_of(answer), self._chat().invoke(QUESTION).content)

    def responses_stream(self) -> None:
        same_stream(self._chat(use_responses_api=True), QUESTION, text_of)

    def unknown_model(self) -> None:
        must_fail(openai.NotFoundError, "model must be", self._chat(model="gpt-4").invoke, QUESTION)

    def bad_value(self) -> None:
        must_fail(openai.BadRequestError, "temperature", self._chat(temperature=-3).invoke, QUESTION)


def same_stream(model: Any, prompt: str, text: Callable[[Any], str]) -> None:
    """Check that the pieces of a stream are the whole answer."""
    pieces = [text(chunk) for chunk in model.stream(prompt)]
    assert len([piece for piece in pieces if piece]) > 1
    same("".join(pieces), text(model.invoke(prompt)))


def text_of(message: Any) -> str:
    """Return the text of a message whose content is in blocks."""
    blocks = message.content if isinstance(message.content, list) else [{"type": "text", "text": message.content}]
    return "".join(block["text"] for block in blocks if block["type"] == "text" and "text" in block)


def thinking_of(message: Any) -> str:
    """Return the thinking of a message, wherever LangChain keeps it."""
    found = [message.additional_kwargs.get(name) or "" for name in ("reasoning_content", "reasoning")]
    for block in message.content_blocks:
        if block["type"] == "reasoning":
            found += [
                block.get("reasoning") or "",
                *(part["text"] for part in block.get("extras", {}).get("content", ())),
            ]
    return "".join(map(str, found))
