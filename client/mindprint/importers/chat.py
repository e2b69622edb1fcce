"""Read chat logs: one conversation a row, with `messages` in OpenAI's format.

`conversations` and `conversation` (ShareGPT, WildChat) are read as `messages` are, and so is a tree of messages
(`chat_tree`).

What a user does after an answer is an engagement:

- a later message of the user: the response to the conversation before it;
- an edit of an answer (a key of EDITS in the message of the assistant, or in the row for its last answer): the
  response to the conversation before the answer;
- a choice among answers (`choices`, and which of them under a key of CHOICES): the same.

Answers that the user neither chose nor edited are the assistant's words: they are not learned as the user's, unless the
caller says so. Where a conversation comes again, its later row wins, by time where rows have one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from mindprint.importers.chat_tree import MAPPING, last_branch
from mindprint.importers.messages import Message, all_messages, content_text, transcript
from mindprint.importers.row_builder import Draft, LastAnswers, RowBuilder
from mindprint.importers.rows import BadImport, Rows, Skips, fault_of_user, first_text, missing, text
from mindprint.importers.tables import DELIMITED, PARQUET, TableRow, column_names, parsed, table_rows
from mindprint.importers.texts import is_gone

MESSAGES = ("messages", "conversations", "conversation")
USER = ("user_id", "user", "user_name", "username", "safety_identifier")
ID = ("conversation_id", "thread_id", "session_id", "id", "custom_id")
TIME = ("created_at", "created", "timestamp", "create_time", "time", "date")
EDITS = ("edited", "edit", "user_edit", "edited_content", "corrected", "correction", "final")
CHOICES = ("chosen", "choice", "chosen_index", "selected")
NO_MESSAGES = "row has no messages"
NOTHING_LATER = "chat without a later message, choice or edit of the user"
ONLY_ANSWERS = f"{NOTHING_LATER}: --assistant-answers takes the assistant's answers as the user's"


@dataclass(frozen=True)
class _Act:
    """Something that a user said, chose or edited: what stood before it, and where in the conversation."""

    place: int
    before: Sequence[Message]
    response: str
    name: str = ""
    time: object = None


def read(
    file: Path,
    skips: Skips,
    *,
    user: str | None = None,
    time_format: str | None = None,
    assistant_answers: bool = False,
) -> Rows:
    """Yield what the users of a chat log said, chose and edited, with their ids.

    Args:
        file: JSON Lines, a JSON array, or a table with lists of messages.
        skips: Counts rows that are left out, by reason.
        user: The user of rows that name none, and the only one to import.
        time_format: How texts write times; None: in any of the known forms.
        assistant_answers: Take the assistant's answers as responses too: the user wrote or approved them.

    Raises:
        BadImport: The file cannot be read, or is a table without messages.
    """
    if file.suffix.lower() in (*PARQUET, *DELIMITED) and not {*MESSAGES, MAPPING} & {*(names := column_names(file))}:
        raise BadImport(
            f"{file}: is a table without a column {MESSAGES[0]!r}, so no chat log; found {', '.join(names)}: leave out "
            "--format, or name the columns with --prompt and --response"
        )
    last = LastAnswers(time_format)
    for draft in _drafts(file, Skips(), assistant_answers):
        if not is_gone(draft.response):
            last.add(draft)
    builder = RowBuilder(skips, only=user, time_format=time_format)
    for draft in _drafts(file, skips, assistant_answers):
        if not is_gone(draft.response) and (why := last.why_left_out(draft)):
            skips.leave_out(why, draft.where)
        elif built := builder.build(draft):
            yield built


def messages_in(data: Mapping[str, Any]) -> list[Any] | None:
    """Return the messages of a conversation; None if the row holds none."""
    if isinstance(data.get(MAPPING), Mapping):
        return last_branch(data)
    return next((found for key in MESSAGES if isinstance(found := parsed(data.get(key)), list)), None)


def _drafts(file: Path, skips: Skips, assistant_answers: bool) -> Iterator[Draft]:
    for row in table_rows(file, skips):
        found = all_messages(messages_in(row.data))
        messages = [message for message in found if message.text]
        if not messages:
            skips.reject(NO_MESSAGES, row.where)
            continue
        acts = list(_acts(row.data, _joined(messages), assistant_answers))
        if not acts:
            has_answer = any(message.role == "assistant" for message in messages[1:])
            skips.leave_out(NOTHING_LATER if assistant_answers or not has_answer else ONLY_ANSWERS, row.where)
        # Whoever only asked the first question is one of the users too.
        names = {name for message in found if (name := _name(message))}
        for act in acts:
            yield _draft(row, act, has_many_users=len(names) > 1)


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Join messages of one user that follow each other. Of answers that follow each other, the last one counts."""
    joined: list[Message] = []
    for message in messages:
        earlier = joined[-1] if joined else None
        if earlier is None or earlier.role != message.role or _name(earlier) != _name(message):
            joined.append(message)
        elif message.role == "user":
            joined[-1] = replace(message, text=f"{earlier.text}\n\n{message.text}")
        else:
            joined[-1] = message
    return joined


