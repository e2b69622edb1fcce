"""Find out from trial conversations how a chat template switches thinking, and which text it writes around one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mindprint.chat_format import CLOSE_TAG, OPEN_TAG, OTHER_TAGS, THINK_CLOSE, THINK_OPEN, Switch
from mindprint.trial_conversations import (
    ANSWER,
    QUESTION,
    SECOND_QUESTION,
    SYSTEM,
    TrialTokenizer,
    UnsupportedTemplate,
    assistant_message,
    holds,
    system_message,
    try_render,
    user_message,
)

THOUGHT = "Earlier trial thought"
OTHER_WORDS = "/trial_word"
"""Words like a soft switch, which no template reads."""
ON_SWITCHES: tuple[Switch, ...] = ({}, {"enable_thinking": True}, {"thinking": True})
NO_EFFORTS: tuple[Switch, ...] = ({"reasoning_effort": "none"}, {"reasoning_effort": "no_think"})
OFF_SWITCHES: tuple[Switch, ...] = (
    {"enable_thinking": False},
    {"thinking": False},
    {"thinking_budget": 0},
    *NO_EFFORTS,
)
"""Arguments by which templates are told whether the model thinks."""
EFFORT: Switch = {"reasoning_effort": "high"}
"""Turns the thinking on in templates that leave it off without an effort."""
ON_WORDS, OFF_WORDS = ("/think",), ("/no_think", "/nothink")
SOFT_SWITCHES = (*ON_WORDS, *OFF_WORDS, "detailed thinking on", "detailed thinking off", "/system_override")
"""Words in a message by which models or their templates are told whether to think, or which system text holds."""
ROLES: tuple[Literal["user", "system"], ...] = ("user", "system")
"""Whose message is tried with a soft switch, in this order."""

_OPENED = re.compile(rf"({OPEN_TAG})(\s*)\Z", re.IGNORECASE)
_CLOSED = re.compile(rf"(?:({OPEN_TAG})(\s*))?({CLOSE_TAG})(\s*)\Z", re.IGNORECASE)
_CLOSES = re.compile(rf"\s*(?:{CLOSE_TAG})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class _Way:
    """A way to switch the thinking, and the prompt that it renders: by arguments, or by words in a message."""

    prompt: str
    switch: Switch
    words: str = ""
    role: Literal["user", "system"] = "user"


def decide_thinking(tokenizer: TrialTokenizer, plain: str) -> dict[str, Any]:
    """Find out how thinking is switched, and which text is around it.

    Args:
        tokenizer: The model's tokenizer.
        plain: The prompt of the trial question without any switch.

    Returns:
        The fields of `ChatFormat` about thinking.

    Raises:
        UnsupportedTemplate: The template always closes the thinking.
    """
    on = _on(tokenizer, plain)
    off = _off(tokenizer, plain, on)
    is_switched = off != _Way(plain, {}) or on != _Way(plain, {})
    history = "" if is_switched else _before_answer(tokenizer)
    opened = _OPENED.search(on.prompt)
    closed = _CLOSED.search(off.prompt) or _CLOSED.search(history)
    texts = _think_texts(opened, closed, on.prompt)
    open_text, close_text = texts or _history_texts(tokenizer) or _token_texts(tokenizer)
    is_cut = _cuts_thinking(tokenizer, open_text, close_text)
    return {
        "think_open": open_text,
        "think_close": close_text,
        "prompt_opens": opened is not None,
        "thinking_switch": on.switch,
        "direct_switch": off.switch,
        "thinking_words": on.words,
        "direct_words": off.words,
        "words_role": on.role if on.words else off.role,
        "soft_switches": _soft_switches(tokenizer, {*on.switch, *off.switch}),
        "direct_suffix": close_text if _OPENED.search(off.prompt) else "",
        "begins_thinking": not is_switched
        and opened is None
        and (closed is not None or is_cut or _asks_for_thinking(tokenizer)),
        "cuts_thinking": is_cut,
    }


def _before_answer(tokenizer: TrialTokenizer) -> str:
    """Return the text between a question and its answer in a history. It may hold an empty thinking."""
    turns = [user_message(QUESTION), assistant_message(ANSWER), user_message(SECOND_QUESTION)]
    return (try_render(tokenizer, turns) or "").partition(QUESTION)[2].partition(ANSWER)[0]


def _asks_for_thinking(tokenizer: TrialTokenizer) -> bool:
    """Return whether the template itself tells the model to write tags, also where there is a system message."""
    told = try_render(tokenizer, [system_message(SYSTEM), user_message(QUESTION)], generation=True) or ""
    return all(re.search(tag, told, re.IGNORECASE) for tag in (OPEN_TAG, CLOSE_TAG))


def _cuts_thinking(tokenizer: TrialTokenizer, open_text: str, close_text: str) -> bool:
    """Return whether the template leaves a thinking out that is not the last. Some keep the one of the last answer."""
    first = assistant_message(f"{open_text}{THOUGHT}{close_text}{ANSWER}")
    turns = [user_message(QUESTION), first, user_message(QUESTION), assistant_message(ANSWER)]
    return not holds(tokenizer, [*turns, user_message(SECOND_QUESTION)], THOUGHT)


def _off(tokenizer: TrialTokenizer, plain: str, on: _Way) -> _Way:
    """Return the way to direct mode: an argument comes before words. Neither: the prompt as it is."""
    if on.switch == EFFORT:
        # Said although it is the default: a request may have another effort.
        return next(way for way in _by_arguments(tokenizer, NO_EFFORTS) if way.prompt == plain)
    ways = [*_by_arguments(tokenizer, OFF_SWITCHES), *_by_words(tokenizer, OFF_WORDS)]
    without = [way for way in ways if not _OPENED.search(way.prompt)]
    # A template that closes the thinking without any words needs none.
    closes = [way for way in without if way.words and _CLOSED.search(way.prompt) and not _CLOSED.search(plain)]
    changes = [way for way in without if not way.words and way.prompt != plain]
    return next(iter([*changes, *closes]), _Way(plain, {}))


def _on(tokenizer: TrialTokenizer, plain: str) -> _Way:
    """Return the way to the thinking modes.

    One that opens a thinking comes first, then one that changes the prompt, such as Granite's request to think.
    """
    efforts = [EFFORT] if any(way.prompt == plain for way in _by_arguments(tokenizer, NO_EFFORTS)) else []
    ways = [*_by_arguments(tokenizer, [*ON_SWITCHES, *efforts]), *_by_words(tokenizer, ON_WORDS)]
    allowed = [way for way in ways if not _CLOSED.search(way.prompt)]
    if not allowed:
        raise UnsupportedTemplate("the chat template always closes the thinking: name another model")
    opens = [way for way in allowed if _OPENED.search(way.prompt)]
    changes = [way for way in allowed if not way.words and way.prompt != plain]
    return (opens or changes or allowed)[0]


def _by_arguments(tokenizer: TrialTokenizer, switches: Iterable[Switch]) -> list[_Way]:
    prompts = [(switch, _prompt(tokenizer, switch)) for switch in switches if not _is_pasted(tokenizer, switch)]
    return [_Way(prompt, switch) for switch, prompt in prompts if prompt is not None]


def _is_pasted(tokenizer: TrialTokenizer, switch: Switch) -> bool:
    """Return whether the template writes any value of an argument into the prompt: then `none` is no value of it."""
    names = [name for name, value in switch.items() if isinstance(value, str)]
    return any(OTHER_WORDS in (_prompt(tokenizer, {name: OTHER_WORDS}) or "") for name in names)


def _by_words(tokenizer: TrialTokenizer, several: Iterable[str]) -> list[_Way]:
    """Return what the prompt becomes with words in a message. The words stand last in a user's message."""
    ways = [(words, role, _prompt_with(tokenizer, words, role)) for words in several for role in ROLES]
    return [_Way(prompt, {}, words, role) for words, role, prompt in ways if prompt is not None]


