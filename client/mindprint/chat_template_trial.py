"""Decide a model's chat format from trial conversations that its own chat template renders.

Nothing is known of a model but what its tokenizer writes. A template that cannot be served is refused in one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mindprint.chat_format import (
    TAG_NAME,
    THINK_CLOSE,
    THINK_OPEN,
    THINK_TAG,
    Bos,
    ChatFormat,
    Switch,
    TemplateRefused,
    one_line,
)

SYSTEM, SECOND_SYSTEM = "Rules of the trial.", "More rules of the trial."
QUESTION, ANSWER, SECOND_QUESTION = "First trial question?", "First trial answer", "Second trial question?"
THOUGHT = "Earlier trial thought"
ON_SWITCHES: tuple[Switch, ...] = ({}, {"enable_thinking": True}, {"thinking": True})
OFF_SWITCHES: tuple[Switch, ...] = ({"enable_thinking": False}, {"thinking": False})
"""Arguments by which templates are told whether the model thinks."""

_OPENED = re.compile(rf"(<{TAG_NAME}>|\[THINK\])(\s*)\Z", re.IGNORECASE)
_CLOSED = re.compile(rf"(?:(<{TAG_NAME}>|\[THINK\])(\s*))?(</{TAG_NAME}>|\[/THINK\])(\s*)\Z", re.IGNORECASE)
_MARKER = re.compile(r"<<?/?[^<>\s]{1,40}>>?|\[/?[A-Z][A-Z_]*\]")


class UnsupportedTemplate(ValueError):
    """A chat template, or its tokenizer, that cannot be served. The message is one line and says why."""


class TrialTokenizer(Protocol):
    """The parts of a transformers tokenizer that the trial needs."""

    chat_template: Any
    is_fast: bool
    bos_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    added_tokens_decoder: Mapping[int, Any]

    def apply_chat_template(self, conversation: Any, **arguments: Any) -> Any:
        """Render a conversation."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        """Return the token ids of a text."""
        ...


def decide_chat_format(tokenizer: TrialTokenizer, eos_ids: Sequence[int] = ()) -> ChatFormat:
    """Decide the chat format of a model.

    Args:
        tokenizer: Its tokenizer, with a chat template.
        eos_ids: `eos_token_id` of its generation configuration.

    Raises:
        UnsupportedTemplate: The template or the tokenizer cannot be served.
    """
    if not tokenizer.chat_template:
        raise UnsupportedTemplate("the tokenizer has no chat template: add chat_template.jinja to the model's folder")
    if not tokenizer.is_fast:
        raise UnsupportedTemplate("the tokenizer cannot say where tokens begin: save it as a fast one, tokenizer.json")
    plain = _question_prompt(tokenizer)
    before, _, prompt_end = plain.rpartition(QUESTION)
    before_answer, after_answer = _history(tokenizer)
    _refuse_channels(before_answer, prompt_end)
    end_id = _end_of_turn(tokenizer, after_answer, before, eos_ids)
    stop_ids = dict.fromkeys([end_id, *(one for one in (tokenizer.eos_token_id, *eos_ids) if one is not None)])
    bos, bos_text = _bos(tokenizer, plain)
    with_system = _try(tokenizer, [_system(SYSTEM), _user(QUESTION)]) or ""
    return ChatFormat(
        end_id=end_id,
        end_text=str(tokenizer.added_tokens_decoder.get(end_id, "")),
        stop_ids=tuple(stop_ids),
        **_systems(tokenizer),
        **_thinking(tokenizer, plain),
        gap=_gap(before_answer, prompt_end),
        bos=bos,
        bos_text=bos_text,
        markers=_markers([before, prompt_end, before_answer, after_answer, with_system]),
    )


def read_eos_ids(folder: Path) -> list[int]:
    """Read `eos_token_id` of a model's generation configuration, else of its configuration; empty for none.

    Args:
        folder: The model's folder.
    """
    for name in ("generation_config.json", "config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        ids = found if isinstance(found, list) else [found]
        if ids := [one for one in ids if type(one) is int]:
            return ids
    return []


def describe(chat_format: ChatFormat) -> list[tuple[str, str]]:
    """Return what was decided, as pairs of a name and a value.

    Args:
        chat_format: The format.
    """
    systems = "joined into one" if chat_format.joins_systems else "each as it is"
    late = "joined with the first" if chat_format.joins_late_systems else "as they are"
    closes = f"closed by {chat_format.direct_suffix!r}" if chat_format.direct_suffix else ""
    off = f"switched off by {_switch_text(chat_format.direct_switch)}" if chat_format.direct_switch else ""
    return [
        ("system role", "yes" if chat_format.system == "role" else "no: folded into the first user turn"),
        ("several system messages", systems if chat_format.system == "role" else "folded"),
        ("later system messages", late if chat_format.system == "role" else "folded"),
        ("thinking", f"{chat_format.think_open!r} to {chat_format.think_close!r}"),
        ("opened by", "the template" if chat_format.prompt_opens else "the server"),
        ("in thinking modes", _switch_text(chat_format.thinking_switch) or "nothing to switch"),
        ("in direct mode", closes or off or "nothing to switch"),
        ("earlier thinking", "cut out of the history" if chat_format.cuts_thinking else "kept in the history"),
        ("end of a turn", f"{chat_format.end_text!r} (token {chat_format.end_id})"),
        ("generation stops at", ", ".join(map(str, chat_format.stop_ids))),
        ("beginning of a text", _bos_words(chat_format)),
    ]


def trial_messages() -> list[dict[str, str]]:
    """Return the conversation that `mindprint doctor` shows as a prompt."""
    return [_system(SYSTEM), _user(QUESTION), _assistant(ANSWER), _user(SECOND_QUESTION)]


# --- what the template takes ---


def _question_prompt(tokenizer: TrialTokenizer) -> str:
    try:
        text = _render(tokenizer, [_user(QUESTION)], generation=True)
    except TemplateRefused as error:
        raise UnsupportedTemplate(f"{error}: name another model, or mend its chat template") from error
    if QUESTION not in text:
        raise UnsupportedTemplate("the chat template leaves the user's text out: mend it, or name another model")
    return text


def _history(tokenizer: TrialTokenizer) -> tuple[str, str]:
    """Return the texts that the template writes before and after an assistant's answer."""
    turns = [_user(QUESTION), _assistant(ANSWER), _user(SECOND_QUESTION)]
    text = _try(tokenizer, turns)
    if text is None or not 0 <= text.find(QUESTION) < text.find(ANSWER) < text.find(SECOND_QUESTION):
        raise UnsupportedTemplate("the chat template refuses an assistant's turn: mend it, or name another model")
    before = text[text.index(QUESTION) + len(QUESTION) : text.index(ANSWER)]
    after = text[text.index(ANSWER) + len(ANSWER) : text.index(SECOND_QUESTION)]
    return before, after


