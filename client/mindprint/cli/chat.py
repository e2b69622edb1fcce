"""`mindprint chat`: ask a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mindprint.cli.errors import Fail
from mindprint.cli.options import AsJson, Url, connect
from mindprint.cli.output import print_json, safe
from mindprint.endpoints.chat import ChatOptions
from mindprint.sync_client import MindprintClient
from mindprint.types import AskedMode


def chat(
    question: Annotated[
        str | None, typer.Argument(help="One question; without it questions are read from the terminal or from stdin.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="base, user/<id>, cohort/<name>, with @<version> if you like.")
    ] = "base",
    mode: Annotated[
        AskedMode, typer.Option(help="Answer straight away, or think first; auto: where that pays for the user.")
    ] = "direct",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of thinking and answer together at most.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 gives the likeliest answer.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Ask a model; with `user/<id>` it answers with that user's memory and adapter."""
    options: ChatOptions = {
        "model": model,
        "mode": mode,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    with connect(url) as client:
        if question is None and at_terminal():
            if as_json:
                raise Fail("--json answers one question: add it to the command", code=2)
            return _converse(client, options)
        asked = (question if question is not None else sys.stdin.read()).strip()
        if not asked:
            raise Fail('there is no question: mindprint chat "What is ...?"', code=2)
        if as_json:
            return print_json(client.chat.completions.create(asked, **options))
        _answer(client, [{"role": "user", "content": asked}], options)


def at_terminal() -> bool:
    return sys.stdin.isatty()


def _converse(client: MindprintClient, options: ChatOptions) -> None:
    typer.secho(f"{options['model']} at {client.url}; end with Ctrl-D", dim=True)
    messages: list[dict[str, Any]] = []
    while True:
        try:
            asked = input("> ").strip()
        except EOFError:
            return typer.echo()
        if asked:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": _answer(client, messages, options)})


def _answer(client: MindprintClient, messages: Sequence[dict[str, Any]], options: ChatOptions) -> str:
    """Print an answer while it is written, its thinking dimmed above it, and return its text."""
    text, thought = "", False
    for piece in client.chat.completions.stream(messages, **options):
        if piece.thinking:
            thought = True
            typer.secho(safe(piece.thinking), dim=True, nl=False)
        if piece.text:
            if thought and not text:
                typer.echo("\n")
            text += piece.text
            typer.echo(safe(piece.text), nl=False)
    typer.echo()
    return text
