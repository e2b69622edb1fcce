"""Read the Change-My-View files of PRIME: `history_data.json` and `evaluation_data.json`, or their folder.

Their schema is not published. Only the following is read. A file is a mapping from
authors to lists of posts, or a list of authors; an author is a list of posts or an object with such a list under
LISTS (and, in a list of authors, the name under AUTHOR). A post is an object with, each under the first of these keys
that holds something:

- TITLE and POST: the two together are the question; one is enough. A value may be an object with these keys itself.
- CHOSEN: the reply that changed the author's view: a text, an object with BODY, or a list of these, each of which
  makes an engagement.
- REJECTED, if there: replies that did not, in the same forms. The candidates are then laid out as [A], [B], ... in
  the order of their digests, which is independent of the answer, and the answer is the label.
- REASON, ID and TIME, if there.

Posts without a question or a reply are counted. A file in which no post has both is refused, with a message that names
what it has. If the rows have no times, those of the evaluation file come after the author's history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mindprint.importers.candidates import listed
from mindprint.importers.json_stream import located_entries
from mindprint.importers.people import NOBODY, is_nobody
from mindprint.importers.rows import (
    NO_TIME,
    REPEATED,
    BadImport,
    Rows,
    Skips,
    engagement,
    first_prose,
    first_text,
    keys_of,
    prose,
)
from mindprint.importers.timestamps import START, TICK, in_order, moment
from mindprint.types import Engagement

HISTORY, EVALUATION = "history_data.json", "evaluation_data.json"
AUTHOR = ("author", "op_author", "user", "user_id", "name", "id")
POST_AUTHOR = ("author", "op_author", "user_id", "user")
LISTS = ("history", "evaluation", "posts", "entries", "items", "data")
TITLE = ("title", "op_title")
POST = ("query", "post", "body", "selftext", "text", "op_text", "question", "prompt")
CHOSEN = ("chosen", "positive", "reply", "response")
REJECTED = ("rejected", "negative", "negatives")
BODY = ("body", "text", "reply")
REASON = ("reason", "explanation")
ID = ("id", "post_id")
TIME = ("created_utc", "timestamp", "created_at", "date")
_LATER = timedelta(days=366)


@dataclass
class _Author:
    """What was already read about an author. An author may be in both files."""

    last: datetime | None = None
    ids: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Pair:
    id: str
    question: str
    chosen: str
    rejected: list[str]
    reason: str
    when: datetime | None
    where: str


def read(path: Path, skips: Skips) -> Rows:
    """Yield the engagements of one file or of both files in a folder, with the ids of their users.

    Raises:
        BadImport: A file cannot be used.
    """
    files = [path]
    if path.is_dir() and not (files := [path / name for name in (HISTORY, EVALUATION) if (path / name).is_file()]):
        raise BadImport(f"{path}: has neither {HISTORY} nor {EVALUATION}")
    authors: dict[str, _Author] = {}
    for file in files:
        yield from _file(file, authors, skips)


def _file(file: Path, authors: dict[str, _Author], skips: Skips) -> Rows:
    later = file.name.startswith("evaluation")
    kind, start = ("evaluation", START + _LATER) if later else ("history", START)
    fitting, odd = 0, ""
    for line, key, value in located_entries(file):
        where = f"{file}:{line}: entry {key!r}"
        name, posts = _author(where, key, value)
        if is_nobody(name):  # also an empty one
            for number in range(1, len(posts) + 1):
                skips.leave_out(NOBODY, f"{where}, post {number}")
            fitting += len(posts)
            continue
        author = authors.setdefault(name, _Author())
        pairs: list[_Pair] = []
        for number, post in enumerate(posts, 1):
            place = f"{where}, post {number}"
            _check_author(name, post, place)
            if lacks := _lacks(post):
                skips.leave_out(f"post without {lacks}", place)
                odd = odd or f"post {number} of entry {key!r} lacks {lacks} and has {keys_of(post)}"
                continue
            fitting += 1
            pairs += _pairs(post, f"{kind}/row-{number}", kind, author, place, skips)
        times = in_order([pair.when for pair in pairs], author.last + TICK if author.last else start)
        author.last = max([*times, *([author.last] if author.last else [])], default=None)
        for pair, when in zip(pairs, times, strict=True):
            if row := _row(pair, when, skips):
                yield skips.users.of(name), row
    if odd and not fitting:
        raise BadImport(
            f"{file}: no post can be used: {odd}; read are {', '.join(TITLE + POST)} and {', '.join(CHOSEN)}"
        )


def _author(where: str, key: int | str, value: object) -> tuple[str, list[Any]]:
    name = key if isinstance(key, str) else first_text(value, AUTHOR) if isinstance(value, Mapping) else ""
    has_field = isinstance(value, Mapping) and any(key in value for key in AUTHOR)
    if not name and not isinstance(key, str) and not has_field:
        raise BadImport(f"{where}: an author needs a name under {', '.join(AUTHOR)}; here are {keys_of(value)}")
    if isinstance(value, Mapping):
        value = next((value[key] for key in LISTS if isinstance(value.get(key), list)), value)
    if not isinstance(value, list):
        raise BadImport(f"{where}: needs a list of posts under {', '.join(LISTS)}; here are {keys_of(value)}")
    return name, value


def _check_author(name: str, post: object, where: str) -> None:
    """Check that a post is its author's: a file that has its rows under one key would make one person of all.

    Raises:
        BadImport: The post names another author.
    """
    own = first_text(post, POST_AUTHOR) if isinstance(post, Mapping) else ""
    if own != name and not is_nobody(own):
        raise BadImport(f"{where}: is of {own[:40]!r}, not of {name[:40]!r}: give each author a list of its own")


def _lacks(post: object) -> str:
    if not isinstance(post, Mapping) or not _question(post):
        return "a question"
    return "" if _replies(post, CHOSEN) else "a reply"


def _question(post: Mapping[str, Any]) -> str:
    inner: Mapping[str, Any] = next((post[key] for key in POST if isinstance(post.get(key), Mapping)), {})
    title = first_prose(post, TITLE) or first_prose(inner, TITLE)
    body = first_prose(post, POST) or first_prose(inner, POST)
    return body if body.startswith(title) else f"{title}\n\n{body}".strip()


def _replies(post: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return the texts under the first key that holds any."""
    for key in keys:
        value = post.get(key)
        replies = [
            reply
            for one in (value if isinstance(value, list) else [value])
            if (reply := first_prose(one, BODY) if isinstance(one, Mapping) else prose(one))
        ]
        if replies:
            return list(dict.fromkeys(replies))
    return []


