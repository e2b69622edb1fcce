"""`mindprint chat`: one question, one from stdin, a conversation."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from cli_lines import one_line


def test_chat_streams_thinking_and_answer(run: Any, server: Any, samples: Any) -> None:
    data = samples.chat_chunks(
        ("reasoning_content", "Ann likes "), ("reasoning_content", "tea."), ("content", "te\x07a")
    )
    server.answers_with(httpx.Response(200, content=data))
    result = run("chat", "-m", "user/ann", "--mode", "personal", "Tea?")
    assert result.stdout == "Ann likes tea.\n\nte\N{REPLACEMENT CHARACTER}a\n"
    sent = json.loads(server.asked[0].content)
    assert (sent["model"], sent["mode"]) == ("user/ann", "personal")


def test_chat_reads_a_question_from_stdin(run: Any, server: Any, samples: Any) -> None:
    server.answers_with(httpx.Response(200, content=samples.chat_chunks(("content", "tea"))))
    assert run("chat", stdin="Tea or\ncoffee?\n").stdout == "tea\n"
    assert json.loads(server.asked[0].content)["messages"][0]["content"] == "Tea or\ncoffee?"
    assert "there is no question" in one_line(run("chat", stdin=" \n"), code=2)


def test_a_conversation_keeps_what_was_said(
    run: Any, server: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = iter(["Tea?", "", "Sure?"])

    def ask(_: str) -> str:
        for question in questions:
            return question
        raise EOFError

    monkeypatch.setattr("mindprint.cli.chat.at_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    server.answers_with(httpx.Response(200, content=samples.chat_chunks(("content", "tea"))))
    result = run("chat")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("tea") == 2
    assert [message["content"] for message in json.loads(server.asked[1].content)["messages"]] == [
        "Tea?",
        "tea",
        "Sure?",
    ]
