"""Completes answers of the chat backend, in OpenAI's form: thinking, its tokens, and what made the answer. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mindprint_server.chat.progress import Progress
from mindprint_server.chat.request import ChatRequest

DONE = "data: [DONE]\n\n"
_USAGE, _REASONING = '"usage":{', '"reasoning":"'
"""How these fields begin in a chunk. Inside of a text, JSON has a backslash before quotes."""


def complete_answer(
    answer: Mapping[str, Any], progress: Progress, provenance: Mapping[str, Any], *, is_continued: bool = False
) -> dict[str, Any]:
    """Return a whole chat completion with its thinking and provenance.

    Args:
        answer: The chat completion.
        progress: How it was made.
        provenance: What made it, for `mindprint`.
        is_continued: Whether it continues a message of the caller, so that its white space counts.
    """
    choices = [
        {**choice, "message": _complete_message(choice["message"], progress, is_continued)}
        for choice in answer.get("choices", [])
    ]
    completed = {**answer, "choices": choices, "mindprint": provenance}
    if answer.get("usage"):
        completed["usage"] = count_thinking(answer["usage"], progress)
    return completed


def _complete_message(message: Mapping[str, Any], progress: Progress, is_continued: bool) -> dict[str, Any]:
    completed = {**message, **_reasoning(progress.reasoning or message.get("reasoning"))}
    if not is_continued and isinstance(message.get("content"), str):
        completed["content"] = message["content"].lstrip()
    return completed


def _reasoning(text: str | None) -> dict[str, str]:
    """Return the thinking under both names that clients read."""
    return {"reasoning": text, "reasoning_content": text} if text else {}


def count_thinking(usage: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Return the usage of an answer with its thinking among the tokens that were written, not among the prompt's.

    Args:
        usage: The usage that the backend counted. Its prompt holds the thinking that the answer continues.
        progress: How the answer was made.
    """
    if progress.prompt_tokens is None and not progress.tokens:
        return dict(usage)
    prompt = usage["prompt_tokens"] if progress.prompt_tokens is None else progress.prompt_tokens
    written = (usage.get("completion_tokens") or 0) + progress.tokens
    counted = {**usage, "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
    details = usage.get("completion_tokens_details") or {}
    counted["completion_tokens_details"] = {**details, "reasoning_tokens": progress.tokens}
    if (found := usage.get("prompt_tokens_details")) and (cached := found.get("cached_tokens")):
        counted["prompt_tokens_details"] = {**found, "cached_tokens": min(cached, prompt)}
    return counted


def thinking_chunk(request: ChatRequest, text: str, *, is_first: bool) -> str:
    """Return the event with a piece of thinking. The answers of a request share their thinking.

    Args:
        request: The request.
        text: The piece.
        is_first: Whether the stream begins with it.
    """
    role = {"role": "assistant"} if is_first else {}
    delta = {**role, **_reasoning(text)}
    return _event(_chunk(request, [_choice(index, delta) for index in range(request.answers)]))


class ChunkWriter:
    """Completes the events of the backend's stream one by one, as `complete_answer` completes a whole answer.

    Args:
        progress: How the answer is made.
        provenance: What makes it, for `mindprint` of the first event.
        answers: Answers of the request.
        is_continued: As for `complete_answer`.
    """

    def __init__(
        self, progress: Progress, provenance: Mapping[str, Any], answers: int, *, is_continued: bool = False
    ) -> None:
        self._progress = progress
        self._provenance = provenance
        self._is_first = True
        self._blank = set[int]() if is_continued else set(range(answers))
        """Answers that have no text yet, whose leading white space is left out."""

    def write(self, line: str) -> str:
        """Return an event as the caller gets it."""
        if not (self._is_first or self._blank or _USAGE in line or _REASONING in line):
            return line
        head, _, data = line.partition("data: ")
        try:
            chunk = json.loads(data)
        except ValueError:  # [DONE]
            return line
        if head or not isinstance(chunk, dict):
            return line
        for choice in chunk.get("choices", []):
            self._complete_choice(choice)
        if chunk.get("usage"):
            chunk["usage"] = count_thinking(chunk["usage"], self._progress)
        if self._is_first:
            self._is_first = False
            chunk["mindprint"] = self._provenance
        return _event(chunk)

    def _complete_choice(self, choice: dict[str, Any]) -> None:
        delta, index = choice["delta"], choice.get("index", 0)
        delta |= _reasoning(delta.get("reasoning"))
        if self._progress.reasoning:
            delta.pop("role", None)  # it came with the thinking, and clients join what comes twice
        if index in self._blank and isinstance(delta.get("content"), str):
            delta["content"] = delta["content"].lstrip()
            if delta["content"]:
                self._blank.discard(index)


# --- an answer for which the thinking left no tokens ---


def empty_answer(request: ChatRequest, prompt_tokens: int) -> dict[str, Any]:
    """Return a whole answer without text, that ended because of `max_tokens`."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": "length"}
        for index in range(request.answers)
    ]
    return {**_head(request, "chat.completion"), "choices": choices, "usage": _empty_usage(prompt_tokens)}


def empty_lines(request: ChatRequest, prompt_tokens: int) -> Iterator[str]:
    """Yield the events of a stream without text, that ended because of `max_tokens`."""
    choices = [{**_choice(index, {"content": ""}), "finish_reason": "length"} for index in range(request.answers)]
    yield _event(_chunk(request, choices))
    if (request.body.get("stream_options") or {}).get("include_usage"):
        yield _event({**_chunk(request, []), "usage": _empty_usage(prompt_tokens)})
    yield DONE


def _empty_usage(prompt_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": 0, "total_tokens": prompt_tokens}


def _head(request: ChatRequest, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request.id}", "object": kind, "created": request.created, "model": str(request.model)}


def _chunk(request: ChatRequest, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_head(request, "chat.completion.chunk"), "choices": choices}


def _choice(index: int, delta: Mapping[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": None}


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
