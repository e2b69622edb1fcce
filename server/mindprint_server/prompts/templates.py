"""The prompt, shared-first: system, profile, recent engagements, then the query, then the mode's line.

Only the last line differs between modes, so all candidates, modes and scores of one query read one cached
prefix, and all queries of one user share the part up to the recent engagements. Everything here is pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import shorten

from mindprint.types import Engagement, Mode
from mindprint_server.engine import Message
from mindprint_server.prompts.types import RecalledMemory

PROMPT_VERSION = "2"
"""Changes with every change of a text below: golden tests hold them still."""

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
"""Stands in the place of the personal mode's line where the writer is shown the answer."""
SUMMARIZE = "Below is what one user was asked and how the user answered. Describe what this user prefers and why."
MERGE = "Below are notes about one user, oldest first. Write one short description of what this user prefers and why."
SUMMARY_RULE = "Write at most four short sentences. Begin with: This user"

CONCLUDE = ". So"
"""After the cases that thinking recalls: without it the model takes the thinking for done."""
REMINDER_CHARS = 160
"""Of a past question, and of its answer, where thinking reminds itself of it."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u0085\u2028\u2029]")
_THINK_TAG = re.compile(r"</?think>", re.IGNORECASE)


def clean(text: str, special: Sequence[str]) -> str:
    """Text of a user's, made unable to end a turn or a thinking: control characters, special tokens and tags go.

    Removal can join a new special token out of what stood around it, hence the loop.
    """
    while True:
        cleaned = _THINK_TAG.sub("", _CONTROL.sub(" ", text.replace("\r\n", "\n")))
        for token in special:
            cleaned = cleaned.replace(token, "")
        if cleaned == text:
            return cleaned.strip()
        text = cleaned


def ends_early(text: str, special: Sequence[str]) -> bool:
    """Whether a text holds what would end a turn or a thinking: a special token or a tag."""
    return _THINK_TAG.search(text) is not None or any(token in text for token in special)


def episode_lines(episode: Engagement, special: Sequence[str]) -> str:
    """One engagement as the prompt shows it."""
    lines = f"Question: {clean(episode.prompt, special)}\nThis user's answer: {clean(episode.response, special)}"
    if episode.reason:
        lines += f"\nThis user's reason: {clean(episode.reason, special)}"
    return lines


def memory_text(memory: RecalledMemory, special: Sequence[str]) -> str:
    """The system message: what all queries at one point of a user's time have in common."""
    if not memory.profile and not memory.episodes:
        return NOTHING_KNOWN
    parts = [SYSTEM]
    if memory.profile:
        parts.append(f"Profile:\n{clean(memory.profile, special)}")
    if memory.episodes:
        parts.append("Recent answers:\n" + "\n".join(episode_lines(e, special) for e in memory.episodes))
    return "\n\n".join(parts)


def opening_text(opening: str, memory: RecalledMemory, special: Sequence[str]) -> str:
    """How personal thinking begins: the mode's opening, then what the user did in the cases most like this one."""
    cases = "; ".join(
        f'asked "{shorten(clean(e.prompt, special), REMINDER_CHARS, placeholder=" ...")}", '
        f'this user answered "{shorten(clean(e.response, special), REMINDER_CHARS, placeholder=" ...")}"'
        for e in memory.reminders
    )
    return f"{opening} {cases}{CONCLUDE}".strip() if cases else opening


def opening_without_reminders(opening: str, mode_opening: str) -> str:
    """The part of an opening that says nothing of this user: all of it, unless it recalls cases."""
    return mode_opening if opening.startswith(mode_opening) and opening.endswith(CONCLUDE) else opening


def query_text(
    query: str, choices: Sequence[str] | None, mode: Mode, special: Sequence[str], hint: str | None = None
) -> str:
    """The user's message: the query, its choices, and last the mode's line; with a hint, the line that tells it."""
    parts = [f"Question: {clean(query, special)}"]
    if choices is not None:
        parts.append("Choices: " + " / ".join(clean(choice, special) for choice in choices))
    parts.append(MODE_LINES[mode] if hint is None else HINT_LINE.format(answer=clean(hint, special)))
    return "\n".join(parts)


def build(
    memory: RecalledMemory,
    query: str,
    choices: Sequence[str] | None,
    mode: Mode,
    special: Sequence[str] = (),
    hint: str | None = None,
) -> list[Message]:
    """The whole prompt. `special` are the tokenizer's special tokens, which users' texts must not contain."""
    return [
        {"role": "system", "content": memory_text(memory, special)},
        {"role": "user", "content": query_text(query, choices, mode, special, hint)},
    ]


def summarize(episodes: Sequence[Engagement], special: Sequence[str] = ()) -> list[Message]:
    """Asks for notes on one piece of a history."""
    history = "\n".join(episode_lines(e, special) for e in episodes)
    return [{"role": "user", "content": f"{SUMMARIZE}\n\n{history}\n\n{SUMMARY_RULE}"}]


def merge(notes: Sequence[str], special: Sequence[str] = ()) -> list[Message]:
    """Asks for one description out of the notes on several pieces."""
    listed = "\n".join(f"- {clean(note, special)}" for note in notes)
    return [{"role": "user", "content": f"{MERGE}\n\n{listed}\n\n{SUMMARY_RULE}"}]
