"""Read a ConvoKit corpus: a folder with utterances.jsonl (or utterances.json), and if there is one speakers.json.

An utterance that replies to another speaker's is an engagement: the utterance before it is the question, behind the
conversation's title where the corpus has one. Keys of older corpora (`user`, `root`, `reply_to`) are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindprint.importers.json_rows import JsonRow, json_rows
from mindprint.importers.json_stream import entries, whole
from mindprint.importers.people import NOBODY
from mindprint.importers.row_builder import Draft, RowBuilder
from mindprint.importers.rows import BadImport, Rows, Skips, fault_of_user, first_prose, first_text, prose, text

UTTERANCES = ("utterances.jsonl", "utterances.json")
SPEAKERS = ("speakers.json", "users.json")
CONVERSATIONS = "conversations.json"
SPEAKER = ("speaker", "user")
REPLY_TO = ("reply-to", "reply_to")
CONVERSATION = ("conversation_id", "root")
TITLE = ("title", "conversation_title", "topic")
BOT = ("is_bot", "is-bot", "bot")
NO_REPLY = "utterance replies to nothing"
NO_PARENT = "utterance replies to one that is missing, deleted or removed"
TO_ONESELF = "utterance replies to the same speaker"


@dataclass(frozen=True)
class _Said:
    speaker: str
    text: str
    is_first: bool


def is_corpus(folder: Path) -> bool:
    """Return whether a folder holds utterances."""
    return any((folder / name).is_file() for name in UTTERANCES)


def read(folder: Path, skips: Skips, *, time_format: str | None = None) -> Rows:
    """Yield the replies of a corpus as engagements, with the ids of their users.

    The texts that others reply to are held in memory.

    Args:
        folder: The corpus.
        skips: Counts rows that are left out, by reason.
        time_format: How texts write times; None: in any of the known forms.

    Raises:
        BadImport: There are no utterances, or a file cannot be used.
    """
    file = next((folder / name for name in UTTERANCES if (folder / name).is_file()), None)
    if file is None:
        raise BadImport(f"{folder}: has no {UTTERANCES[0]}: a ConvoKit corpus is a folder with it")
    bots, titles = _bots(folder), _titles(folder)
    said = _said(file)
    builder = RowBuilder(skips, time_format=time_format)
    for row in json_rows(file, skips):
        id, speaker = first_text(row.data, ("id",)), _speaker(row.data)
        if why := next((why for key in SPEAKER if (why := fault_of_user(_named(row.data.get(key))))), ""):
            skips.reject(why, row.where)
        elif not id or not any(key in row.data for key in SPEAKER) or "text" not in row.data:
            skips.reject("utterance lacks id, speaker or text", row.where)
        elif speaker in bots:
            skips.leave_out(NOBODY, row.where)
        elif not (parent_id := first_text(row.data, REPLY_TO)):
            skips.leave_out(NO_REPLY, row.where)
        elif (parent := said.get(parent_id)) is None or not parent.text:
            skips.leave_out(NO_PARENT, row.where)
        elif parent.speaker == speaker:
            skips.leave_out(TO_ONESELF, row.where)
        elif built := builder.build(_draft(row, id, speaker, parent, titles)):
            yield built


def _draft(row: JsonRow, id: str, speaker: str, parent: _Said, titles: Mapping[str, str]) -> Draft:
    title = titles.get(first_text(row.data, CONVERSATION), "") if parent.is_first else ""
    when = row.data.get("timestamp")
    return Draft(
        where=row.where,
        number=row.number,
        user=speaker,
        id=id,
        prompt=parent.text if not title or parent.text.startswith(title) else f"{title}\n\n{parent.text}",
        response=prose(row.data.get("text")),
        # Some corpora count seconds from the start of a conversation.
        time=int(when) if isinstance(when, str) and when.isdecimal() and len(when) < 9 and len(when) != 4 else when,
    )


def _said(file: Path) -> dict[str, _Said]:
    """Return the utterances that others reply to, by id."""
    wanted = {first_text(row.data, REPLY_TO) for row in json_rows(file, Skips())}
    return {
        id: _Said(_speaker(row.data), prose(row.data.get("text")), not first_text(row.data, REPLY_TO))
        for row in json_rows(file, Skips())
        if (id := first_text(row.data, ("id",))) in wanted
    }


def _speaker(data: Mapping[str, Any]) -> str:
    return next((found for key in SPEAKER if (found := text(_named(data.get(key))))), "")


def _named(speaker: Any) -> Any:
    """Return the id of a speaker, which some corpora write as an object."""
    return speaker.get("id") if isinstance(speaker, Mapping) else speaker


def _bots(folder: Path) -> set[str]:
    """Return the speakers that the corpus itself calls bots."""
    file = next((folder / name for name in SPEAKERS if (folder / name).is_file()), None)
    return {str(id) for id, about in entries(file) if _flag(about)} if file else set()


def _flag(about: Any) -> bool:
    if not isinstance(about, Mapping):
        return False
    meta = about.get("meta")
    sources = [about, meta] if isinstance(meta, Mapping) else [about]
    return any(source.get(key) in (True, 1, "True", "true", "1") for source in sources for key in BOT)


def _titles(folder: Path) -> dict[str, str]:
    if not (folder / CONVERSATIONS).is_file():
        return {}
    found = whole(folder / CONVERSATIONS)
    titles = {}
    for id, about in found.items() if isinstance(found, Mapping) else ():
        if isinstance(about, Mapping):
            meta = about.get("meta")
            title = first_prose(meta, TITLE) if isinstance(meta, Mapping) else ""
            titles[text(id)] = title or first_prose(about, TITLE)
    return titles
