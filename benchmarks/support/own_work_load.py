"""The load of `own_work.py`, alike for both sides: made engagements, what the stub says, and runs in forks.

A side's process imports the server once and forks for each run. Nothing here imports the server or the harness.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mindprint.types import BatchRequest, Engagement

START = datetime(2026, 1, 1, tzinfo=UTC)
CHOICES = ["yes", "no", "perhaps"]
SHARES = [6, 3, 1]
"""How often each choice is a user's answer."""
WORDS_A_PROMPT = 12
VOCABULARY = 2000
THINKING_WORDS = 40
DATABASE = "store.db"
CHATTER = "u000"
"""The user whose chats are measured."""
CHATS_AT_ONCE = 10


@dataclass(frozen=True)
class Load:
    """What one run does: one batch over new engagements, or chats of one user."""

    users: int
    history: int
    """Engagements of each user that have an accepted trace already."""
    new: int = 0
    """Newer engagements of each user: the batch of the run."""
    chats: int = 0
    """Chats that are measured, after as many that are not."""
    arriving: bool = False
    """Whether the user gets an engagement before each chat."""


def vocabulary() -> list[str]:
    """Return made words of two to four syllables."""
    chosen = random.Random(7)
    words: set[str] = set()
    while len(words) < VOCABULARY:
        words.add(
            "".join(chosen.choice("bdfgklmnprstvz") + chosen.choice("aeiou") for _ in range(chosen.randint(2, 4)))
        )
    return sorted(words)


WORDS = vocabulary()
WEIGHTS = [1 / (rank + 10) for rank in range(VOCABULARY)]
"""Few words are in most texts, and most are rare, as in real ones."""


def text(chosen: random.Random) -> str:
    """Return a made question in one line."""
    return " ".join(chosen.choices(WORDS, WEIGHTS, k=WORDS_A_PROMPT)) + "?"


def user_name(user: int) -> str:
    """Return the id of a made user."""
    return f"u{user:03d}"


def engagement(user: int, number: int, *, settled: bool) -> Engagement:
    """Return a made engagement. The stub makes the first choice the likeliest, so a settled one is accepted."""
    chosen = random.Random(f"{user}/{number}")
    return Engagement(
        id=f"e{number:05d}",
        prompt=text(chosen),
        response=CHOICES[0] if settled else chosen.choices(CHOICES, SHARES)[0],
        choices=CHOICES,
        occurred_at=START + timedelta(minutes=number),
    )


class Stub:
    """What the engine of both sides says, at once, and the CPU that this takes."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.generated = 0
        self.scored = 0

    def thinking(self, seed: int | None, *, is_settled: bool) -> str:
        """Return a thinking that no other seed has. Of one in four there is nothing left to accept."""
        began = time.thread_time()
        self.generated += 1
        chosen = random.Random(seed)
        words = 1 if not is_settled and (seed or 0) % 4 == 0 else THINKING_WORDS
        said = " " + " ".join(chosen.choices(WORDS, k=words)) + f" {seed}."
        self.cpu_s += time.thread_time() - began
        return said

    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probabilities of tokens: the first is the likeliest."""
        self.scored += 1
        return [-1.0 - place / 10 for place in range(len(token_ids))]


@dataclass
class Outcome:
    """What a run did, to be compared with the other side's, and what it cost."""

    cpu_s: float = 0.0
    units: int = 0
    """Candidates, or chats."""
    counts: dict[str, Any] = field(default_factory=dict)
    """What must be equal on both sides."""
    calls: dict[str, int] = field(default_factory=dict)


