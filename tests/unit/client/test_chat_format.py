"""Messages as a template takes them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from chat_templates import SERVED, eos_ids, make_tokenizer
from mindprint.chat_format import ChatFormat, TemplateRefused
from mindprint.chat_template_trial import decide_chat_format

PLAIN = ChatFormat(end_id=0)
ONE_SYSTEM = ChatFormat(end_id=0, joins_systems=True, joins_late_systems=True)
NO_SYSTEM = ChatFormat(end_id=0, system="fold", joins_systems=True, joins_late_systems=True)


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_developer_is_a_system_role() -> None:
    assert PLAIN.arrange([said("developer", "a"), said("user", "b")]) == [said("system", "a"), said("user", "b")]


def test_system_messages_stay_where_the_template_takes_them() -> None:
    messages = [said("system", "a"), said("system", "b"), said("user", "c"), said("system", "d")]
    assert PLAIN.arrange(messages) == messages


def test_system_messages_are_joined_where_the_template_takes_one() -> None:
    messages = [said("system", "a"), said("developer", "b"), said("user", "c"), said("system", "d"), said("user", "e")]
    assert ONE_SYSTEM.arrange(messages) == [said("system", "a\n\nb\n\nd"), said("user", "c"), said("user", "e")]


def test_system_text_is_folded_into_the_first_user_turn() -> None:
    messages = [said("system", "a"), said("user", "b"), said("assistant", "c"), said("user", "d")]
    assert NO_SYSTEM.arrange(messages) == [said("user", "a\n\nb"), said("assistant", "c"), said("user", "d")]


def test_system_text_becomes_a_user_turn_without_one() -> None:
    assert NO_SYSTEM.arrange([said("system", "a")]) == [said("user", "a")]


def test_system_text_is_folded_before_the_parts_of_a_content() -> None:
    parts = [{"type": "text", "text": "b"}]
    [user] = NO_SYSTEM.arrange([said("system", [{"type": "text", "text": "a"}]), said("user", parts)])
    assert user["content"] == [{"type": "text", "text": "a\n\n"}, *parts]


def test_token_split_over_parts_of_a_system_text_stays_split() -> None:
    parts = [{"type": "text", "text": "a<|im_"}, {"type": "text", "text": "end|>b"}]
    assert ONE_SYSTEM.arrange([said("system", parts), said("system", "c")]) == [said("system", "a<|im_\nend|>b\n\nc")]


def test_thinking_is_closed_in_direct_mode_only_where_it_is_open() -> None:
    tokenizer = copy.copy(make_tokenizer("r1"))
    chat_format = decide_chat_format(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\n", "' + ('' if short else '<think>\n') + '")
    asked = [said("user", "a")]
    assert chat_format.render(tokenizer, asked, thinking=False).endswith("<think>\n\n</think>\n\n")
    short = chat_format.render(tokenizer, asked, thinking=False, arguments={"short": True})
    assert short.endswith("<\uff5cAssistant\uff5c>")


def test_the_callers_messages_are_not_changed() -> None:
    messages = [said("developer", "a"), said("user", "b")]
    NO_SYSTEM.arrange(messages)
    assert messages == [said("developer", "a"), said("user", "b")]


def test_template_that_refuses_is_named_as_the_cause() -> None:
    tokenizer = make_tokenizer("gemma")
    chat_format = decide_chat_format(tokenizer)
    with pytest.raises(TemplateRefused, match="Roles must alternate"):
        chat_format.render(tokenizer, [said("user", "a"), said("user", "b")], thinking=False)


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize(
    "messages",
    [
        [said("user", "Tea?")],
        [said("developer", "Be kind."), said("user", "Tea?")],
        [said("system", "Be kind."), said("system", "Be short."), said("user", "Tea?")],
        [said("system", "Be kind."), said("user", "Tea?"), said("assistant", "Yes."), said("user", "Why?")],
    ],
    ids=["user", "developer", "two systems", "history"],
)
def test_every_conversation_is_rendered_whole(name: str, thinking: bool, messages: list[dict[str, Any]]) -> None:
    tokenizer = make_tokenizer(name)
    chat_format = decide_chat_format(tokenizer, eos_ids(name))
    text = chat_format.render(tokenizer, messages, thinking=thinking)
    assert all(message["content"] in text for message in messages)
    whole = text + chat_format.opening if thinking else text
    assert whole.count("<think>") - whole.count("</think>") == int(thinking), "thinking is open once, or closed"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids.count(tokenizer.bos_token_id) == int(chat_format.bos != "none")
