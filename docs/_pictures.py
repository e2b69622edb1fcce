"""Draw the pictures of the site as SVG files, from the tables below.

Each picture is a narrow column, so that its text stays readable on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

FONT = "font-family='Helvetica, Arial, sans-serif'"
FILLS = {"app": "#fff7e0", "server": "#e8ecfb", "engine": "#dff3e4", "trainer": "#fbe9e7", "store": "#eeeeee"}
BAD = "#b00020"


@dataclass
class Svg:
    """Shapes in the order of drawing; coordinates are pixels from the upper left corner."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 14,
        bold: bool = False,
        anchor: str = "start",
        color: str = "#000",
    ) -> None:
        weight = "bold" if bold else "normal"
        look = f"font-size='{size}' font-weight='{weight}' fill='{color}'"
        self.parts.append(f"<text x='{x:g}' y='{y:g}' {look} text-anchor='{anchor}'>{escape(text)}</text>")

    def box(self, x: float, y: float, w: float, h: float, fill: str, edge: str = "#3f51b5") -> None:
        self.parts.append(
            f"<rect x='{x:g}' y='{y:g}' width='{w:g}' height='{h:g}' rx='6' fill='{fill}' stroke='{edge}'/>"
        )

    def arrow(self, *points: tuple[float, float], both: bool = False, color: str = "#444") -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        start = " marker-start='url(#back)'" if both else ""
        self.parts.append(
            f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='1.5' "
            f"marker-end='url(#head)'{start}/>"
        )

    def number(self, x: float, y: float, number: int) -> None:
        self.parts.append(f"<circle cx='{x:g}' cy='{y:g}' r='9' fill='#fff' stroke='#444'/>")
        self.text(x, y + 4, str(number), size=12, anchor="middle")

    def render(self) -> str:
        markers = "".join(
            f"<marker id='{name}' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='8' markerHeight='8' "
            f"orient='{orient}'><path d='M0,0 L8,4 L0,8 z' fill='#444'/></marker>"
            for name, orient in (("head", "auto"), ("back", "auto-start-reverse"))
        )
        body = "\n".join(self.parts)
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width} {self.height}' "
            f"width='{self.width}' height='{self.height}' role='img' {FONT}>\n"
            f"<title>{escape(self.title)}</title>\n<defs>{markers}</defs>\n"
            f"<rect width='100%' height='100%' fill='#fff'/>\n{body}\n</svg>\n"
        )


@dataclass(frozen=True)
class Step:
    """One box of a life: what happens, where in the code, and which process does it."""

    process: str
    what: str
    where: str = ""
    otherwise: str = ""
    """What happens if this step fails."""


LIFE_OF_A_TRACE = (
    Step("app", "Your app sends engagements", "POST /v1/users/{id}/engagements"),
    Step("app", "Your app starts a batch", "POST /v1/batches"),
    Step(
        "server", "The scheduler picks an engagement", "generation/scheduler.py", "skipped: its answer is too unlikely"
    ),
    Step("server", "Memory as of that time is recalled", "memory/"),
    Step("server", "The prompt is built", "prompts/builder.py"),
    Step("engine", "The base model writes thinking, then answers", "generation/candidate.py"),
    Step("server", "The verifier checks it, cheapest first", "verdicts/verifier.py", "rejected: state stored"),
    Step("store", "Accepted: the trace waits", "state waiting"),
    Step("trainer", "A trainer leases it", "POST /v1/leases: state leased", "3 failed leases: dead_letter"),
    Step("trainer", "An adapter is trained and uploaded", "POST /v1/leases/{id}/complete"),
    Step("store", "One transaction: trained in version N", "state trained"),
)

LIFE_OF_A_VERSION = (
    Step("trainer", "Upload: weights, config, manifest", "POST /v1/leases/{id}/complete"),
    Step("server", "Files are validated against the base model", "adapters/validation.py", "422: rank, shapes, digest"),
    Step("store", "Files and a job are stored: 202", "store/publication_jobs.py"),
    Step("engine", "The adapter is loaded", "adapters/residency.py"),
    Step(
        "engine",
        "Parity check: same log-probabilities?",
        "adapters/parity_check.py",
        "kept as refused",
    ),
    Step("engine", "Gate: held-out engagements", "gate/gate.py", "kept as refused"),
    Step("engine", "The user's memory is prefetched", "adapters/prefetch.py"),
    Step("store", "One transaction: registered, pointer moved", "store/publication.py"),
    Step(
        "server",
        "Live, or canary with a share of traffic",
        "adapters/service.py",
        "answers collapse or fail: withdrawn",
    ),
    Step("server", "Next version arrives: standby", "running requests finish first"),
    Step("store", "Old files are removed, record stays", "keep_versions"),
)


