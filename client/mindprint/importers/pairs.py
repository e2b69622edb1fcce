"""Read preferences: which of several answers a user chose.

A row has one of these forms:

- `chosen` and `rejected`, each a text, or a list of messages whose last one is the answer (UltraFeedback). The question
  is `prompt`, or the messages before the answer, or the text before the last `Assistant:` (HH-RLHF). `rejected` may be
  a list of texts.
- `completions`, a list of answers with scores (UltraFeedback as it was published): the best one against the worst one.
- `input`, `preferred_output` and `non_preferred_output`, as OpenAI's preference files have them.
- `conversation_history`, a list of turns with `role`, `content` and `if_chosen` (PRISM's conversations).
- `user_prompt`, `model_response` and `if_chosen`, one answer a row (PRISM's utterances).

The candidates become [A], [B], ... of a closed question.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from mindprint.importers.candidates import listed
from mindprint.importers.columns import Columns, find_columns
from mindprint.importers.messages import Message, messages_of, transcript
from mindprint.importers.row_builder import Draft, LastAnswers, RowBuilder
from mindprint.importers.rows import (
    NO_ANSWER_TEXT,
    NO_QUESTION_TEXT,
    Rows,
    Skips,
    fault_of_user,
    first_text,
    text,
)
from mindprint.importers.tables import TableRow, column_names, parsed, table_rows
from mindprint.importers.texts import is_gone

ASKED = "Which answer do you prefer?"
HISTORY = "conversation_history"
COMPLETIONS = "completions"
NO_CHOICE = "no answer was chosen"
TIE = "chosen and rejected are the same"
INVERTED = "chosen has a lower score than rejected"
OTHER_QUESTION = "chosen and rejected answer different questions"
_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)
# UltraFeedback's overall_score is 10 in some rows whose critique says 1, so the mean of its ratings comes first.
_COMPLETION_SCORES = ("fine-grained_score", "score", "rating", "overall_score")
_COMPLETION_TEXTS = ("response", "completion", "text", "content")
_SPEAKER = "\n\nAssistant:"


@dataclass(frozen=True)
class _Preference:
    id: str
    prompt: str
    chosen: str
    rejected: Sequence[str]
    fault: str = ""
    """Why the row is faulty, if it is."""


def read(
    file: Path, skips: Skips, columns: Columns, *, user: str | None = None, time_format: str | None = None
) -> Rows:
    """Yield the choices of a table with the ids of their users.

    Args:
        file: The table.
        skips: Counts rows that are left out, by reason.
        columns: The names of its columns.
        user: The user of rows without one, and the only one to import.
        time_format: How texts write times; None: in any of the known forms.

    Raises:
        BadImport: The table cannot be read, or lacks a column.
    """
    names = column_names(file)
    is_prism = HISTORY in names or {"if_chosen", "model_response"} <= set(names)
    has_completions = COMPLETIONS in names and not {"chosen", "rejected"} <= set(names)
    needed = () if is_prism or has_completions or not names else ("chosen", "rejected")
    found = find_columns(file, columns, names, needed)
    builder = RowBuilder(skips, only=user, time_format=time_format)
    last = LastAnswers(time_format)
    for draft in _drafts(file, found, Skips()) if found.id else ():
        last.add(draft)
    for draft in _drafts(file, found, skips):
        if why := last.why_left_out(draft):
            skips.leave_out(why, draft.where)
        elif built := builder.build(draft):
            yield built


def _drafts(file: Path, columns: Columns, skips: Skips) -> Iterator[Draft]:
    for row, preference in _preferences(table_rows(file, skips), columns, skips):
        try:
            prompt, choices, response = listed(preference.prompt, ASKED, preference.chosen, preference.rejected)
        except ValueError as error:
            skips.reject(str(error), row.where)
            continue
        yield Draft(
            where=row.where,
            number=row.number,
            user=row.text(columns.user) if columns.user else None,
            id=preference.id,
            prompt=prompt,
            response=response,
            time=row.value(columns.time),
            reason=row.text(columns.reason),
            choices=choices,
            fault=fault_of_user(row.value(columns.user)),
        )


def _preferences(rows: Iterator[TableRow], columns: Columns, skips: Skips) -> Iterator[tuple[TableRow, _Preference]]:
    # By user and turn: two users may have conversations with the same id.
    answers: dict[tuple[str, str], list[TableRow]] = defaultdict(list)
    for row in rows:
        id = row.text(columns.id) or f"row-{row.number}"
        if isinstance(row.value(HISTORY), list):
            turns = _turns(row.text("conversation_id") or id, row.value(HISTORY))
        elif row.value("if_chosen") is not None and row.value("model_response") is not None:
            turn = row.text("interaction_id") or f"{row.text('conversation_id')}/{row.text('turn')}"
            answers[row.text(columns.user), turn].append(row)
            continue
        elif columns.chosen is None and isinstance(answered := parsed(row.value(COMPLETIONS)), list):
            turns = iter([_best_and_worst(id, _asked(row, columns), answered)])
        else:
            turns = iter([_pair(row, id, columns)])
        for preference in turns:
            if why := _why_left_out(row, preference):
                _count(skips, why, row.where)
            else:
                yield row, preference
    for (_, id), group in answers.items():
        chosen = [text(row.value("model_response")) for row in group if row.value("if_chosen") is True]
        others = [text(row.value("model_response")) for row in group if row.value("if_chosen") is not True]
        preference = _Preference(id, group[0].text("user_prompt"), chosen[0] if len(chosen) == 1 else "", others)
        if why := NO_CHOICE if not chosen else _why_left_out(group[0], preference):
            _count(skips, why, group[0].where)
        else:
            yield group[0], preference


def _count(skips: Skips, why: str, where: str) -> None:
    if why in (INVERTED, OTHER_QUESTION):
        skips.reject(why, where)
    else:
        skips.leave_out(why, where)


def _why_left_out(row: TableRow, preference: _Preference) -> str:
    if preference.fault:
        return preference.fault
    if not preference.prompt or is_gone(preference.prompt):
        return NO_QUESTION_TEXT
    if not preference.chosen or is_gone(preference.chosen) or not preference.rejected:
        return NO_CHOICE if not preference.chosen else NO_ANSWER_TEXT
    if preference.chosen in preference.rejected:
        return TIE
    for better, worse in _SCORES:
        scores = _number(row.value(better)), _number(row.value(worse))
        if scores[0] is not None and scores[1] is not None and scores[0] < scores[1]:
            return INVERTED
    return ""


def _pair(row: TableRow, id: str, columns: Columns) -> _Preference:
    chosen, rejected = (_answers(row.value(column)) for column in (columns.chosen, columns.rejected))
    before, answer = chosen[0] if len(chosen) == 1 else ("", "")
    others = [other for _, other in rejected if other and not is_gone(other)]
    # A question of its own in one of the two counts, also beside a column for the question.
    is_of_other = any(asked and before and asked != before for asked, _ in rejected)
    return _Preference(id, _asked(row, columns) or before, answer, others, OTHER_QUESTION if is_of_other else "")


def _answers(value: Any) -> list[tuple[str, str]]:
    """Return what stands before each answer of a cell, and the answer. A list of texts holds several answers."""
    value = parsed(value)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return [_split(each) for each in value]
    return [_split(value)]


def _asked(row: TableRow, columns: Columns) -> str:
    """Return the question of a row: a text, or messages."""
    asked = parsed(row.value(columns.prompt))
    if isinstance(asked, Mapping):  # OpenAI's `input`
        asked = asked.get("messages")
    return transcript(messages_of(asked)) if isinstance(asked, list) else text(asked)


def _best_and_worst(id: str, prompt: str, answered: Sequence[Any]) -> _Preference:
    """Return the choice between the answers with the highest and the lowest score. Equal scores choose none.

    One kind of score decides: the first one that any answer has. Answers without it are left out.
    """
    answers = [answer for answer in answered if isinstance(answer, Mapping) and first_text(answer, _COMPLETION_TEXTS)]
    for key in _COMPLETION_SCORES:
        scored = [(score, answer) for answer in answers if (score := _number(answer.get(key))) is not None]
        if not scored:
            continue
        (highest, best), (lowest, worst) = max(scored, key=itemgetter(0)), min(scored, key=itemgetter(0))
        if lowest < highest:
            return _Preference(id, prompt, first_text(best, _COMPLETION_TEXTS), [first_text(worst, _COMPLETION_TEXTS)])
        break
    return _Preference(id, prompt, "", [])


def _number(value: object) -> float | None:
    """Return a finite score, which some files write as a text."""
    try:
        score = float(text(value))
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _split(value: Any) -> tuple[str, str]:
    """Return what stands before an answer, and the answer."""
    if isinstance(value, list):
        found = messages_of(value)
        if not found or found[-1].role != "assistant":
            return transcript(found), ""
        return transcript(found[:-1]), found[-1].text
    before, speaker, answer = text(value).rpartition(_SPEAKER)
    return (before.strip(), answer.strip()) if speaker else ("", text(value))


def _turns(conversation: str, history: Sequence[Any]) -> Iterator[_Preference]:
    """Yield the choice of each turn of a conversation. Later turns show the chosen answers of those before."""
    turns: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in history:
        if isinstance(entry, Mapping) and isinstance(entry.get("turn"), int):
            turns[entry["turn"]].append(entry)
    before: list[Message] = []
    for turn, entries in sorted(turns.items()):
        asked = next((text(entry.get("content")) for entry in entries if entry.get("role") == "user"), "")
        answers = [entry for entry in entries if entry.get("role") != "user"]
        chosen = [text(entry.get("content")) for entry in answers if entry.get("if_chosen") is True]
        others = [text(entry.get("content")) for entry in answers if entry.get("if_chosen") is not True]
        before.append(Message("user", asked))
        only = chosen[0] if len(chosen) == 1 else ""
        if asked:
            yield _Preference(f"{conversation}/{turn}", transcript(before), only, [one for one in others if one])
        before.append(Message("assistant", only))
