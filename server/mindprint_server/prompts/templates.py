"""The text of prompts: system, profile, recent engagements, then the query, then the mode's line.

Only the last line differs between modes. So all candidates, modes and scores of one query share one cached prefix, and
all queries of one user share the part up to the recent engagements. All functions are pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from textwrap import shorten

from mindprint.chat_format import THINK_TAG
from mindprint.types import Engagement, Mode
from mindprint_server.engine import Message
from mindprint_server.prompts.types import RecalledMemory

PROMPT_VERSION = "4"
"""Version of the texts below. Change it with every change of a text; golden tests fail otherwise."""

SYSTEM = "You answer as one particular user would. What is known about this user:"
NOTHING_KNOWN = "Nothing is known about this user yet."
MODE_LINES: dict[Mode, str] = {
    "direct": "Give only the answer.",
    "generic": "Think about the question, then give the answer.",
    "personal": "Think about what this user has shown before, then give this user's answer.",
}
HINT_LINE = (
    "This user's answer is: {answer}\n"
    "Think about what this user has shown before that leads to this answer, then give this user's answer."
)
"""Replaces the personal mode's line if the prompt shows the real answer."""
SUMMARIZE = "Below is what one user was asked and how the user answered. Describe what this user prefers and why."
MERGE = "Below are notes about one user, oldest first. Write one short description of what this user prefers and why."
SUMMARY_RULE = "Write at most four short sentences. Begin with: This user"

CONCLUDE = ". So"
"""Follows the reminders: without it the model takes the thinking to be complete."""
REMINDER_CHARS = 160
"""Characters of a past question, and of its answer, in a reminder."""

INDENT = "  "
"""Stands before each line of a user's text except its first, which follows a label."""

MAX_PASSES = 8
"""Times that a text is searched for special tokens which came about as others were removed."""

_NEXT_LINE = re.compile(r"\n(?!\n)")
_LABEL = re.compile(r"\s*(Question|Choices|Profile|Recent answers|This user's (answer|reason))\b.{0,4}:", re.IGNORECASE)
# Control characters, line separators, characters that turn the direction of text, and tags, which nobody sees.
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_HIDDEN_OR_BLANK = "".join(
    c for c in map(chr, (*range(0x3001), *range(0xE0000, 0xE0080))) if c.isspace() or _HIDDEN.match(c)
)


def clean(text: str, special: Sequence[str]) -> str:
    """Return a user's text without special tokens and tags, which could end a turn or a thinking.

    Soft switches, which could turn the thinking on or off, are parted: `/think` becomes `/ think`.

    Control characters, and characters that hide or turn text, are removed at the ends, and inside of the text written
    as their codes, as Python escapes them.
    """
    plain = _HIDDEN.sub(_code, text.strip(_HIDDEN_OR_BLANK).replace("\r\n", "\n"))
    return _remove(plain, _any_of(tuple(special), and_tags=True)).strip()


def _code(hidden: re.Match[str]) -> str:
    return hidden[0].encode("unicode_escape").decode()


def remove_special(text: str, special: Sequence[str]) -> str:
    """Return a text without special tokens and soft switches, and otherwise as it is."""
    return _remove(text, _any_of(tuple(special), and_tags=False)) if special else text


def _remove(text: str, pattern: re.Pattern[str]) -> str:
    # Removing a part can join the text around it into a new one. Text that was made for it could take as many passes as
    # it has parts, so after a few of them the parts are replaced by a character that joins nothing.
    for _ in range(MAX_PASSES):
        cleaned = pattern.sub(_without_switch, text)
        if cleaned == text:
            return cleaned
        text = cleaned
    return pattern.sub("\ufffd", text)


def _without_switch(found: re.Match[str]) -> str:
    """Return what is written for a part that is removed.

    The slash of a soft switch such as `/think` is parted from its word: "talk/think" are a user's words too.
    """
    text = found[0]
    return f"/ {text[1:]}" if text.startswith("/") else ""


@lru_cache(maxsize=8)
def _any_of(special: tuple[str, ...], *, and_tags: bool) -> re.Pattern[str]:
    """Return a pattern of these texts, the longest first, and of the tags of thinking."""
    parts = [re.escape(token) for token in sorted(special, key=len, reverse=True)]
    return re.compile("|".join([*parts, f"(?i:{THINK_TAG.pattern})"] if and_tags else parts))


def clean_block(text: str, special: Sequence[str]) -> str:
    """Return a user's text as a prompt shows it: cleaned, and with its lines after the first indented.

    The templates indent nothing. So no line of a user's text reads like one of theirs.
    """
    return _NEXT_LINE.sub(f"\n{INDENT}", clean(text, special))


def clean_line(text: str, special: Sequence[str]) -> str:
    """Return a user's text as a prompt shows it where it may take no more than a part of a line."""
    return " ".join(clean(text, special).splitlines())