def _prompt_with(tokenizer: TrialTokenizer, words: str, role: str) -> str | None:
    system = [system_message(f"{SYSTEM} {words}")] if role == "system" else []
    question = f"{QUESTION} {words}" if role == "user" else QUESTION
    return try_render(tokenizer, [*system, user_message(question)], generation=True)


def _soft_switches(tokenizer: TrialTokenizer, arguments: set[str]) -> tuple[str, ...]:
    """Return the words that must not stand in users' texts.

    They are those that change the prompt and those that the template names. Models with the argument
    `enable_thinking`, such as Qwen3, were also taught to obey such words, which their templates do not read.
    """
    taught = (*ON_WORDS, OFF_WORDS[0]) if "enable_thinking" in arguments else ()
    source = str(tokenizer.chat_template)
    found = (
        words
        for words in SOFT_SWITCHES
        if words in taught
        or re.search(rf"(?<![<\w\u25c1]){re.escape(words)}(?!\w)", source)
        or any(_changes_prompt(tokenizer, words, role) for role in ROLES)
    )
    return tuple(found)


def _changes_prompt(tokenizer: TrialTokenizer, words: str, role: str) -> bool:
    """Return whether words change more of the prompt than the message that holds them."""
    others = []
    for one in (words, OTHER_WORDS):
        text = _prompt_with(tokenizer, one, role) or ""
        # In its message alone: the template itself may write `</think>`.
        for said in (QUESTION, SYSTEM):
            text = text.replace(f"{said} {one}", said)
        others.append("".join(text.split()))
    return others[0] != others[1]


