"""Decide a model's chat format from trial conversations that its own chat template renders.

Nothing is known of a model but what its tokenizer writes. A template that cannot be served is refused in one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mindprint.chat_format import THINK_TAG, Bos, ChatFormat, Switch, TemplateRefused
from mindprint.thinking_trial import decide_thinking
from mindprint.trial_conversations import (
    ANSWER,
    QUESTION,
    SECOND_QUESTION,
    SECOND_SYSTEM,
    SYSTEM,
    PartsTokenizer,
    TrialTokenizer,
    UnsupportedTemplate,
    assistant_message,
    holds,
    render,
    system_message,
    try_render,
    user_message,
)

__all__ = [
    "TrialTokenizer",
    "UnsupportedTemplate",
    "decide_chat_format",
    "describe",
    "read_eos_ids",
    "trial_messages",
]

FULL_WIDTH = 0xFEE0
"""Distance from a printable ASCII character to its form in full width, which NFKC undoes."""
HIDDEN_MARKS = ("\u0301", "\u00ad", "\u200b", "\ufe0f", "\x00")
"""An accent and hidden characters. Some tokenizers take them out of a text."""
_MARKER = re.compile(r"<<?/?[^<>\s]{1,40}>>?|\[/?[A-Z][A-Z_]*\]")


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
    takes_parts = _takes_parts(tokenizer)
    tokenizer = PartsTokenizer(tokenizer) if takes_parts else tokenizer
    plain = _question_prompt(tokenizer)
    before, _, prompt_end = plain.rpartition(QUESTION)
    before_answer, after_answer = _history(tokenizer)
    _refuse_channels(before_answer, prompt_end)
    with_system = try_render(tokenizer, [system_message(SYSTEM), user_message(QUESTION)]) or ""
    written = [before, prompt_end, before_answer, after_answer, with_system]
    _refuse_other_spellings(tokenizer, "".join([*written, str(tokenizer.chat_template)]))
    end_id = _end_of_turn(tokenizer, after_answer, before, eos_ids)
    stop_ids = dict.fromkeys([end_id, *(one for one in (tokenizer.eos_token_id, *eos_ids) if one is not None)])
    bos, bos_text = _bos(tokenizer, plain)
    return ChatFormat(
        end_id=end_id,
        end_text=str(tokenizer.added_tokens_decoder.get(end_id, "")),
        stop_ids=tuple(stop_ids),
        **_systems(tokenizer),
        **decide_thinking(tokenizer, plain),
        gap=_gap(before_answer, prompt_end),
        bos=bos,
        bos_text=bos_text,
        takes_parts=takes_parts,
        markers=_markers(written),
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
    if chat_format.begins_thinking:
        closes = f"an empty one is written: {chat_format.empty_thinking!r}"
    on = _switch_text(chat_format.thinking_switch) or chat_format.thinking_words
    switched = _switch_text(chat_format.direct_switch) or chat_format.direct_words
    off = f"switched off by {switched}" if switched else ""
    return [
        ("system role", "yes" if chat_format.system == "role" else "no: folded into the first user turn"),
        ("several system messages", systems if chat_format.system == "role" else "folded"),
        ("later system messages", late if chat_format.system == "role" else "folded"),
        ("contents", "lists of parts" if chat_format.takes_parts else "texts"),
        ("thinking", f"{chat_format.think_open!r} to {chat_format.think_close!r}"),
        ("opened by", "the template" if chat_format.prompt_opens else "the server"),
        ("in thinking modes", on or "nothing to switch"),
        ("in direct mode", closes or off or "nothing to switch"),
        ("soft switches", ", ".join(chat_format.soft_switches) or "none"),
        ("earlier thinking", "cut out of the history" if chat_format.cuts_thinking else "kept in the history"),
        ("end of a turn", f"{chat_format.end_text!r} (token {chat_format.end_id})"),
        ("generation stops at", ", ".join(map(str, chat_format.stop_ids))),
        ("beginning of a text", _bos_words(chat_format)),
    ]


def trial_messages() -> list[dict[str, str]]:
    """Return the conversation that `mindprint doctor` shows as a prompt."""
    return [system_message(SYSTEM), user_message(QUESTION), assistant_message(ANSWER), user_message(SECOND_QUESTION)]


# --- what the template takes ---


def _takes_parts(tokenizer: TrialTokenizer) -> bool:
    """Return whether the template writes the text of a part, and not that of a text alone."""
    asked = [user_message(QUESTION)]
    return not holds(tokenizer, asked, QUESTION) and holds(PartsTokenizer(tokenizer), asked, QUESTION)


def _question_prompt(tokenizer: TrialTokenizer) -> str:
    try:
        text = render(tokenizer, [user_message(QUESTION)], generation=True)
    except TemplateRefused as error:
        raise UnsupportedTemplate(f"{error}: name another model, or mend its chat template") from error
    if QUESTION not in text:
        raise UnsupportedTemplate("the chat template leaves the user's text out: mend it, or name another model")
    return text


def _history(tokenizer: TrialTokenizer) -> tuple[str, str]:
    """Return the texts that the template writes before and after an assistant's answer."""
    turns = [user_message(QUESTION), assistant_message(ANSWER), user_message(SECOND_QUESTION)]
    text = try_render(tokenizer, turns)
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
    question = user_message(QUESTION)
    two = [system_message(SYSTEM), system_message(SECOND_SYSTEM), question]
    late = [
        system_message(SYSTEM),
        question,
        assistant_message(ANSWER),
        system_message(SECOND_SYSTEM),
        user_message(SECOND_QUESTION),
    ]
    takes_two = holds(tokenizer, two, SYSTEM, SECOND_SYSTEM)
    # Templates that write system texts one behind the other, without a space, need them joined.
    run_together = holds(tokenizer, two, SYSTEM + SECOND_SYSTEM)
    return {
        "system": "role" if holds(tokenizer, [system_message(SYSTEM), question], SYSTEM, QUESTION) else "fold",
        "joins_systems": not takes_two or run_together,
        "joins_late_systems": not holds(tokenizer, late, SYSTEM, SECOND_SYSTEM),
    }