def _acts(row: Mapping[str, Any], messages: Sequence[Message], assistant_answers: bool) -> Iterator[_Act]:
    before: list[Message] = []
    for message in messages:
        is_last = message is messages[-1]
        if message.role == "user":
            if any(earlier.role == "assistant" for earlier in before):
                yield _Act(message.place, tuple(before), message.text, _name(message), _time(message.raw))
            before.append(message)
            continue
        act = _edit_or_choice(message.raw) or (_edit_or_choice(row) if is_last else "")
        if before and (act or assistant_answers):
            asker = next((_name(earlier) for earlier in reversed(before) if earlier.role == "user"), "")
            yield _Act(message.place, tuple(before), act or message.text, asker, _time(message.raw))
        before.append(replace(message, text=act or message.text))
    if messages[-1].role == "user" and (act := _edit_or_choice(row)):
        yield _Act(messages[-1].place + 1, tuple(before), act, _name(messages[-1]))


def _edit_or_choice(data: Mapping[str, Any] | None) -> str:
    """Return the text that the user made of an answer, or chose; empty if there is none."""
    if data is None:
        return ""
    for key in EDITS:
        if said := _said(data.get(key)):
            return said
    answers = data.get("choices")
    offered = [_said(answer) for answer in answers] if isinstance(answers, list) else []
    for key in CHOICES:
        chosen = data.get(key)
        if isinstance(chosen, int) and not isinstance(chosen, bool):
            return offered[chosen] if 0 <= chosen < len(offered) else ""
        if chosen_text := _said(chosen):
            return chosen_text
    return ""


def _said(value: object) -> str:
    """Return what a text, a message, or one of OpenAI's `choices` says."""
    if isinstance(value, Mapping):
        value = value.get("message", value)
        value = value.get("content") if isinstance(value, Mapping) else value
    return content_text(value)


def _draft(row: TableRow, act: _Act, *, has_many_users: bool) -> Draft:
    data = row.data
    found = data.get("metadata")
    metadata: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    sources: tuple[Mapping[str, Any], ...] = (data, metadata)
    named = next((source for source in sources if any(key in source for key in USER)), None)
    user = first_text(named, USER) if named is not None else None
    fault = next((why for key in USER if named is not None and (why := fault_of_user(named.get(key)))), "")
    if act.name and (user is None or has_many_users):
        user = act.name
    conversation = first_text(data, ID) or first_text(metadata, ID[:3])
    prompt = transcript(act.before)
    time = act.time
    if time is None:
        time = next((data[key] for key in TIME if not missing(data.get(key))), None)
    return Draft(
        where=row.where,
        number=row.number,
        user=user,
        id=_id(conversation, row.number, act, prompt),
        prompt=prompt,
        response=act.response,
        time=time,
        fault="" if user else fault,
    )


def _id(conversation: str, number: int, act: _Act, prompt: str) -> str:
    """Return the same id for the same turn of a conversation that is logged again with each request."""
    if conversation:
        return f"{conversation}/{act.place}"
    if any(message.role == "user" for message in act.before) and len(act.before) > 1:
        return f"chat/{sha256(prompt.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    return f"row-{number}/{act.place}"


def _name(message: Message) -> str:
    return text(message.raw.get("name")) if message.raw and message.role == "user" else ""


def _time(raw: Mapping[str, Any] | None) -> object:
    return next((raw[key] for key in TIME if not missing(raw.get(key))), None) if raw else None
