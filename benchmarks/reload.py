"""Do answers go on undisturbed while new versions of adapters go live, and how soon does a new trace speak?

Chat requests come at a steady rate, whatever becomes of those before them, for the adapters of some users in turn. In
every other phase versions are published meanwhile, as a trainer does it: claimed, uploaded, proved on the engine, taken
live. They are made beforehand and without training: each writes a word of its own and nothing else (marks.py), so that
an answer shows which version wrote each of its tokens. What they cannot show is a cached prompt of another version.
Times to the first token count from when a request was due. Then, without that load, a real trainer is started for a
new user as soon as a batch has written traces for that user, and it is told what happens when until the new version
answers; the start of the trainer's process is in the time until it has claimed.

The server runs without its gate, which would rightly refuse adapters that write one word; without hold-outs, replays
and profiles; and with verdicts that accept every trace with the right answer, for what counts here is to have enough.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import httpx
import psutil  # type: ignore[import-untyped]
import typer

from harness import CannotMeasure, JsonFile, Quick, Report, alternate, measure, spread
from lora_mix import quantile
from marks import Marked, make
from mindprint import AsyncMindprintClient, records
from mindprint.demo.output import Output
from mindprint.demo.processes import Child, Processes, free_port
from mindprint.model_files import DEFAULT, resolve
from mindprint.records import UserRecords
from mindprint.types import Batch, BatchRequest, Engagement, LeaseRequest
from workload import PROFILE_NEVER

SETTINGS = {
    "GATE": "false",
    "HOLDOUT_SHARE": "0",
    "REPLAY_SHARE": "0",
    "PROFILE_EVERY": str(PROFILE_NEVER),
    "PROBE": "false",
    "GIVE_UP": "null",
    "MIN_GAIN": "null",
    "MIN_ANCHOR": "null",
    "ANCHOR_POOL": "0",
    "MAX_THINKING_TOKENS": "32",
}
START_S = 300
TRAIN_S = 600
LEASE_S = 300.0
QUESTIONS = 64
"""Of each user; then they come again."""
TRIES = 4
"""Batches, each over further engagements, until there are traces enough."""
POLL_S = 0.1
WARM_UP_S = 10.0
PATIENCE = 4
"""Times its length that a phase may take."""
QUIET, PUBLISHING = "quiet", "publishing"


@dataclass(frozen=True)
class Sizes:
    phases: int
    """Of each kind."""
    seconds: float
    """Of a phase."""
    versions: int
    """Published in a phase."""
    users: int
    each: int
    """Engagements of each user in a batch."""
    stories: int
    """Users whose traces are followed until they answer."""

    @property
    def published(self) -> int:
        """With the first version of each user and the one of the warm-up."""
        return self.users + 1 + self.phases * self.versions


FULL = Sizes(phases=4, seconds=75, versions=10, users=8, each=12, stories=3)
SMALL = Sizes(phases=1, seconds=30, versions=3, users=4, each=5, stories=1)


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    data: Annotated[Path, typer.Option(envvar="MINDPRINT_DATA", help="The folder that has the records in it.")] = Path(
        "../shared/data"
    ),
    name: Annotated[str, typer.Option("--records", help="Which records: a folder of --data.")] = "unvotes",
    rate: Annotated[float, typer.Option(min=0.01, help="Chat requests a second.")] = 0.6,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 16,
    seconds: Annotated[float, typer.Option(help="Length of a phase; 0 for the default.")] = 0,
    model: Annotated[str, typer.Option(help="A Hugging Face id, a folder, or `default`.")] = DEFAULT,
) -> None:
    sizes = SMALL if quick else FULL
    sizes = replace(sizes, seconds=seconds or sizes.seconds)

    async def work(out: Output, report: Report) -> None:
        people = records.read(
            data / name, users=sizes.users + sizes.stories, engagements=TRIES * sizes.each, held_out=QUESTIONS
        )
        chatting, fresh = people[: sizes.users], people[sizes.users :]
        with out.bar("marked versions", sizes.published) as bar:
            marked = await asyncio.to_thread(make, model, sizes.published, bar.update)
            bar.finish(f"{len(marked)} made")
        async with serving(model, out) as server:
            report.machine["device"] = (await server.client.info()).device
            publisher = Publisher(server.client, deque(marked), await traces(server, chatting, sizes, out))
            load = Load(server.http, chatting, rate, tokens)
            phases = await under_load(server, load, publisher, sizes, out)
            tell(report, phases, publisher.published, tokens)
            tell_stories(report, [await story(server, person, sizes.each, out) for person in fresh])

    measure(__doc__, "about five minutes" if quick else "about twenty minutes on two cores", json_file, work)


# --- the server ---


@dataclass(frozen=True)
class Server:
    processes: Processes
    child: Child
    client: AsyncMindprintClient
    http: httpx.AsyncClient
    """Repeats nothing: every failure is seen."""

    def cpu_seconds(self) -> float:
        """Of the server and its engine, since they began."""
        process = psutil.Process(self.child.pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))


@asynccontextmanager
async def serving(model: str, out: Output) -> AsyncIterator[Server]:
    """A server process on an empty store, ready. Raises CannotMeasure, ProcessDied."""
    with tempfile.TemporaryDirectory(prefix="mindprint-reload-") as folder, Processes(Path(folder)) as processes:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        where = {"PORT": str(port), "DATA_DIR": str(Path(folder) / "server"), "MODEL": str(resolve(model))}
        child = processes.start(
            "server", ["mindprint", "serve"], {f"MINDPRINT_{name}": v for name, v in {**SETTINGS, **where}.items()}
        )
        async with AsyncMindprintClient(url) as client, httpx.AsyncClient(base_url=url, timeout=START_S) as http:
            with out.bar("server") as bar:
                deadline = time.monotonic() + START_S
                while not await client.ready():
                    child.check()
                    if time.monotonic() > deadline:
                        raise CannotMeasure(f"the server was not ready after {START_S} s")
                    bar.update(0, child.doing())
                    await asyncio.sleep(1)
                bar.finish("ready")
            yield Server(processes, child, client, http)


# --- traces to publish from ---


async def traces(server: Server, people: Sequence[UserRecords], sizes: Sizes, out: Output) -> deque[str]:
    """Has traces written until there are enough; returns whose version each publication is. Raises CannotMeasure."""
    accepted: dict[str, int] = {}
    for part in range(TRIES):
        for person in people:
            await server.client.add_engagements(person.user_id, engagements(person, part, sizes.each))
        await batch(server, [person.user_id for person in people], part, out)
        accepted = {p.user_id: (await server.client.funnel(p.user_id)).accepted for p in people}
        planned = turns(accepted, sizes.published)
        if len(planned) == sizes.published and all(accepted.values()):
            return deque(planned)
    raise CannotMeasure(f"{sum(accepted.values())} traces were accepted, {sizes.published} are needed: {accepted}")


def engagements(person: UserRecords, part: int, each: int) -> Sequence[Engagement]:
    return person.engagements[part * each : (part + 1) * each]


async def batch(server: Server, users: Sequence[str], seed: int, out: Output) -> Batch:
    """Runs a batch to its end. Raises CannotMeasure."""
    now = begun = await server.client.start_batch(BatchRequest(users=list(users), seed=seed))
    with out.bar("traces", begun.items) as bar:
        async for now in server.client.watch_batch(begun.id):
            bar.update(now.done, f"{now.funnel.accepted} accepted")
        bar.finish(f"{now.funnel.accepted} accepted for {', '.join(users)}")
    if now.state != "done":
        raise CannotMeasure(f"the batch ended as {now.state}: {now.error}")
    return now


def turns(accepted: Mapping[str, int], count: int) -> list[str]:
    """Users in turn, each as often as there are traces, `count` in all if there are so many."""
    rounds = range(max(accepted.values(), default=0))
    return list(itertools.islice((user for n in rounds for user, have in accepted.items() if n < have), count))


# --- publishing ---


@dataclass(frozen=True)
class Published:
    key: str
    number: int
    word: str
    live_at: float
    """Monotonic seconds, when the trainer was told that it is live."""
    seconds: float
    """From the claim on."""

    @property
    def name(self) -> str:
        return f"{self.key}@{self.number}"


@dataclass
class Publisher:
    """Does what a trainer does, but that the versions are made already."""

    client: AsyncMindprintClient
    marked: deque[Marked]
    users: deque[str]
    published: list[Published] = field(default_factory=list)

    async def publish(self) -> None:
        began, key, marked = time.monotonic(), f"user/{self.users.popleft()}", self.marked.popleft()
        lease = await self.client.claim(LeaseRequest(owner="reload", adapter=key, max_traces=1, ttl_s=LEASE_S))
        if lease is None:
            raise CannotMeasure(f"no trace waits for {key}")
        version = await self.client.complete(lease.id, marked.manifest(lease), marked.config, marked.weights)
        now = time.monotonic()
        self.published.append(Published(key, version.version, marked.word, now, now - began))

    async def publish_evenly(self, count: int, seconds: float) -> None:
        """So many versions, evenly over so many seconds, or later where one takes longer than its share."""
        began = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + (number + 0.5) * seconds / count - time.monotonic()))
            await self.publish()


# --- chatting ---


@dataclass(frozen=True)
class Reply:
    key: str
    sent_at: float
    """Monotonic seconds."""
    version: str = ""
    """As the reply names it."""
    text: str = ""
    first_token_s: float = 0.0
    """Since it was due."""
    failure: str | None = None


class Load:
    """Chat requests at a steady rate, for the users in turn."""

    def __init__(self, http: httpx.AsyncClient, people: Sequence[UserRecords], rate: float, tokens: int) -> None:
        self._http = http
        self._rate = rate
        self._tokens = tokens
        questions = (person.held_out[n % len(person.held_out)].query for n in itertools.count() for person in people)
        self._asked = zip(itertools.cycle(f"user/{person.user_id}" for person in people), questions, strict=True)

    async def run(self, seconds: float, beside: asyncio.Task[None], tell: Callable[[str], None]) -> list[Reply]:
        """Asks for so long, and until what runs `beside` is done; then waits for the last answers.

        Raises CannotMeasure where that takes many times longer: then more is asked here than can be answered.
        """
        began, under_way = time.monotonic(), list[asyncio.Task[Reply]]()
        for number in itertools.count():
            due = began + number / self._rate
            if due >= began + seconds and beside.done():
                break
            if due >= began + PATIENCE * seconds:
                raise CannotMeasure(f"no version gets through beside {self._rate} requests a second: lower --rate")
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            under_way.append(asyncio.create_task(self.ask(*next(self._asked), due)))
            tell(f"{sum(one.done() for one in under_way)} of {len(under_way)} answered")
        return await asyncio.gather(*under_way)

    async def ask(self, key: str, question: str, due: float) -> Reply:
        sent = time.monotonic()
        body = {"model": key, "messages": [{"role": "user", "content": question}], "max_tokens": self._tokens}
        try:
            return await chat(self._http, body, due)
        except (httpx.HTTPError, ValueError, LookupError) as error:
            return Reply(key, sent, failure=f"{type(error).__name__}: {error}"[:200])


async def chat(http: httpx.AsyncClient, body: Mapping[str, object], due: float) -> Reply:
    """One streamed answer, in direct mode. Raises httpx.HTTPError, ValueError and LookupError if it fails."""
    sent, first, text, whole = time.monotonic(), 0.0, "", False
    async with http.stream("POST", "/v1/chat/completions", json={**body, "mode": "direct", "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            whole = whole or data == "[DONE]"
            if not data or whole:
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise ValueError(chunk["error"])
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") or ""
                first = first or (time.monotonic() if piece else 0.0)
                text += piece
    if not whole or not first:
        raise ValueError("the answer broke off" if text else "the answer is empty")
    return Reply(str(body["model"]), sent, response.headers["Mindprint-Model"], text, first - due)


# --- both at once ---


@dataclass(frozen=True)
class Phase:
    replies: list[Reply]
    versions: int
    """Published in it."""
    busy_cores: float
    """Of the server and its engine, on average."""


async def under_load(
    server: Server, load: Load, publisher: Publisher, sizes: Sizes, out: Output
) -> dict[str, list[Phase]]:
    """The phases of both kinds in turn, once every user has a version."""
    with out.bar("versions", sizes.published) as bar:
        running = "warm-up"

        def begins(what: str) -> None:
            nonlocal running
            running = what

        def tick(answered: str) -> None:
            bar.update(len(publisher.published), f"{running}, {answered}")

        async def phase(seconds: float, versions: int) -> Phase:
            began, cpu = time.monotonic(), server.cpu_seconds()
            publishing = asyncio.create_task(publisher.publish_evenly(versions, seconds))
            replies = await load.run(seconds, publishing, tick)
            await publishing
            busy = (server.cpu_seconds() - cpu) / (time.monotonic() - began)
            return Phase(replies, versions, busy)

        def side(versions: int) -> Callable[[], Awaitable[Phase]]:
            return lambda: phase(sizes.seconds, versions)

        for _ in range(sizes.users):
            await publisher.publish()
            bar.update(len(publisher.published), "first ones")
        await phase(WARM_UP_S, 1)
        sides = {QUIET: side(0), PUBLISHING: side(sizes.versions)}
        phases = await alternate(sides, sizes.phases, warm_up=False, tell=begins)
        bar.finish(f"{len(publisher.published)} published")
    return phases


def mixes(reply: Reply, words: Mapping[str, str], tokens: int) -> bool:
    """Whether any token is not the mark of the version that the reply names."""
    return reply.text.split() != [words.get(reply.version, "")] * tokens


def outdated(reply: Reply, published: Sequence[Published]) -> bool:
    """Whether an older version answers than the newest that was live when the request was sent."""
    versions = [one for one in published if one.key == reply.key]
    older = sum(one.live_at <= reply.sent_at for one in versions) - 1
    return reply.version in {one.name for one in versions[: max(0, older)]}


def tell(report: Report, phases: Mapping[str, Sequence[Phase]], published: Sequence[Published], tokens: int) -> None:
    words = {one.name: one.word for one in published}
    failed, mixed, p99 = 0, 0, dict[str, float]()
    for side, its_phases in phases.items():
        replies = [reply for phase in its_phases for reply in phase.replies]
        answers = [reply for reply in replies if reply.failure is None]
        if not all(any(reply.failure is None for reply in phase.replies) for phase in its_phases):
            raise CannotMeasure(f"nothing was answered in a {side} phase: {replies[-1].failure}")
        mixing = [reply for reply in answers if mixes(reply, words, tokens)]
        failed, mixed = failed + len(replies) - len(answers), mixed + len(mixing)
        p99[side] = first_token(answers, 0.99)
        report.row(
            side=side,
            requests=len(replies),
            failed=len(replies) - len(answers),
            mixed=len(mixing),
            outdated=sum(outdated(reply, published) for reply in answers),
            first_token_p50_s=first_token(answers, 0.5),
            first_token_p99_s=p99[side],
            phases_p99_s=spread(first_token(phase.replies, 0.99) for phase in its_phases),
            busy_cores=spread(phase.busy_cores for phase in its_phases),
        )
    for number, pair in enumerate(zip(*phases.values(), strict=True), 1):
        for side, phase in zip(phases, pair, strict=True):
            report.row(
                phase=f"{side} {number}",
                versions=phase.versions,
                requests=len(phase.replies),
                first_token_p50_s=first_token(phase.replies, 0.5),
                first_token_p99_s=first_token(phase.replies, 0.99),
                busy_cores=phase.busy_cores,
            )
    late = published[-sum(phase.versions for phase in phases[PUBLISHING]) :]
    report.row(
        published_under_load=len(late),
        adapters=len({one.key for one in late}),
        claim_to_live_s=spread(one.seconds for one in late),
    )
    everything = [reply for side in phases.values() for phase in side for reply in phase.replies]
    for failure, times in Counter(reply.failure for reply in everything if reply.failure).items():
        report.row(failure=failure, times=times)
    report.bar("failed requests", failed, at_most=0)
    report.bar("sequences that mix versions", mixed, at_most=0)
    report.bar("p99 time to first token, publishing over quiet", p99[PUBLISHING] / p99[QUIET], at_most=1.2)


def first_token(replies: Sequence[Reply], share: float) -> float:
    """The quantile of those that were answered, in seconds."""
    return quantile(sorted(reply.first_token_s for reply in replies if reply.failure is None), share)


# --- from trace to answer ---


@dataclass(frozen=True)
class Story:
    """Seconds from the last accepted trace to the first token of the version that learned from it, in order."""

    version: str
    traces: int
    claimed_s: float
    """With the start of the trainer's process."""
    training_s: float
    taken_live_s: float
    """Upload, checks, proof and pointer."""
    first_token_s: float

    @property
    def without_training_s(self) -> float:
        return self.claimed_s + self.taken_live_s + self.first_token_s

    @property
    def total_s(self) -> float:
        return self.without_training_s + self.training_s