def life(title: str, steps: Sequence[Step]) -> str:
    """Draw steps from top to bottom; what happens if a step fails stands in red inside its box."""
    wide, gap = 360, 16
    heights = [64 if step.otherwise else 46 for step in steps]
    svg = Svg(wide + 20, sum(heights) + gap * len(steps) + 44, title)
    for column, (process, fill) in enumerate(FILLS.items()):
        svg.box(10 + column * 73, 8, 68, 24, fill)
        svg.text(44 + column * 73, 25, process, size=13, anchor="middle")
    y = 46.0
    for row, (step, high) in enumerate(zip(steps, heights, strict=True)):
        svg.box(10, y, wide, high, FILLS[step.process])
        svg.text(20, y + 19, f"{row + 1}. {step.what}", bold=True, size=14)
        svg.text(20, y + 37, step.where, size=13)
        if step.otherwise:
            svg.text(20, y + 55, f"or {step.otherwise}", size=13, color=BAD)
        if row + 1 < len(steps):
            svg.arrow((10 + wide / 2, y + high), (10 + wide / 2, y + high + gap))
        y += high + gap
    return svg.render()


def what_runs_where() -> str:
    """Draw the processes, what they hold, and who calls whom."""
    rows = (
        ("api", "routes, bounds, error codes"),
        ("generation", "batches: who is next, candidates"),
        ("chat", "answers in OpenAI's format"),
        ("memory, prompts", "what is asked"),
        ("verdicts", "what is accepted"),
        ("adapters, gate", "check, switch, watch, go back"),
    )
    svg = Svg(380, 512, "What runs where")
    svg.box(70, 10, 240, 36, FILLS["app"])
    svg.text(190, 33, "your app (any OpenAI client)", bold=True, anchor="middle")
    svg.arrow((190, 46), (190, 84), both=True)
    svg.text(200, 70, "engagements, batches, chat", size=13)
    svg.box(10, 84, 360, 272, FILLS["server"])
    svg.text(22, 106, "SERVER: mindprint serve", bold=True)
    for number, (name, what) in enumerate(rows):
        svg.text(22, 130 + 22 * number, name, bold=True, size=13)
        svg.text(150, 130 + 22 * number, what, size=13)
    svg.box(22, 264, 164, 80, FILLS["engine"])
    svg.text(32, 285, "engine", bold=True)
    svg.text(32, 306, "vLLM: one base model,", size=13)
    svg.text(32, 324, "many LoRA adapters", size=13)
    svg.box(196, 264, 164, 80, FILLS["store"])
    svg.text(206, 285, "store", bold=True)
    svg.text(206, 306, "SQLite or PostgreSQL;", size=13)
    svg.text(206, 324, "traces are the queue", size=13)
    svg.arrow((190, 356), (190, 400), both=True)
    svg.text(200, 383, "leases, uploads, heartbeats", size=13)
    svg.box(10, 400, 360, 100, FILLS["trainer"])
    svg.text(22, 422, "TRAINER: mindprint train", bold=True)
    svg.text(22, 444, "one or many, here or elsewhere", size=13)
    svg.text(22, 464, "PyTorch and PEFT: leases accepted traces,", size=13)
    svg.text(22, 484, "trains a LoRA adapter, uploads the version", size=13)
    return svg.render()


@dataclass(frozen=True)
class Move:
    """A change of state and its cause."""

    start: str
    end: str
    when: str


@dataclass(frozen=True)
class Machine:
    """States from top to bottom, the first one first; `final` ones change no more."""

    title: str
    about: str
    states: dict[str, str]
    moves: tuple[Move, ...]
    final: tuple[str, ...] = ()


def machine(it: Machine) -> str:
    """Draw states in a column; a change to the next state goes straight down, others run beside the column."""
    names = list(it.states)
    high, gap, wide, left = 34, 40, 130, 120
    top = 14
    svg = Svg(370, top + len(names) * (high + gap) - gap + 14, it.title)
    y_of = {name: top + row * (high + gap) for row, name in enumerate(names)}
    for name in names:
        svg.box(left, y_of[name], wide, high, "#f1f1f1" if name in it.final else FILLS["server"])
        svg.text(left + wide / 2, y_of[name] + 22, name, bold=True, anchor="middle")
    lanes = {"left": 0, "right": 0}
    ports: dict[tuple[str, str], int] = {}

    def port(name: str, side: str) -> float:
        used = ports[name, side] = ports.get((name, side), 0) + 1
        return y_of[name] + 5 + 6 * used

    for number, move in enumerate(it.moves, 1):
        rows = names.index(move.start), names.index(move.end)
        if rows[1] == rows[0] + 1:
            x = left + wide / 2
            svg.arrow((x, y_of[move.start] + high), (x, y_of[move.end]))
            svg.number(x, (y_of[move.start] + high + y_of[move.end]) / 2 - 3, number)
            continue
        side = "right" if rows[1] > rows[0] else "left"
        lanes[side] += 1
        edge = left + wide if side == "right" else left
        lane = edge + (26 * lanes[side] if side == "right" else -26 * lanes[side])
        begin, end = port(move.start, side), port(move.end, side)
        svg.arrow((edge, begin), (lane, begin), (lane, end), (edge, end))
        svg.number(lane, (begin + end) / 2, number)
    return svg.render()


