"""`mindprint traces`: list, show, write, requeue, export and import traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.compare import (
    Sides,
    beside,
    fill_from_store,
    print_sides,
    state_of,
    tokens_of,
    verdict_of,
    write_missing,
)
from mindprint.cli.engagement_import import Bounds
from mindprint.cli.errors import Fail
from mindprint.cli.left_out import MAX_BAD_SHARE, LeftOutOptions, MaxBadShare, SkippedFile
from mindprint.cli.options import After, AsJson, Limit, Url, connect, given
from mindprint.cli.output import print_facts, print_json, print_next, print_rows, print_text, short
from mindprint.cli.trace_export import ExportFormat, export_traces
from mindprint.cli.trace_import import import_thinking
from mindprint.row_files import FileFormat
from mindprint.sync_client import MindprintClient
from mindprint.types import AskedMode, Mode, Trace, TraceRequest, TraceState, VerdictLabel

app = typer.Typer(no_args_is_help=True)
User = Annotated[str | None, typer.Option("--user", "-u", help="Only of this user.")]
OfVerdict = Annotated[VerdictLabel | None, typer.Option("--verdict", help="Only with this verdict.")]


@app.command("list")
def list_traces(
    user: User = None,
    engagement: Annotated[str | None, typer.Option("--engagement", "-e", help="Only about this engagement.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="Only of this mode.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only of this batch.")] = None,
    verdict: OfVerdict = None,
    state: Annotated[TraceState | None, typer.Option(help="Only in this state of the queue.")] = None,
    limit: Limit = 20,
    after: After = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List traces in the order in which they were written."""
    with connect(url) as client:
        page = client.traces.list(
            user=user,
            engagement=engagement,
            mode=mode,
            batch=batch,
            verdict=verdict,
            state=state,
            limit=limit,
            after=after,
        )
    if as_json:
        return print_json(page)
    rows = [
        (
            trace.id,
            trace.user_id,
            trace.engagement_id,
            trace.mode,
            trace.reason or trace.verdict,
            trace.state,
            short(trace.thinking or trace.answer),
        )
        for trace in page.traces
    ]
    empty = "no such traces: `mindprint batches start` writes some"
    print_rows(("trace", "user", "engagement", "mode", "verdict", "state", "thinking"), rows, empty=empty)
    print_next(page.next, "mindprint traces list")