def _refuse_channels(before_answer: str, prompt_end: str) -> None:
    """Refuse templates that write more before an answer than the generation prompt holds, such as channels."""
    written, begun = (_without_tags(text) for text in (before_answer, prompt_end))
    if written == begun:
        return
    more = written.removeprefix(begun) or begun
    raise UnsupportedTemplate(
        f"the chat template writes {more!r} before an answer and not in the generation prompt: "
        "models that answer in channels cannot be served, name another"
    )


def _without_tags(text: str) -> str:
    return "".join(THINK_TAG.sub("", text).split())


def _gap(before_answer: str, prompt_end: str) -> str:
    """Return the white space between the generation prompt and an answer."""
    if THINK_TAG.search(before_answer + prompt_end) or not before_answer.startswith(prompt_end):
        return ""
    return before_answer[len(prompt_end) :]


def _systems(tokenizer: TrialTokenizer) -> dict[str, Any]:
    """Find out which system messages the template takes; some templates leave them out without a word."""
    question = _user(QUESTION)
    two = [_system(SYSTEM), _system(SECOND_SYSTEM), question]
    late = [_system(SYSTEM), question, _assistant(ANSWER), _system(SECOND_SYSTEM), _user(SECOND_QUESTION)]
    takes_two = _holds(tokenizer, two, SYSTEM, SECOND_SYSTEM)
    # Templates that write system texts one behind the other, without a space, need them joined.
    run_together = _holds(tokenizer, two, SYSTEM + SECOND_SYSTEM)
    return {
        "system": "role" if _holds(tokenizer, [_system(SYSTEM), question], SYSTEM, QUESTION) else "fold",
        "joins_systems": not takes_two or run_together,
        "joins_late_systems": not _holds(tokenizer, late, SYSTEM, SECOND_SYSTEM),
    }


# --- thinking ---


def _thinking(tokenizer: TrialTokenizer, plain: str) -> dict[str, Any]:
    """Find out how thinking is switched, and which text is around it."""
    off, direct = next(
        (
            (switch, text)
            for switch in OFF_SWITCHES
            if (text := _prompt(tokenizer, switch)) not in (None, plain) and not _OPENED.search(text or "")
        ),
        ({}, plain),
    )
    on, thinking = _thinking_switch(tokenizer, plain)
    opened, closed = _OPENED.search(thinking), _CLOSED.search(direct or "")
    open_text, close_text = _think_texts(opened, closed)
    earlier = _assistant(f"{open_text}{THOUGHT}{close_text}{ANSWER}")
    return {
        "think_open": open_text,
        "think_close": close_text,
        "prompt_opens": opened is not None,
        "thinking_switch": on,
        "direct_switch": off,
        "direct_suffix": close_text if _OPENED.search(direct or "") else "",
        "cuts_thinking": not _holds(tokenizer, [_user(QUESTION), earlier, _user(SECOND_QUESTION)], THOUGHT),
    }