def ends_early(text: str, special: Sequence[str]) -> bool:
    """Return whether a text holds a special token or a tag, which would end a turn or a thinking."""
    return THINK_TAG.search(text) is not None or any(token in text for token in special)


def episode_lines(episode: Engagement, special: Sequence[str]) -> str:
    """Return one engagement as the prompt shows it."""
    question, answer = clean_block(episode.prompt, special), clean_block(episode.response, special)
    lines = f"Question: {question}\nThis user's answer: {answer}"
    if episode.reason:
        lines += f"\nThis user's reason: {clean_block(episode.reason, special)}"
    return lines


def memory_text(memory: RecalledMemory, special: Sequence[str]) -> str:
    """Return the system message. Queries share it if their memory is the same, and else up to the profile.

    It is written once for a memory: several modes, candidates and, of a neighbor's memory, questions show it.
    """
    key = tuple(special)
    if (text := memory.texts.get(key)) is None:
        text = memory.texts[key] = _write_memory(memory, special)
    return text


def _write_memory(memory: RecalledMemory, special: Sequence[str]) -> str:
    if not memory.profile and not memory.episodes:
        return NOTHING_KNOWN
    parts = [SYSTEM]
    if memory.profile:
        profile = clean_block(memory.profile, special)
        # Its first line has no label before it.
        parts.append(f"Profile:\n{INDENT if _LABEL.match(profile) else ''}{profile}")
    if memory.episodes:
        parts.append("Recent answers:\n" + "\n".join(episode_lines(episode, special) for episode in memory.episodes))
    return "\n\n".join(parts)


def prefix_with_reminders(thinking_prefix: str, memory: RecalledMemory, special: Sequence[str]) -> str:
    """Return the text with which personal thinking begins: the mode's thinking prefix, then its reminders.

    Args:
        thinking_prefix: The mode's thinking prefix.
        memory: Its reminders are the past engagements most similar to the query.
        special: Texts of the tokenizer's special tokens, which are removed.
    """
    cases = "; ".join(
        f'asked "{shorten(clean(engagement.prompt, special), REMINDER_CHARS, placeholder=" ...")}", '
        f'this user answered "{shorten(clean(engagement.response, special), REMINDER_CHARS, placeholder=" ...")}"'
        for engagement in memory.reminders
    )
    return f"{thinking_prefix} {cases}{CONCLUDE}".strip() if cases else thinking_prefix


def prefix_without_reminders(thinking_prefix: str, mode_prefix: str) -> str:
    """Return a thinking prefix without its reminders. What is left says nothing about the user."""
    return (
        mode_prefix
        if thinking_prefix.startswith(mode_prefix) and thinking_prefix.endswith(CONCLUDE)
        else thinking_prefix
    )


def query_text(
    query: str, choices: Sequence[str] | None, mode: Mode, special: Sequence[str], hint: str | None = None
) -> str:
    """Return the user's message: the query, its choices, and last the mode's line.

    Args:
        query: What is asked.
        choices: The choices to list; None lists none.
        mode: Chooses the last line.
        special: Texts of the tokenizer's special tokens, which are removed.
        hint: The real answer; the last line then shows it.
    """
    parts = [f"Question: {clean_block(query, special)}"]
    if choices is not None:
        parts.append("Choices: " + " / ".join(clean_line(choice, special) for choice in choices))
    parts.append(MODE_LINES[mode] if hint is None else HINT_LINE.format(answer=clean_block(hint, special)))
    return "\n".join(parts)


def build(
    memory: RecalledMemory,
    query: str,
    choices: Sequence[str] | None,
    mode: Mode,
    special: Sequence[str] = (),
    hint: str | None = None,
) -> list[Message]:
    """Return the messages of a whole prompt.

    Args:
        memory: Shown in the system message.
        query: What is asked.
        choices: The choices to list; None lists none.
        mode: Chooses the last line.
        special: Texts of the tokenizer's special tokens, which are removed from users' texts.
        hint: The real answer; the last line then shows it.
    """
    return [
        {"role": "system", "content": memory_text(memory, special)},
        {"role": "user", "content": query_text(query, choices, mode, special, hint)},
    ]


def summarize(episodes: Sequence[Engagement], special: Sequence[str] = ()) -> list[Message]:
    """Return the messages that ask for notes on one piece of a history."""
    history = "\n".join(episode_lines(episode, special) for episode in episodes)
    return [{"role": "user", "content": f"{SUMMARIZE}\n\n{history}\n\n{SUMMARY_RULE}"}]


def merge(notes: Sequence[str], special: Sequence[str] = ()) -> list[Message]:
    """Return the messages that ask to merge notes on several pieces into one description."""
    listed = "\n".join(f"- {clean_block(note, special)}" for note in notes)
    return [{"role": "user", "content": f"{MERGE}\n\n{listed}\n\n{SUMMARY_RULE}"}]