@app.command("show")
def show(
    trace_id: Annotated[str | None, typer.Argument(metavar="TRACE", help="The trace's id.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="The user, instead of TRACE.")] = None,
    engagement: Annotated[
        str | None, typer.Option("--engagement", "-e", help="About this engagement, instead of TRACE.")
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Show generic and personal thinking next to each other.")
    ] = False,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Side by side, and have a missing side written now. Accepted personal thinking joins the queue.",
        ),
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show one trace: the query, the thinking, the answer, and what made it.

    With --user and --engagement instead of TRACE: show generic and personal thinking about it side by side.
    """
    with connect(url) as client:
        if trace_id is not None and user is None and engagement is None:
            trace = client.traces.get(trace_id)
            if not (side_by_side or write):
                return _print(trace, as_json, None if as_json else _real_answer(client, trace))
            sides = beside(client, trace)
        elif trace_id is None and user is not None and engagement is not None:
            sides = fill_from_store(client, Sides(user_id=user, engagement_id=engagement))
        else:
            raise Fail("name either TRACE, or both --user and --engagement", code=2)
        if write:
            sides = write_missing(client, sides)
    if as_json:
        return print_json(sides)
    print_sides(sides)


@app.command("write")
def write(
    user: Annotated[str, typer.Option("--user", "-u", help="The user.")],
    engagement: Annotated[str | None, typer.Option("--engagement", "-e", help="About this stored engagement.")] = None,
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="About this question, which is not stored.")
    ] = None,
    choice: Annotated[list[str] | None, typer.Option("--choice", help="An answer to choose from; repeat it.")] = None,
    target: Annotated[str | None, typer.Option(help="The real answer, for the verdict.")] = None,
    mode: Annotated[
        AskedMode, typer.Option(help="How to think; auto, with --query: only where that pays for the user.")
    ] = "personal",
    model: Annotated[str, typer.Option("--model", "-m", help="base, user/<id> or cohort/<name>.")] = "base",
    temperature: Annotated[float | None, typer.Option(help="0 to 2.")] = None,
    tokens: Annotated[int | None, typer.Option("--max-thinking-tokens", help="Tokens of the thinking at most.")] = None,
    thinking_prefix: Annotated[
        str | None, typer.Option(help="How the thinking begins, instead of the model's setting.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same trace.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Whose memory the prompt shows, with --query: own, none or user/<id>.")
    ] = None,
    thinking: Annotated[
        str | None, typer.Option(help="With --query: thinking in the place of what would be written.")
    ] = None,
    show_choices: Annotated[
        bool, typer.Option("--show-choices/--hide-choices", help="Whether the prompt lists the choices of a --query.")
    ] = True,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Write one trace now."""
    request = TraceRequest(
        **given(
            user_id=user,
            engagement_id=engagement,
            query=query,
            choices=choice or None,
            target=target,
            mode=mode,
            model=model,
            temperature=temperature,
            max_thinking_tokens=tokens,
            thinking_prefix=thinking_prefix,
            seed=seed,
            memory=memory,
            thinking=thinking,
            show_choices=show_choices,
        )
    )
    with connect(url) as client:
        trace = client.traces.create(request)
    _print(trace, as_json)


@app.command("requeue")
def requeue(
    trace_ids: Annotated[list[str] | None, typer.Argument(metavar="TRACE...", help="Ids of dead letters.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="All of this user, instead of TRACE.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All there are, instead of TRACE.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Put dead letters back into the queue, so that a trainer takes them again.

    `mindprint traces list --state dead_letter` shows them.
    """
    if sum((bool(trace_ids), user is not None, all_)) != 1:
        raise Fail("name either traces, --user or --all", code=2)
    with connect(url) as client:
        done = client.traces.requeue(trace_ids or None, user=user)
    if as_json:
        return print_json(done)
    typer.echo(f"traces that wait again: {done.requeued}")


@app.command("export")
def export(
    user: User = None,
    verdict: OfVerdict = None,
    rows: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            "-f",
            help="traces: as they are stored. trl-sft: prompt and completion of accepted ones. messages: the question "
            "and the answer with its thinking. trl-dpo: pairs of an accepted and a rejected one of the same prompt.",
        ),
    ] = "traces",
    file_format: Annotated[
        FileFormat,
        typer.Option("--file-format", help="jsonl, parquet, or datasets: a folder for `datasets.load_from_disk`."),
    ] = "jsonl",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of stdout.")] = None,
    url: Url = None,
) -> None:
    """Export traces, one a line, or as rows that TRL trains on."""
    with connect(url) as client:
        export_traces(client, rows, file_format, out, user=user, verdict=verdict)


@app.command("import")
def import_(
    user_id: Annotated[str, typer.Argument(metavar="USER", help="The user.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, readable=True, help="As `traces export` writes it."
        ),
    ],
    named: Annotated[
        str | None,
        typer.Option("--from", metavar="USER", help="The same person's id in the file, where it is another one."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="Traces in one request.")] = Bounds.rows,
    size: Annotated[int, typer.Option(min=1024, help="Bytes in one request.")] = Bounds.size,
    max_bad_share: MaxBadShare = MAX_BAD_SHARE,
    skipped: SkippedFile = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Import the accepted thinking in a file, about stored engagements of USER. It then waits for a trainer.

    A line needs an engagement_id and a thinking, and no user_id of another user. The file is checked first; importing
    it again changes nothing.
    """
    options = LeftOutOptions(max_bad_share=max_bad_share, skipped=skipped, as_json=as_json)
    with connect(url) as client:
        import_thinking(client, user_id, file, Bounds(rows=rows, size=size), options, named=named)


def _real_answer(client: MindprintClient, trace: Trace) -> str | None:
    """Return what the user answered, if a trace was rejected; None if the engagement is gone or was never stored."""
    if trace.verdict != "rejected" or trace.engagement_id is None:
        return None
    after = None
    while True:
        page = client.users.list_engagements(trace.user_id, limit=1000, after=after)
        if found := next((each for each in page.engagements if each.id == trace.engagement_id), None):
            return found.response
        if (after := page.next) is None:
            return None


def _print(trace: Trace, as_json: bool, real_answer: str | None = None) -> None:
    if as_json:
        return print_json(trace)
    provenance = trace.provenance
    print_facts(
        [
            ("trace", trace.id),
            ("user", trace.user_id),
            ("engagement", trace.engagement_id),
            ("verdict", verdict_of(trace)),
            ("state", state_of(trace)),
            *([("versions", ", ".join(trace.versions))] if trace.versions else []),
            ("scores", ", ".join(f"{name} {value:.3f}" for name, value in trace.scores.items())),
            (
                "made by",
                f"{provenance.model}, mode {provenance.mode}, prompt {provenance.prompt_version}, "
                f"seed {provenance.seed}, {provenance.engine}",
            ),
            *([("mode_reason", provenance.mode_reason)] if provenance.mode_reason else []),
            ("tokens", tokens_of(trace)),
        ]
    )
    print_text("question", trace.query)
    print_text("thinking", trace.thinking)
    print_text("answer", trace.answer)
    if real_answer is not None:
        print_text("real answer", real_answer)
    if trace.choice_logprobs:
        likely = sorted(trace.choice_logprobs.items(), key=lambda item: -item[1])
        print_text("choices", "\n".join(f"{logprob:8.3f}  {choice}" for choice, logprob in likely))