def tell_stories(report: Report, stories: Sequence[Story]) -> None:
    for one in stories:
        report.row(**vars(one), total_s=one.total_s, without_training_s=one.without_training_s)
    report.row(
        trained_and_live=len(stories),
        trace_to_first_token_s=spread(one.total_s for one in stories),
        training_s=spread(one.training_s for one in stories),
        all_but_training_s=spread(one.without_training_s for one in stories),
    )


async def story(server: Server, person: UserRecords, each: int, out: Output) -> Story:
    """A new user: engagements, traces, a real trainer, and the first answer of the version. Raises CannotMeasure."""
    user_id, key, client = person.user_id, f"user/{person.user_id}", server.client
    for part in range(TRIES):
        await client.add_engagements(user_id, engagements(person, part, each))
        done = await batch(server, [user_id], part, out)
        if done.funnel.accepted:
            break
    else:
        raise CannotMeasure(f"no trace of {user_id} was accepted")
    assert done.finished_at is not None
    began = done.finished_at.timestamp()  # by the server's clock, which is this machine's
    trainer = server.processes.start(
        f"trainer-{user_id}",
        ["mindprint", "train", "--once", "--adapter", key, "--url", client.url],
        {"MINDPRINT_TRAIN_WORK_DIR": str(server.processes.folder / "trainer")},
    )
    with out.bar(f"trainer for {key}") as bar:

        async def until(seen: Callable[[], Awaitable[object]]) -> float:
            """Seconds since the batch was done."""
            deadline = time.monotonic() + TRAIN_S
            while True:
                running = trainer.running()
                if await seen():
                    return time.time() - began
                if not running or time.monotonic() > deadline:
                    raise CannotMeasure(f"the trainer published nothing: {' '.join(trainer.tail(3))}")
                bar.update(0, trainer.doing())
                await asyncio.sleep(POLL_S)

        async def live() -> int | None:
            return (await client.user(user_id)).live_version

        async def claimed() -> object:
            return (await client.traces(user=user_id, state="leased", limit=1)).traces or await live()

        claimed_s, live_s = await until(claimed), await until(live)
        body = {"model": key, "messages": [{"role": "user", "content": person.held_out[0].query}], "max_tokens": 1}
        asked_s, asked = time.time() - began, time.monotonic()
        answer = await chat(server.http, body, asked)
        bar.finish("live")
    number = await live()
    if number is None or answer.version != f"{key}@{number}":
        raise CannotMeasure(f"{answer.version} answered for {key}@{number}")
    version = await client.version(key, number)
    training_s = version.manifest.seconds
    return Story(
        version=answer.version,
        traces=version.traces,
        claimed_s=claimed_s,
        training_s=training_s,
        taken_live_s=live_s - claimed_s - training_s,
        first_token_s=asked_s + answer.first_token_s - live_s,
    )


if __name__ == "__main__":
    typer.run(main)