def _thinking_switch(tokenizer: TrialTokenizer, plain: str) -> tuple[Switch, str]:
    """Return the arguments of the thinking modes, and the prompt that they render.

    A switch that opens a thinking comes first, then one that changes the prompt, such as Granite's request to think.
    """
    prompts = [(switch, _prompt(tokenizer, switch)) for switch in ON_SWITCHES]
    allowed = [(switch, text) for switch, text in prompts if text is not None and not _CLOSED.search(text)]
    if not allowed:
        raise UnsupportedTemplate("the chat template always closes the thinking: name another model")
    opens = [one for one in allowed if _OPENED.search(one[1])]
    changes = [one for one in allowed if one[1] != plain]
    return (opens or changes or allowed)[0]


def _think_texts(opened: re.Match[str] | None, closed: re.Match[str] | None) -> tuple[str, str]:
    """Return the texts around a thinking, from a prompt that opens one and from one that closes an empty one."""
    if closed is not None and closed[1]:
        half = (len(closed[2]) + 1) // 2
        return closed[1] + closed[2][:half], closed[2][half:] + closed[3] + closed[4]
    if opened is None:
        return THINK_OPEN, THINK_CLOSE
    close_tag = f"{opened[1][0]}/{opened[1][1:]}"
    line = opened[2]
    return opened[0], f"{line}{close_tag}{line * 2}"


def _prompt(tokenizer: TrialTokenizer, switch: Switch) -> str | None:
    return _try(tokenizer, [_user(QUESTION)], generation=True, **switch)


# --- tokens ---


def _end_of_turn(tokenizer: TrialTokenizer, after_answer: str, before: str, eos_ids: Sequence[int]) -> int:
    """Return the token with which the template ends an assistant's turn; `eos_token` where it writes none."""
    if (end_id := _token_behind(tokenizer, _after_last_answer(tokenizer))) is not None:
        return end_id
    known = {*eos_ids, tokenizer.eos_token_id}
    begins_turn = set(tokenizer.encode(before, add_special_tokens=False)) - known
    end_id = _token_behind(tokenizer, after_answer)
    if end_id is not None and end_id not in begins_turn:
        return end_id
    if tokenizer.eos_token_id is None:
        raise UnsupportedTemplate(
            "no token ends a turn, neither in the chat template nor as eos_token: set eos_token in "
            "tokenizer_config.json"
        )
    return tokenizer.eos_token_id


def _after_last_answer(tokenizer: TrialTokenizer) -> str:
    """Return the text behind the last answer of a conversation, where a token can begin no turn; empty for none."""
    turns = [_user(QUESTION), _assistant(ANSWER)]
    text = _try(tokenizer, turns) or ""
    # Some templates write the generation prompt though they are told not to.
    return "" if text == _try(tokenizer, turns, generation=True) else text.partition(ANSWER)[2]


def _token_behind(tokenizer: TrialTokenizer, text: str) -> int | None:
    """Return the added token with which a text begins after white space; None where it begins otherwise."""
    added = tokenizer.added_tokens_decoder
    for token in tokenizer.encode(text, add_special_tokens=False):
        if token in added:
            return None if text.partition(str(added[token]))[0].strip() else int(token)
    return None


def _bos(tokenizer: TrialTokenizer, plain: str) -> tuple[Bos, str]:
    text, number = tokenizer.bos_token, tokenizer.bos_token_id
    if not text or number is None:
        return "none", ""
    if list(tokenizer.encode(plain, add_special_tokens=False))[:1] == [number]:
        return "template", text
    adds = list(tokenizer.encode(QUESTION, add_special_tokens=True))[:1] == [number]
    return ("added", text) if adds else ("none", "")


def _markers(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts in brackets that the template writes, without the tags of thinking."""
    found = (match[0] for text in texts for match in _MARKER.finditer(text) if not THINK_TAG.fullmatch(match[0]))
    return tuple(dict.fromkeys(found))


# --- trial conversations ---


def _system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _render(tokenizer: TrialTokenizer, messages: Any, *, generation: bool = False, **switch: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation, **switch))
    except Exception as error:  # a template raises what it likes
        raise TemplateRefused(f"the chat template refuses a conversation: {one_line(error)}") from error


def _try(tokenizer: TrialTokenizer, messages: Any, *, generation: bool = False, **switch: bool) -> str | None:
    try:
        return _render(tokenizer, messages, generation=generation, **switch)
    except TemplateRefused:
        return None


def _holds(tokenizer: TrialTokenizer, messages: Any, *texts: str) -> bool:
    """Return whether the template takes a conversation and writes all of some texts."""
    rendered = _try(tokenizer, messages, generation=True)
    return rendered is not None and all(text in rendered for text in texts)


def _switch_text(switch: Switch) -> str:
    return ", ".join(f"{name}={value}" for name, value in switch.items())


def _bos_words(chat_format: ChatFormat) -> str:
    who = {"template": "written by the template", "added": "added by the server", "none": "none"}[chat_format.bos]
    return f"{chat_format.bos_text!r}, {who}" if chat_format.bos_text else who
