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


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("value", [False, True, 0, "false"])
def test_no_argument_opens_or_closes_a_thinking_against_the_mode(name: str, thinking: bool, value: object) -> None:
    tokenizer = make_tokenizer(name)
    chat_format = decide_chat_format(tokenizer, eos_ids(name))
    arguments = {"enable_thinking": value, "thinking": value}
    given = chat_format.render(tokenizer, [said("user", "a")], thinking=thinking, arguments=arguments)
    assert given == chat_format.render(tokenizer, [said("user", "a")], thinking=thinking)


@pytest.mark.parametrize("name", ["kimi", "lfm2"])
def test_empty_thinking_is_written_only_where_there_is_none(name: str) -> None:
    tokenizer = copy.copy(make_tokenizer(name))
    chat_format = decide_chat_format(tokenizer)
    tokenizer.chat_template += "{{ {'open': '<think>\n', 'closed': '<think></think>'}[add] if add else '' }}"
    plain = chat_format.render(tokenizer, [said("user", "a")], thinking=True)
    expected = {"open": f"<think>\n{chat_format.think_close}", "closed": "<think></think>"}
    for add, end in expected.items():
        text = chat_format.render(tokenizer, [said("user", "a")], thinking=False, arguments={"add": add})
        assert text == plain + end


def test_argument_that_says_how_much_is_thought_reaches_the_template_unless_it_is_nothing() -> None:
    tokenizer = make_tokenizer("seed_oss")
    chat_format = decide_chat_format(tokenizer)
    asked = [said("user", "a")]
    rendered = {
        (thinking, budget): chat_format.render(
            tokenizer, asked, thinking=thinking, arguments={"thinking_budget": budget}
        )
        for thinking in (False, True)
        for budget in (0, 512)
    }
    assert "Budget: 512" in rendered[True, 512]
    assert rendered[True, 0] == chat_format.render(tokenizer, asked, thinking=True)
    assert rendered[False, 0] == rendered[False, 512] == chat_format.render(tokenizer, asked, thinking=False)


def test_effort_of_a_caller_comes_before_the_one_that_switches_the_thinking_on() -> None:
    chat_format = ChatFormat(
        end_id=0, thinking_switch={"reasoning_effort": "high"}, direct_switch={"reasoning_effort": "none"}
    )
    chosen = {
        (thinking, effort): chat_format.select_arguments({"reasoning_effort": effort}, thinking=thinking)
        for thinking in (False, True)
        for effort in ("none", "low", "high")
    }
    assert {key: value["reasoning_effort"] for key, value in chosen.items()} == {
        (True, "none"): "high",
        (True, "low"): "low",
        (True, "high"): "high",
        (False, "none"): "none",
        (False, "low"): "none",
        (False, "high"): "none",
    }


EFFORT = (
    "{% if effort == 'none' %}{{ '<think>\n\n</think>\n\n' }}{% elif effort == 'high' %}{{ '<think>\n' }}"
    "{% elif effort is not defined %}DEFAULT{% endif %}"
)


@pytest.mark.parametrize("default", ["", "{{ '<think>\n' }}"], ids=["opened by the server", "opened by the template"])
@pytest.mark.parametrize("effort", ["none", "high", "low"])
def test_other_arguments_that_switch_the_thinking_leave_it_open_once(default: str, effort: str) -> None:
    tokenizer = copy.copy(make_tokenizer("chatml"))
    tokenizer.chat_template += EFFORT.replace("DEFAULT", default)
    chat_format = decide_chat_format(tokenizer)
    assert chat_format.prompt_opens == bool(default)
    asked, arguments = [said("user", "a")], {"effort": effort}
    thinking = chat_format.render(tokenizer, asked, thinking=True, arguments=arguments) + chat_format.opening
    assert thinking.endswith("<|im_start|>assistant\n<think>\n")
    assert (thinking.count("<think>"), thinking.count("</think>")) == (1, 0)
    direct = chat_format.render(tokenizer, asked, thinking=False, arguments=arguments)
    assert direct.count("<think>") == direct.count("</think>")


def test_soft_switch_goes_into_the_last_users_message() -> None:
    chat_format = ChatFormat(end_id=0, direct_words="/no_think", thinking_words="/think")
    asked = [said("user", "a"), said("assistant", "b"), said("user", "c")]
    assert chat_format.arrange(asked, thinking=False) == [*asked[:2], said("user", "c /no_think")]
    assert chat_format.arrange(asked, thinking=True) == [*asked[:2], said("user", "c /think")]
    assert chat_format.arrange(asked) == asked
    [parts] = chat_format.arrange([said("user", [{"type": "text", "text": "a"}])], thinking=False)
    assert parts["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "/no_think"}]


def test_soft_switch_of_the_system_goes_into_its_message() -> None:
    chat_format = ChatFormat(end_id=0, direct_words="/no_think", words_role="system")
    asked = [said("system", "a"), said("user", "b")]
    assert chat_format.arrange(asked, thinking=False) == [said("system", "a /no_think"), said("user", "b")]
    assert chat_format.arrange(asked[1:], thinking=False) == [said("system", "/no_think"), said("user", "b")]


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
    opens, closes = chat_format.tags
    assert whole.count(opens) - whole.count(closes) == int(thinking), "thinking is open once, or closed"
    ids = tokenizer.encode(text, add_special_tokens=False)
    # Seed-OSS begins each turn with it.
    assert ids[:2].count(tokenizer.bos_token_id) == int(chat_format.bos != "none")
