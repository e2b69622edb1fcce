from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mindprint.exceptions import ApiError, BadReply, ConnectionFailed
from mindprint.streaming import AnswerText, ChatPieces, Decoder, Ndjson, Progress


class Item(BaseModel):
    text: str


def decode(decoder: Decoder[Any], *chunks: bytes) -> list[Any]:
    found = [item for chunk in chunks for item in decoder.feed(chunk)]
    return [*found, *decoder.end()]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@given(st.lists(st.text()), st.lists(st.integers(0, 10_000)), st.booleans())
def test_ndjson_is_the_same_however_it_is_cut(texts: list[str], places: list[int], last_newline: bool) -> None:
    """The texts hold U+2028 and the like, which are no line ends in JSON."""
    data = "\n".join(Item(text=text).model_dump_json() for text in texts).encode() + b"\n" * last_newline
    assert [item.text for item in decode(Ndjson(Item), *cut(data, places))] == texts


@given(st.lists(st.text(), min_size=1), st.lists(st.integers(0, 10_000)), st.sampled_from(["\n", "\r\n"]))
def test_events_are_the_same_however_they_are_cut(texts: list[str], places: list[int], end: str) -> None:
    data = "".join(
        f": ping{end}{end}event: progress{end}data: {Item(text=text).model_dump_json()}{end}{end}" for text in texts
    ).encode()
    assert [item.text for item in decode(Progress(Item), *cut(data, places))] == texts


def test_a_bad_line_is_named() -> None:
    with pytest.raises(BadReply, match="line 2 of the reply is no Item: text: Field required"):
        decode(Ndjson(Item), b'{"text": "a"}\n\n{"txt": "b"}\n')


def test_text_that_is_not_utf8() -> None:
    with pytest.raises(BadReply, match="UTF-8"):
        decode(Ndjson(Item), b'{"text": "\xff"}\n')


def test_events_of_other_names_and_cut_ones_are_passed_over() -> None:
    data = (
        b"event: hello\ndata: {}\n\nretry: 5\n\n"
        b'event: progress\ndata: {"text":\ndata: "a"}\n\n'
        b'event: progress\ndata: {"te'
    )
    assert [item.text for item in decode(Progress(Item), data)] == ["a"]


def test_a_bad_event() -> None:
    with pytest.raises(BadReply, match="an event of the reply is no Item"):
        decode(Progress(Item), b"event: progress\ndata: nonsense\n\n")


CHAT = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"te"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n'
)


def test_chat_pieces() -> None:
    pieces = decode(ChatPieces(), CHAT, b"data: [DONE]\n\n")
    assert "".join(piece.text for piece in pieces) == "tea"
    assert "".join(piece.thinking for piece in pieces) == "hm"
    assert [piece.finish for piece in pieces if piece.finish] == ["stop"]
    assert decode(AnswerText(), CHAT, b"data: [DONE]\n\n") == ["te", "a"]


def test_a_chat_that_breaks_off() -> None:
    with pytest.raises(ConnectionFailed, match="broke off"):
        decode(ChatPieces(), CHAT)


def test_a_chat_that_fails_in_the_middle() -> None:
    with pytest.raises(ApiError, match="the engine died") as caught:
        decode(AnswerText(), CHAT, b'data: {"error": {"message": "the engine died", "code": "engine_dead"}}\n\n')
    assert (caught.value.code, caught.value.status) == ("engine_dead", 500)


@pytest.mark.parametrize("data", [b"nonsense", b"[]", b'{"choices": 3}', b'{"choices": [{"delta": {"content": 3}}]}'])
def test_a_chat_of_nonsense(data: bytes) -> None:
    with pytest.raises(BadReply, match="piece of the answer"):
        decode(ChatPieces(), b"data: " + data + b"\n\n")