MACHINES = {
    "trace": Machine(
        "States of a trace",
        "A trace is a candidate with its verdict, as stored. Only accepted traces enter the queue.",
        {
            "waiting": "Accepted; a trainer may lease it.",
            "leased": "Held by a trainer until its lease ends.",
            "trained": "Learned by one published version of the user's adapter.",
            "dead_letter": "Set aside after `max_attempts` failed leases, until it is put back.",
            "stored": "Rejected or not judged; kept with its verdict reason, never trained as thinking.",
        },
        (
            Move("waiting", "leased", "a trainer claims its adapter's traces"),
            Move("leased", "trained", "the version is published: same transaction as the pointer"),
            Move("leased", "waiting", "the lease is released, revoked or expires, or its version is refused"),
            Move(
                "leased",
                "dead_letter",
                "a lease fails (expired, or version refused) for the last of `max_attempts` times",
            ),
            Move("dead_letter", "waiting", "a person puts it back: `POST /v1/traces/requeue`"),
            Move("trained", "waiting", "an erasure withdraws the version"),
            Move("waiting", "trained", "a refused version that learned it is promoted"),
            Move("dead_letter", "trained", "a refused version that learned it is promoted"),
        ),
        ("stored",),
    ),
    "batch": Machine(
        "States of a batch",
        "A batch is a durable job. Its items are rows: it continues after a restart, and several servers may share it.",
        {
            "queued": "Accepted, no item begun.",
            "running": "Items are being worked on.",
            "done": "Every item is done or skipped.",
            "failed": "An error ended it; `error` says which.",
            "cancelled": "A caller stopped it; written traces stay.",
        },
        (
            Move("queued", "running", "a server claims the first items"),
            Move("running", "done", "no item is left"),
            Move("running", "failed", "an item meets an unexpected error"),
            Move("running", "cancelled", "POST /v1/batches/{id}/cancel"),
            Move("queued", "cancelled", "POST /v1/batches/{id}/cancel"),
        ),
        ("done", "failed", "cancelled"),
    ),
    "lease": Machine(
        "States of a lease",
        "A lease is a trainer's timed claim on the traces of one adapter.",
        {
            "active": "Its traces belong to the owner until the deadline.",
            "completed": "Its version is published, or was refused and then promoted.",
            "released": "Given back (attempts stay), or its version was refused (attempts of its traces rise by one).",
            "expired": "The deadline passed; attempts of its traces rise by one.",
            "revoked": "An erasure removed some of its data; its other traces wait again, attempts stay.",
        },
        (
            Move("active", "completed", "the uploaded version is published"),
            Move("active", "released", "the trainer gives it back, or the gate refuses the version"),
            Move("active", "expired", "no heartbeat until the deadline"),
            Move("active", "revoked", "a user whose rows it holds, or whose version it starts from, is erased"),
            Move("released", "completed", "its refused version is promoted by number"),
        ),
        ("completed", "expired", "revoked"),
    ),
    "version": Machine(
        "States of a version",
        "A version is an immutable set of LoRA weights. Pointers say which ones answer: live, and canary for a share.",
        {
            "canary": "Answers a share of the adapter's requests.",
            "live": "Answers the adapter's requests.",
            "standby": "Passed its checks, does not answer now; may be promoted.",
            "refused": "Failed parity check or gate, or was withdrawn. With files, it may be promoted by number.",
        },
        (
            Move("canary", "live", "`canary_requests` good answers, or promote"),
            Move("live", "standby", "another version goes live, or rollback"),
            Move("standby", "live", "promote or rollback"),
            Move("standby", "canary", "a canary share is set for it"),
            Move("canary", "standby", "the canary is ended"),
            Move("live", "refused", "its answers collapse or fail: withdrawn"),
            Move("canary", "refused", "its answers collapse or fail: withdrawn"),
            Move("standby", "refused", "data that it learned from is erased"),
            Move("refused", "live", "promoted by number"),
        ),
    ),
}


def pictures() -> dict[str, str]:
    """Render every picture, by file name."""
    drawn = {
        "what-runs-where.svg": what_runs_where(),
        "life-of-a-trace.svg": life("The life of a trace", LIFE_OF_A_TRACE),
        "life-of-a-version.svg": life("The life of a version", LIFE_OF_A_VERSION),
    }
    return drawn | {f"states-{name}.svg": machine(it) for name, it in MACHINES.items()}