# --- tokens ---


def _refuse_other_spellings(tokenizer: TrialTokenizer, written: str) -> None:
    """Refuse a tokenizer that reads another text as a control token: the cleaning of users' texts would not find it.

    So does one that normalizes a text, to lower case or to NFKC, before it looks for such a token.

    Args:
        tokenizer: The model's tokenizer.
        written: What the template writes. Other tokens, such as those of padding, end nothing.
    """
    for number, token in tokenizer.added_tokens_decoder.items():
        text = str(token)
        if not (text in written or number == tokenizer.eos_token_id) or text.isalnum():
            continue
        for spelled in _spellings(text):
            if spelled != text and number in tokenizer.encode(spelled, add_special_tokens=False):
                raise UnsupportedTemplate(
                    f"the tokenizer reads {spelled!r} as {text!r}, so that a user's text could end a turn: set "
                    "normalized to false for its added tokens, in tokenizer.json and tokenizer_config.json"
                )


def _spellings(text: str) -> Iterable[str]:
    """Return a text in other cases, in full width, with accents, and with characters that nobody sees."""
    yield from (text.upper(), text.lower())
    yield "".join(chr(ord(one) + FULL_WIDTH) if "!" <= one <= "~" else one for one in text)
    yield from (f"{text[:-2]}{mark}{text[-2:]}" for mark in HIDDEN_MARKS)


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
    turns = [user_message(QUESTION), assistant_message(ANSWER)]
    text = try_render(tokenizer, turns) or ""
    # Some templates write the generation prompt though they are told not to.
    return "" if text == try_render(tokenizer, turns, generation=True) else text.partition(ANSWER)[2]


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
    first, *rest = tokenizer.encode(QUESTION, add_special_tokens=True)
    if first != number:
        return "none", ""
    if rest != list(tokenizer.encode(QUESTION, add_special_tokens=False)):
        raise UnsupportedTemplate(
            "the tokenizer also writes a token behind a text, where an answer is to follow: set add_eos_token to false "
            "in tokenizer_config.json, or write bos_token in the chat template"
        )
    return "added", text


def _markers(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts in brackets that the template writes, without the tags of thinking."""
    found = (match[0] for text in texts for match in _MARKER.finditer(text) if not THINK_TAG.fullmatch(match[0]))
    return tuple(dict.fromkeys(found))


def _switch_text(switch: Switch) -> str:
    return ", ".join(f"{name}={value}" for name, value in switch.items())


def _bos_words(chat_format: ChatFormat) -> str:
    who = {"template": "written by the template", "added": "added by the server", "none": "none"}[chat_format.bos]
    return f"{chat_format.bos_text!r}, {who}" if chat_format.bos_text else who