def _pairs(
    post: Mapping[str, Any], unnamed: str, kind: str, author: _Author, where: str, skips: Skips
) -> Iterator[_Pair]:
    try:
        when = next((found for key in TIME if (found := moment(post.get(key)))), None)
    except ValueError as error:
        skips.reject(NO_TIME, where, f"{NO_TIME} ({error})")
        return
    named = first_text(post, ID)
    chosen, rejected = _replies(post, CHOSEN), _replies(post, REJECTED)
    for number, reply in enumerate(chosen, 1):
        whole = f"{kind}/{named}" if named else unnamed
        id = skips.engagements.of(whole if len(chosen) == 1 else f"{whole}/{number}")
        if id in author.ids:
            skips.leave_out(REPEATED, where)
            continue
        author.ids.add(id)
        others = [other for other in rejected if other not in chosen]
        yield _Pair(id, _question(post), reply, others, first_prose(post, REASON), when, where)


def _row(pair: _Pair, when: datetime, skips: Skips) -> Engagement | None:
    prompt, response, choices = pair.question, pair.chosen, None
    if pair.rejected:
        try:
            prompt, choices, response = listed(
                pair.question, "Which reply changed your view?", pair.chosen, pair.rejected
            )
        except ValueError as error:
            skips.reject(str(error), pair.where)
            return None
    return engagement(
        skips,
        id=pair.id,
        prompt=prompt,
        response=response,
        occurred_at=when,
        reason=pair.reason or None,
        choices=choices,
        where=pair.where,
    )
