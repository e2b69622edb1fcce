"""`mindprint batches`: start, watch and list batches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.batch_progress import print_funnel, watch_batch
from mindprint.cli.options import After, AsJson, Limit, Url, connect, given
from mindprint.cli.output import print_facts, print_json, print_next, print_rows, write_ndjson
from mindprint.types import Batch, BatchRequest, Mode

app = typer.Typer(no_args_is_help=True)
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id.")]


@app.command("start")
def start(
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", help="Only for this user; repeat it. Without it, all users.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Mode of thinking.")] = "personal",
    candidates: Annotated[int | None, typer.Option(help="Candidates for one engagement at most.")] = None,
    candidates_per_round: Annotated[int | None, typer.Option(help="Candidates written at once.")] = None,
    unhinted: Annotated[
        int | None, typer.Option(help="Candidates written before the prompt shows the real answer.")
    ] = None,
    hints: Annotated[
        bool | None,
        typer.Option(
            "--hints/--no-hints",
            help="Whether the prompt of later candidates may show the real answer.",
            show_default="the server's setting",
        ),
    ] = None,
    exhaustive: Annotated[
        bool | None,
        typer.Option(
            "--exhaustive/--no-exhaustive",
            help="Skip no engagement as unlikely and stop none early: for users with few engagements.",
            show_default="the server's setting",
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 to 2.")] = None,
    tokens: Annotated[int | None, typer.Option("--max-thinking-tokens", help="Tokens of a thinking at most.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same traces.")] = 0,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Starting it again with this key gives the same batch.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show the progress.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Write traces for every engagement that has no accepted one yet."""
    request = BatchRequest(
        **given(
            users=user or None,
            mode=mode,
            candidates=candidates,
            candidates_per_round=candidates_per_round,
            unhinted=unhinted,
            hints=hints,
            exhaustive=exhaustive,
            temperature=temperature,
            max_thinking_tokens=tokens,
            seed=seed,
            idempotency_key=key,
        )
    )
    with connect(url) as client:
        batch = client.batches.create(request)
        if watch:
            return watch_batch(client, batch.id, as_json=as_json)
    if as_json:
        return print_json(batch)
    typer.echo(f"batch {batch.id}: {batch.items} engagements; `mindprint batches watch {batch.id}` shows the progress")


@app.command("list")
def list_batches(limit: Limit = 20, after: After = None, as_json: AsJson = False, url: Url = None) -> None:
    """List the batches, newest first."""
    with connect(url) as client:
        page = client.batches.list(limit=limit, after=after)
    if as_json:
        return print_json(page)
    rows = [
        (
            batch.id,
            batch.state,
            batch.request.mode,
            f"{batch.done}/{batch.items}",
            batch.funnel.accepted,
            f"{batch.tokens_per_second:.0f}",
            batch.created_at,
        )
        for batch in page.batches
    ]
    empty = "no batches yet: `mindprint batches start` begins one"
    print_rows(("batch", "state", "mode", "done", "accepted", "tokens/s", "since"), rows, empty=empty)
    print_next(page.next, "mindprint batches list")


@app.command("show")
def show(batch_id: BatchId, as_json: AsJson = False, url: Url = None) -> None:
    """Show one batch as it stands."""
    with connect(url) as client:
        batch = client.batches.get(batch_id)
    _print(batch, as_json)


@app.command("watch")
def watch(batch_id: BatchId, as_json: AsJson = False, url: Url = None) -> None:
    """Follow a batch until it is done. Leaving with Ctrl-C does not stop the batch."""
    with connect(url) as client:
        watch_batch(client, batch_id, as_json=as_json)


@app.command("cancel")
def cancel(batch_id: BatchId, as_json: AsJson = False, url: Url = None) -> None:
    """Stop a batch. The traces that it has written stay."""
    with connect(url) as client:
        batch = client.batches.cancel(batch_id)
    _print(batch, as_json)


@app.command("results")
def results(
    batch_id: BatchId,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of stdout.")] = None,
    url: Url = None,
) -> None:
    """Print the traces that a batch has written, as NDJSON."""
    with connect(url) as client:
        write_ndjson(client.batches.results(batch_id), out, "traces")


def _print(batch: Batch, as_json: bool) -> None:
    if as_json:
        return print_json(batch)
    request = batch.request
    print_facts(
        [
            ("batch", batch.id),
            ("state", batch.state),
            ("error", batch.error),
            ("users", ", ".join(request.users) if request.users else "all"),
            ("mode", f"{request.mode}, seed {request.seed}"),
            ("done", f"{batch.done} of {batch.items} engagements"),
            ("generated", f"{batch.generated_tokens} tokens"),
            ("prompts", f"{batch.prompt_tokens} tokens, {batch.cached_tokens} of them cached"),
            ("began", batch.started_at),
            ("ended", batch.finished_at),
        ]
    )
    print_funnel(batch)