class Clock:
    """CPU of this process, user and system, of all threads, without the stub's."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._began = time.process_time()
        self._before = stub.cpu_s

    def read(self) -> float:
        """Return the seconds since the clock was made."""
        return time.process_time() - self._began - (self._stub.cpu_s - self._before)


# --- a side: what the peers give ---


@dataclass(frozen=True)
class Side:
    """An open server of one side. Each function works for the default tenant."""

    stub: Stub
    add: Callable[[str, list[Engagement]], Awaitable[Any]]
    run_batch: Callable[[BatchRequest], Awaitable[Any]]
    """Runs a batch to its end and returns it."""
    chat: Callable[[dict[str, Any]], Awaitable[Any]]
    """Answers a body of a chat; the backend notes the body that it gets in `shown`."""
    shown: list[dict[str, Any]]


Work = Callable[[Side], Awaitable[Outcome]]
RunSide = Callable[[Path, bool, Work], Awaitable[Outcome]]
"""Opens a side on a folder, `True` for the preparation, does the work and closes."""


async def prepare(side: Side, load: Load, folder: Path) -> Outcome:
    """Store the histories, with an accepted trace for each engagement if a batch is to be measured."""
    if load.new:
        await side.add(user_name(0), [engagement(0, n, settled=True) for n in range(2)])
        batch = await side.run_batch(BatchRequest())
        if batch.funnel.accepted != 1:
            raise RuntimeError(f"the batch that prepares is {batch.state}: {batch.error}")
    for user in range(load.users):
        await side.add(user_name(user), [engagement(user, n, settled=True) for n in range(load.history)])
    if load.new:
        copy_trace(folder / DATABASE)
    return Outcome()


def copy_trace(database: Path) -> None:
    """Give each engagement a copy of the one accepted trace, with a thinking of its own."""
    with sqlite3.connect(database) as db:
        db.row_factory = sqlite3.Row
        made = dict(db.execute("SELECT * FROM traces").fetchone())
        rows = [
            {**made, "id": f"{made['id'][:-9]}{number:09d}", "user_id": user, "engagement_id": id}
            | {"thinking": f"{made['thinking']} {user} {id}"}
            for number, (user, id) in enumerate(db.execute("SELECT user_id, id FROM engagements ORDER BY user_id, id"))
            if (user, id) != (made["user_id"], made["engagement_id"])
        ]
        names = ", ".join(f'"{name}"' for name in made)
        db.executemany(f"INSERT INTO traces ({names}) VALUES ({', '.join(f':{name}' for name in made)})", rows)


async def measure_batch(side: Side, load: Load, folder: Path) -> Outcome:
    """Run a batch over each user's new engagements."""
    numbers = range(load.history, load.history + load.new)
    for user in range(load.users):
        await side.add(user_name(user), [engagement(user, n, settled=False) for n in numbers])
    clock, made = Clock(side.stub), (side.stub.generated, side.stub.scored)
    batch = await side.run_batch(BatchRequest(candidates=1))  # as in throughput.py
    cpu_s = clock.read()
    if batch.state != "done":
        raise RuntimeError(f"the batch is {batch.state}: {batch.error}")
    funnel = batch.funnel
    counts = {
        "generated": funnel.generated,
        "accepted": funnel.accepted,
        "rejected": dict(sorted(funnel.rejected.items())),
        "recalled": recalled_digest(folder / DATABASE, batch.id),
    }
    calls = {"generate": side.stub.generated - made[0], "score": side.stub.scored - made[1]}
    return Outcome(cpu_s, funnel.generated, counts, calls)


async def measure_chats(side: Side, load: Load) -> Outcome:
    """Answer chats, some at a time; the first half is not measured."""
    number = load.history

    async def ask(index: int) -> None:
        model = "/".join(("user", CHATTER))  # both sides know it, the former one has no AdapterKey
        body = {"model": model, "messages": [{"role": "user", "content": text(random.Random(f"c{index}"))}]}
        await side.chat(body)

    async def ask_all(indices: range) -> None:
        nonlocal number
        if not load.arriving:
            for start in indices[::CHATS_AT_ONCE]:
                await asyncio.gather(*map(ask, range(start, min(start + CHATS_AT_ONCE, indices.stop))))
            return
        for index in indices:
            await side.add(CHATTER, [engagement(0, number, settled=True)])
            number += 1
            await ask(index)

    await ask_all(range(load.chats))
    clock = Clock(side.stub)
    await ask_all(range(load.chats, 2 * load.chats))
    cpu_s = clock.read()
    shown = sorted(str(shown_questions(body["messages"][0]["content"])) for body in side.shown)
    return Outcome(cpu_s, load.chats, {"answered": len(side.shown), "recalled": digest(shown)})


QUESTION = re.compile(r"^Question: (.*)$", re.MULTILINE)


def shown_questions(prompt: str) -> list[str]:
    """Return the past questions that a prompt shows, and the query where it is in the same text."""
    return QUESTION.findall(prompt)


def recalled_digest(database: Path, batch_id: str) -> str:
    """Return a digest of all questions in the prompts of a batch's traces."""
    with sqlite3.connect(database) as db:
        rows = db.execute("SELECT user_id, engagement_id, prompt FROM traces WHERE batch_id = ?", (batch_id,))
        return digest(sorted(f"{user} {id} {shown_questions(prompt)}" for user, id, prompt in rows))


def digest(lines: Iterable[str]) -> str:
    """Return a short digest of lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# --- the process of a side ---


def serve(run_side: RunSide) -> None:
    """Read runs as lines of JSON, do each in a fork of this process, and write a line for each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    # Else the first collection of a fork goes through all that was imported, and copies its pages.
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reader)
            _run_forked(run_side, json.loads(line), writer)
        os.close(writer)
        with os.fdopen(reader) as stream:
            answer = stream.read()
        os.waitpid(child, 0)
        print(answer or json.dumps({"error": "the run's process died"}), file=answers, flush=True)


def _run_forked(run_side: RunSide, asked: dict[str, Any], writer: int) -> None:
    """Do one run and end the process."""
    try:
        outcome = _new_loop_run(_run(run_side, asked))
        answer = vars(outcome)
    except BaseException as error:
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    with suppress(OSError), os.fdopen(writer, "w") as stream:
        stream.write(json.dumps(answer))
    os._exit(0)


def _new_loop_run(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


async def _run(run_side: RunSide, asked: dict[str, Any]) -> Outcome:
    load, folder = Load(**asked["load"]), Path(asked["folder"])
    if asked["prepare"]:
        return await run_side(folder, True, lambda side: prepare(side, load, folder))
    copy = folder.with_name(f"{folder.name}-run")
    shutil.copytree(folder, copy)
    try:
        if load.chats:
            return await run_side(copy, False, lambda side: measure_chats(side, load))
        return await run_side(copy, False, lambda side: measure_batch(side, load, copy))
    finally:
        shutil.rmtree(copy, ignore_errors=True)
