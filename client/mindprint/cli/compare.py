"""Show generic and personal thinking about one engagement next to each other."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

import typer
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mindprint.cli.errors import Fail
from mindprint.cli.options import given
from mindprint.cli.output import WIDE, cell, console, numbers, print_facts, safe
from mindprint.sync_client import MindprintClient
from mindprint.types import Mode, Trace, TraceRequest, VerdictLabel

MODES: tuple[Mode, ...] = ("generic", "personal")
SCORES = ("target_logprob", "prior_logprob", "gain", "anchor", "anchor_random", "hindsight_gap")
"""Order of the known scores; others follow."""
_COLOURS: Mapping[VerdictLabel, str] = {"accepted": "green", "rejected": "red"}


class Sides(BaseModel):
    """The two traces to compare; None where none is stored."""

    user_id: str
    engagement_id: str
    generic: Trace | None = None
    personal: Trace | None = None

    def of(self, mode: Mode) -> Trace | None:
        return {"generic": self.generic, "personal": self.personal}.get(mode)

    def traces(self) -> list[Trace]:
        return [trace for trace in (self.generic, self.personal) if trace is not None]

    def missing(self) -> list[Mode]:
        return [mode for mode in MODES if self.of(mode) is None]

    def filled(self, *traces: Trace) -> Sides:
        return self.model_copy(update={trace.mode: trace for trace in traces})


def beside(client: MindprintClient, trace: Trace) -> Sides:
    """Put `trace` on its own side, and a stored trace on the other."""
    if trace.engagement_id is None:
        raise Fail(f"trace {trace.id} is about no stored engagement, so that nothing can be laid beside it")
    sides = Sides(user_id=trace.user_id, engagement_id=trace.engagement_id)
    if trace.mode not in MODES:
        raise Fail(f"trace {trace.id} is of mode {trace.mode}: `{showing(sides)}` shows generic and personal thinking")
    return fill_from_store(client, sides.filled(trace))


def fill_from_store(client: MindprintClient, sides: Sides) -> Sides:
    """Fill the empty sides with stored traces: the newest accepted personal trace, else the newest."""
    best = [_best(client, sides, mode) for mode in sides.missing()]
    return sides.filled(*(trace for trace in best if trace is not None))


def write_missing(client: MindprintClient, sides: Sides) -> Sides:
    """Write the missing sides now, with the same model, temperature, budget and seed as the other side."""
    for mode in sides.missing():
        request = TraceRequest(
            user_id=sides.user_id, engagement_id=sides.engagement_id, mode=mode, **_as_written(sides.traces())
        )
        typer.secho(f"writing {mode} thinking", dim=True, err=True)
        sides = sides.filled(client.traces.create(request))
    return sides


def print_sides(sides: Sides) -> None:
    if not sides.traces():
        raise Fail(
            f"no thinking of {sides.user_id} about {sides.engagement_id} is stored: "
            f"`{showing(sides)} --write` writes both sides"
        )
    print_facts([("user", sides.user_id), ("engagement", sides.engagement_id)])
    screen = console()
    screen.print(Group("", Text("question", style="bold"), cell(sides.traces()[0].query)))
    for modes in [MODES] if screen.width >= WIDE else [(trace.mode,) for trace in sides.traces()]:
        screen.print(Group("", _texts(sides, modes)))
    scores = {trace.mode: trace.scores for trace in sides.traces()}
    _print_numbers("score", scores, sorted(_names(scores), key=place))
    choices = {trace.mode: trace.choice_logprobs or {} for trace in sides.traces()}
    likely = choices.get("personal") or choices.get("generic") or {}
    _print_numbers("choice (log-probability)", choices, sorted(_names(choices), key=lambda name: -likely.get(name, 0)))
    for mode in sides.missing():
        typer.echo(safe(f"\nno {mode} thinking is stored: `{writing(sides, mode)}` writes some"))


def showing(sides: Sides) -> str:
    return shlex.join(["mindprint", "traces", "show", "--user", sides.user_id, "--engagement", sides.engagement_id])


def writing(sides: Sides, mode: Mode) -> str:
    """Return the command that writes a missing side."""
    words = ["mindprint", "traces", "write", "--user", sides.user_id, "--engagement", sides.engagement_id]
    return shlex.join([*words, "--mode", mode])


def verdict_of(trace: Trace) -> str:
    return f"{trace.verdict}: {trace.reason}" if trace.reason else trace.verdict


def state_of(trace: Trace) -> str:
    return f"{trace.state} in version {trace.version}" if trace.version else trace.state


def tokens_of(trace: Trace) -> str:
    return f"{trace.prompt_tokens} prompt ({trace.cached_tokens} cached), {trace.thinking_tokens} thinking"


def _best(client: MindprintClient, sides: Sides, mode: Mode) -> Trace | None:
    accepted = _newest(client, sides, mode, "accepted") if mode == "personal" else None
    return accepted or _newest(client, sides, mode)


def _newest(client: MindprintClient, sides: Sides, mode: Mode, verdict: VerdictLabel | None = None) -> Trace | None:
    """Return the newest trace. Pages are oldest first, so it is the last one of the last page."""
    newest: Trace | None = None
    after: str | None = None
    while True:
        page = client.traces.list(
            user=sides.user_id, engagement=sides.engagement_id, mode=mode, verdict=verdict, after=after
        )
        newest = page.traces[-1] if page.traces else newest
        if page.next is None:
            return newest
        after = page.next


def _as_written(others: Sequence[Trace]) -> dict[str, object]:
    if not others:
        return {}
    provenance = others[0].provenance
    return given(
        model=None if provenance.model == "imported" else provenance.model,
        temperature=provenance.sampling.get("temperature"),
        max_thinking_tokens=provenance.sampling.get("max_tokens"),
        seed=provenance.seed,
    )


def _texts(sides: Sides, modes: Sequence[Mode]) -> Table:
    """Return a table with a column for each mode."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True, style="bold", min_width=max(map(len, _ROWS)))
    columns = [_column(sides.of(mode)) for mode in modes]
    for mode in modes:
        table.add_column(mode, ratio=1, overflow="fold")
    for index, name in enumerate(_ROWS):
        row = [column[index] for column in columns]
        if any(row):
            table.add_row(name, *row)
            if name in ("thinking", "answer"):
                table.add_row()
    return table


_ROWS = ("thinking", "answer", "verdict", "state", "saw the answer", "tokens", "seed", "made by", "trace")


def _column(trace: Trace | None) -> list[Text]:
    if trace is None:
        return [Text("none is stored", style="dim"), *(Text() for _ in _ROWS[1:])]
    provenance = trace.provenance
    judged = cell(verdict_of(trace))
    judged.stylize(_COLOURS.get(trace.verdict, ""))
    saw_answer = "yes" if provenance.saw_answer else "no"
    facts = (state_of(trace), saw_answer, tokens_of(trace), provenance.seed, provenance.model, trace.id)
    return [cell(trace.thinking.strip()), cell(trace.answer), judged, *map(cell, facts)]


def _names(values: Mapping[Mode, Mapping[str, float]]) -> set[str]:
    return {name for of_mode in values.values() for name in of_mode}


def place(score: str) -> tuple[int, str]:
    return (SCORES.index(score) if score in SCORES else len(SCORES)), score


def _print_numbers(title: str, values: Mapping[Mode, Mapping[str, float]], names: Iterable[str]) -> None:
    """Return a table with a row for each name and a column for each mode; nothing without names."""
    rows = [(name, *(_number(values.get(mode, {}).get(name)) for mode in MODES)) for name in names]
    if rows:
        console().print(Group("", numbers((title, *MODES), rows)))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
