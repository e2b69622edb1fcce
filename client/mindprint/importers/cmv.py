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
from hashlib import sha256
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from mindprint.importers.ids import engagement_id, user_name
from mindprint.importers.json_stream import entries
from mindprint.importers.rows import NO_TIME, REPEATED, BadImport, Rows, Skips, engagement, first_text, keys_of, text
from mindprint.importers.timestamps import START, TICK, in_order, moment
from mindprint.types import Engagement

HISTORY, EVALUATION = "history_data.json", "evaluation_data.json"
AUTHOR = ("author", "op_author", "user", "user_id", "name", "id")
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
    for key, value in entries(file):
        where = f"{file}: entry {key!r}"
        name, posts = _author(where, key, value)
        author = authors.setdefault(name, _Author())
        pairs: list[_Pair] = []
        for number, post in enumerate(posts, 1):
            lacks = _lacks(post)
            if lacks:
                skips[f"post without {lacks}"] += 1
                odd = odd or f"post {number} of entry {key!r} lacks {lacks} and has {keys_of(post)}"
                continue
            fitting += 1
            pairs += _pairs(post, f"{kind}/row-{number}", kind, author, skips)
        times = in_order([pair.when for pair in pairs], author.last + TICK if author.last else start)
        author.last = max([*times, *([author.last] if author.last else [])], default=None)
        for pair, when in zip(pairs, times, strict=True):
            if row := _row(pair, when, skips):
                yield user_name(name), row
    if odd and not fitting:
        raise BadImport(
            f"{file}: no post can be used: {odd}; read are {', '.join(TITLE + POST)} and {', '.join(CHOSEN)}"
        )


def _author(where: str, key: int | str, value: object) -> tuple[str, list[Any]]:
    name = key if isinstance(key, str) else first_text(value, AUTHOR) if isinstance(value, Mapping) else ""
    if not name:
        raise BadImport(f"{where}: an author needs a name under {', '.join(AUTHOR)}; here are {keys_of(value)}")
    if isinstance(value, Mapping):
        value = next((value[key] for key in LISTS if isinstance(value.get(key), list)), value)
    if not isinstance(value, list):
        raise BadImport(f"{where}: needs a list of posts under {', '.join(LISTS)}; here are {keys_of(value)}")
    return name, value


def _lacks(post: object) -> str:
    if not isinstance(post, Mapping) or not _question(post):
        return "a question"
    return "" if _replies(post, CHOSEN) else "a reply"


def _question(post: Mapping[str, Any]) -> str:
    inner: Mapping[str, Any] = next((post[key] for key in POST if isinstance(post.get(key), Mapping)), {})
    title = first_text(post, TITLE) or first_text(inner, TITLE)
    body = first_text(post, POST) or first_text(inner, POST)
    return body if body.startswith(title) else f"{title}\n\n{body}".strip()


def _replies(post: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return the texts under the first key that holds any."""
    for key in keys:
        value = post.get(key)
        replies = [
            reply
            for one in (value if isinstance(value, list) else [value])
            if (reply := first_text(one, BODY) if isinstance(one, Mapping) else text(one))
        ]
        if replies:
            return list(dict.fromkeys(replies))
    return []


def _pairs(post: Mapping[str, Any], unnamed: str, kind: str, author: _Author, skips: Skips) -> Iterator[_Pair]:
    try:
        when = next((found for key in TIME if (found := moment(post.get(key)))), None)
    except ValueError:
        skips[NO_TIME] += 1
        return
    named = first_text(post, ID)
    chosen, rejected = _replies(post, CHOSEN), _replies(post, REJECTED)
    for number, reply in enumerate(chosen, 1):
        whole = f"{kind}/{named}" if named else unnamed
        id = engagement_id(whole if len(chosen) == 1 else f"{whole}/{number}")
        if id in author.ids:
            skips[REPEATED] += 1
            continue
        author.ids.add(id)
        others = [other for other in rejected if other not in chosen]
        yield _Pair(id, _question(post), reply, others, first_text(post, REASON), when)


def _row(pair: _Pair, when: datetime, skips: Skips) -> Engagement | None:
    prompt, response, choices = pair.question, pair.chosen, None
    if pair.rejected:
        candidates = sorted({pair.chosen, *pair.rejected}, key=_digest)
        if len(candidates) > len(ascii_uppercase):
            skips[f"more than {len(ascii_uppercase)} candidates"] += 1
            return None
        choices = list(ascii_uppercase[: len(candidates)])
        listed = "\n".join(f"[{label}] {reply}" for label, reply in zip(choices, candidates, strict=True))
        prompt = f"{prompt}\n\nWhich reply changed your view?\n{listed}"
        response = choices[candidates.index(pair.chosen)]
    return engagement(
        skips,
        id=pair.id,
        prompt=prompt,
        response=response,
        occurred_at=when,
        reason=pair.reason or None,
        choices=choices,
    )


def _digest(reply: str) -> bytes:
    return sha256(reply.encode("utf-8", "surrogatepass")).digest()
