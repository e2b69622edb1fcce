"""Turn every failure of the command into one line on stderr that says what to do, and an exit code other than 0."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from mindprint.exceptions import MindprintError
from mindprint.streaming import first

_ELSEWHERE = {
    "No such option: --url": "it stands after the command, as in `mindprint users list --url URL`, or set "
    "MINDPRINT_URL; ",
    "No such command 'import'": "histories come in with `mindprint users import`; ",
}
"""Where that is which people look for elsewhere, by how click's complaint begins."""


class Fail(MindprintError):
    """A failure whose message is the line that the command ends with; `code` is its exit code."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def exit_with(code: int | None) -> None:
    """End the command with an exit code; 0 and None let it go on to its ordinary end."""
    if code:
        raise typer.Exit(code)


def missing_extra(what: str, extra: str, error: ImportError) -> Fail:
    """Return the failure that says how to install a part of Mindprint.

    Args:
        what: The part, such as "the server".
        extra: The extras that install it, separated by commas.
        error: The import that failed.
    """
    gpu = extra.replace("cpu", "gpu")
    other = f" ('mindprint[{gpu}]' for NVIDIA)" if gpu != extra else ""
    return Fail(
        f"{what} needs {error.name or error}, which is not installed: "
        f"run `pip install 'mindprint[{extra}]'`{other}, or `make setup` in a clone"
    )


class OneLine(TyperGroup):
    """The root command. MINDPRINT_DEBUG=1 shows the traceback instead of the line."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except typer.Abort:
            code = _end("aborted", 130)
        except Exception as error:
            if os.environ.get("MINDPRINT_DEBUG"):
                raise
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    if isinstance(error, Fail):
        return _end(str(error), error.code)
    if hasattr(error, "format_message"):  # a wrong use of the command line
        return _usage(error)
    if isinstance(error, ValidationError):
        return _end(first(error), 2)
    if isinstance(error, OSError) and error.filename is not None:
        return _end(f"{error.filename}: {error.strerror or error}", 1)
    if type(error).__module__.partition(".")[0].startswith("mindprint"):  # the messages of this package say what to do
        return _end(str(error), 1)
    return _end(f"unexpected {type(error).__name__}: {error} (MINDPRINT_DEBUG=1 shows where)", 1)


def _usage(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    command = getattr(getattr(error, "ctx", None), "command_path", "mindprint")
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    hint = next((hint for begin, hint in _ELSEWHERE.items() if message.startswith(begin)), "")
    return _end(f"{message}: {hint}see `{command} --help`", int(error.exit_code))


def _end(line: str, code: int) -> int:
    typer.secho("error: ", fg="red", nl=False, err=True)
    typer.echo(" ".join(line.split()), err=True)
    return code
