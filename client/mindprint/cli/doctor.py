"""`mindprint doctor`: check what is installed, or a server from outside."""

from __future__ import annotations

from typing import Annotated

import typer

from mindprint.cli.errors import Fail, exit_with
from mindprint.cli.options import AsJson
from mindprint.cli.output import print_json, print_rows


def doctor(
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="Check the server at this address instead, from outside."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="Show what this model's chat template is found to want."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is installed, which device and engine will be used, what is missing and how to get it.

    With --server: check a deployment point by point. It sends MINDPRINT_API_KEY if that is set; with the scope admin it
    sees most. The exit code is 1 if a check failed.

    With --model: show how the server would write prompts for a model, and a trial conversation. The exit code is 1 if
    its chat template cannot be served.
    """
    if model is not None and server is not None:
        raise Fail("--model looks at files and --server at a server: give one of them", code=2)
    if server is not None:
        return _check(server, as_json)
    if as_json:
        raise Fail("--json is for --server: leave it out, or name a server", code=2)
    from mindprint.doctor import report, report_model

    exit_with(report() if model is None else report_model(model))


def _check(server: str, as_json: bool) -> None:
    from mindprint.deployment_check import check_deployment

    report = check_deployment(server)
    if as_json:
        print_json(report)
    else:
        rows = [(result.check, result.state, result.found, result.advice) for result in report.results]
        print_rows(("check", "state", "found", "what to do"), rows, empty="nothing was checked", fold=True)
    exit_with(1 if report.failed else 0)
