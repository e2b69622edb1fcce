"""Read LaMP: a file of questions, each with its user's past, and a file with the answers.

Questions are a list of {"id", "input", "profile": [...]}, answers {"task": "LaMP_3", "golds": [{"id", "output"}]} (or
only that list). Every question is a user of its own, `lamp-<task>-<id>`, as the benchmark scores them: the profile's
entries are the past, and the question with its answer comes last, after all of them. An entry's fields by task:

1 citation  abstract, title: a paper that the user wrote      2 tags      description, tag (or text, category)
3 ratings   text, score from 1 to 5                           4 headlines text, title
5 titles    abstract, title                                   6 subjects  text, title
7 tweets    text: a tweet that the user wrote

`date`, where an entry has one, is its time; without dates the order of the file counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from mindprint.importers.json_stream import entries, located_entries, whole
from mindprint.importers.rows import (
    NO_TIME,
    REPEATED,
    BadImport,
    Rows,
    Skips,
    engagement,
    first_prose,
    keys_of,
    prose,
    text,
)
from mindprint.importers.timestamps import START, TICK, in_order, moment
from mindprint.types import Engagement

NO_ANSWER = "question without an answer"
_MOST_CHOICES = 64


@dataclass(frozen=True)
class _Past:
    """How an entry of a profile becomes an engagement: the field `given` fills the prompt, `answer` is the response."""

    prompt: str
    given: str
    answer: str


_TITLE = _Past("Generate a title for the following abstract of a paper: {}", "abstract", "title")
_TAG = _Past("Which tag does this movie relate to? description: {}", "description", "tag")
_CATEGORY = _Past("Which category does this article relate to? article: {}", "text", "category")
_PAST = {
    1: _TITLE,
    2: _TAG,
    3: _Past("What is the score of the following review on a scale of 1 to 5? review: {}", "text", "score"),
    4: _Past("Generate a headline for the following article: {}", "text", "title"),
    5: _TITLE,
    6: _Past("Generate a subject for the following email: {}", "text", "title"),
    7: _Past("Write a tweet.", "text", "text"),
}
_ASKED = {
    1: "for an author who has written",
    2: r"which (tag|category) does",
    3: "what is the score of",
    4: "generate a headline",
    5: "generate a title",
    6: "generate a subject",
    7: "paraphrase the following tweet",
}
"""Beginnings of questions. They identify the task if no file of answers names it."""


def read(file: Path, skips: Skips, outputs: Path | None = None) -> Rows:
    """Yield the engagements of a file of questions with the ids of their users.

    Args:
        file: The questions.
        skips: Counts rows that are left out, by reason.
        outputs: The file of answers. Without it, only the past of each user is read.

    Raises:
        BadImport: A file cannot be used.
    """
    answers = _Answers.read(outputs) if outputs else _Answers()
    asked: set[str] = set()
    labels = _Labels(file, answers)
    task = answers.task
    for line, number, item in located_entries(file):
        where = f"{file}:{line}: entry {number}"
        if asked and not _is_question(item):
            skips.reject("question lacks id, input or profile", where, f"has {keys_of(item)}")
            continue
        question = _question(where, item)
        task = task or _task(where, question)
        id = text(question["id"])
        if id in asked:
            skips.leave_out("question is repeated", where)
            continue
        asked.add(id)
        yield from _user(task, id, question, answers.by_id.get(id), labels, where, skips)
    for id in answers.by_id.keys() - asked:
        skips.leave_out("answer without a question", f"{outputs}: id {id}")


@dataclass(frozen=True)
class _Answers:
    by_id: Mapping[str, str] = field(default_factory=dict)
    task: int | None = None

    @classmethod
    def read(cls, file: Path) -> _Answers:
        data = whole(file)
        golds = data.get("golds") if isinstance(data, dict) else data
        if not isinstance(golds, list):
            raise BadImport(f'{file}: needs {{"task": ..., "golds": [...]}} and has {keys_of(data)}')
        by_id: dict[str, str] = {}
        for number, gold in enumerate(golds, 1):
            if not isinstance(gold, dict) or not {"id", "output"} <= gold.keys():
                raise BadImport(f"{file}: gold {number} needs id and output and has {keys_of(gold)}")
            by_id[text(gold["id"])] = prose(gold["output"])
        named = data.get("task") if isinstance(data, dict) else None
        if named is None:
            return cls(by_id)
        found = re.fullmatch(r"lamp[ _-]?([1-7])[a-z]?", text(named), re.IGNORECASE)
        if not found:
            raise BadImport(f"{file}: task {named!r} is not one of LaMP_1 to LaMP_7")
        return cls(by_id, int(found[1]))


@dataclass
class _Labels:
    """Choices of a closed task."""

    file: Path
    answers: _Answers

    def past(self, task: int, asked: str) -> list[str] | None:
        if task == 3:
            return ["1", "2", "3", "4", "5"]
        if task == 2:
            return _listed(asked) or self._seen
        return None

    def question(self, task: int, asked: str) -> list[str] | None:
        return ["[1]", "[2]"] if task == 1 else self.past(task, asked)

    @cached_property
    def _seen(self) -> list[str] | None:
        """Return all labels of the file, for questions that list none; None if there are too many to choose from."""
        seen = set(self.answers.by_id.values())
        for _, item in entries(self.file):
            for entry in item["profile"] if _is_question(item) else []:
                if isinstance(entry, dict):
                    seen.add(first_prose(entry, (_TAG.answer, _CATEGORY.answer)))
        seen.discard("")
        return sorted(seen) if 2 <= len(seen) <= _MOST_CHOICES else None


def _listed(asked: str) -> list[str] | None:
    """Return the labels that a question names: `tags: [comedy, action]`."""
    found = re.search(r"(?:tags|categories)\s*:\s*\[([^\]]*)\]", asked, re.IGNORECASE)
    labels = list(dict.fromkeys(label.strip(" '\"") for label in found[1].split(","))) if found else []
    return labels if len(labels) > 1 else None


def _is_question(item: object) -> TypeGuard[dict[str, Any]]:
    fits = isinstance(item, dict) and isinstance(item.get("input"), str) and isinstance(item.get("profile"), list)
    return isinstance(item, dict) and fits and bool(text(item.get("id")))


def _question(where: str, item: object) -> dict[str, Any]:
    if not _is_question(item):
        raise BadImport(f"{where}: a LaMP question has id, input and a list profile; here are {keys_of(item)}")
    return item


def _task(where: str, question: dict[str, Any]) -> int:
    for task, words in _ASKED.items():
        if re.match(words, question["input"].lstrip(), re.IGNORECASE):
            return task
    raise BadImport(f"{where}: cannot tell which LaMP task this is: name its outputs file with --outputs")


def _user(
    task: int, id: str, question: dict[str, Any], answer: str | None, labels: _Labels, where: str, skips: Skips
) -> Iterator[tuple[str, Engagement]]:
    user, asked = skips.users.of(f"lamp-{task}-{id}"), prose(question["input"])
    usable = list(_usable(question["profile"], where, skips))
    times = in_order([when for *_, when in usable])
    choices = labels.past(task, asked)
    for (entry, name, place, _), when in zip(usable, times, strict=True):
        past = _CATEGORY if task == 2 and _CATEGORY.answer in entry else _PAST[task]
        given, response = prose(entry.get(past.given)), prose(entry.get(past.answer))
        if not given or not response:
            skips.leave_out(f"entry of a profile without {past.answer if given else past.given}", place)
        elif row := engagement(
            skips,
            id=name,
            prompt=past.prompt.format(given),
            response=response,
            occurred_at=when,
            choices=choices,
            where=place,
        ):
            yield user, row
    if not answer:
        skips.leave_out(NO_ANSWER, where)
    elif row := engagement(
        skips,
        id=skips.engagements.of(f"question/{id}"),
        prompt=asked,
        response=answer,
        occurred_at=_last(question, times),
        choices=labels.question(task, asked),
        where=where,
    ):
        yield user, row


def _usable(profile: list[Any], where: str, skips: Skips) -> Iterator[tuple[dict[str, Any], str, str, datetime | None]]:
    """Yield the entries that can be used, with their ids, places and times."""
    seen: set[str] = set()
    for number, entry in enumerate(profile, 1):
        place = f"{where}, profile {number}"
        if not isinstance(entry, dict):
            skips.reject("entry of a profile is no object", place)
            continue
        name = skips.engagements.of(f"profile/{text(entry.get('id')) or f'row-{number}'}")
        if name in seen:
            skips.leave_out(REPEATED, place)
            continue
        seen.add(name)
        try:
            yield entry, name, place, moment(entry.get("date"))
        except ValueError as error:
            skips.reject(NO_TIME, place, f"{NO_TIME}: {entry.get('date')!r} ({error})")


def _last(question: dict[str, Any], times: list[datetime]) -> datetime:
    """Return a time after all entries of the profile, whatever the question's date, so that its memory has them all."""
    earliest = max(times) + TICK if times else START
    try:
        return max(earliest, moment(question.get("date")) or earliest)
    except ValueError:
        return earliest