def _think_texts(opened: re.Match[str] | None, closed: re.Match[str] | None, on: str) -> tuple[str, str] | None:
    """Return the texts around a thinking, from a prompt that opens one and from a text that closes an empty one.

    Args:
        opened: Where the prompt of the thinking modes opens one.
        closed: Where a prompt, or a history, closes one.
        on: The prompt of the thinking modes.
    """
    half = (len(closed[2] or "") + 1) // 2 if closed else 0
    # An empty thinking may be written without the white space of others, as Nemotron's is: then the opened one counts.
    if closed and closed[1] and (opened is None or opened[2] == closed[2][:half]):
        # White space that the template writes before the tag, and not at the end of a prompt without tags.
        lead = "" if opened else _end_space(closed.string[: closed.start(1)]).removeprefix(_end_space(on))
        return lead + closed[1] + closed[2][:half], closed[2][half:] + closed[3] + closed[4]
    if opened is None:
        return None
    line = opened[2]
    return opened[0], f"{line}{_closing(opened[1])}{line * 2}"


def _end_space(text: str) -> str:
    return text[len(text.rstrip()) :]


def _closing(tag: str) -> str:
    return OTHER_TAGS.get(tag, f"{tag[0]}/{tag[1:]}")


def _history_texts(tokenizer: TrialTokenizer) -> tuple[str, str] | None:
    """Return the texts around a thinking that a message of the history holds apart from its answer."""
    parts = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]
    closed_parts = [{**parts[0], "closed": True}, parts[1]]
    forms = (
        {"content": closed_parts},
        {"content": parts},
        {"content": ANSWER, "reasoning_content": THOUGHT},
        {"content": ANSWER, "thinking": THOUGHT},
    )
    for form in forms:
        for more in ([], [user_message(SECOND_QUESTION)]):
            text = try_render(tokenizer, [user_message(QUESTION), {"role": "assistant", **form}, *more]) or ""
            before, found, after = text.partition(THOUGHT)
            opened, closed = _OPENED.search(before), _CLOSES.match(after)
            if found and opened and closed:
                return opened[0], closed[0]
    return None


def _token_texts(tokenizer: TrialTokenizer) -> tuple[str, str]:
    """Return the texts around a thinking where the template says nothing: the tags that the tokenizer knows."""
    known = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    # A token may be the beginning of a tag: Gemma 4 writes the name of a channel behind `<|channel>`.
    others = [tag for tag in OTHER_TAGS if any(len(text) > 1 and tag.startswith(text) for text in known)]
    tags = [text for text in (*known, *others) if _OPENED.fullmatch(text) and _closing(text) in known]
    if not tags or THINK_OPEN.strip() in tags:
        return THINK_OPEN, THINK_CLOSE
    line = "\n" if tags[0][-1].isalpha() else ""
    return tags[0] + line, _closing(tags[0])


def _prompt(tokenizer: TrialTokenizer, switch: Switch) -> str | None:
    return try_render(tokenizer, [user_message(QUESTION)], generation=True, **switch)
