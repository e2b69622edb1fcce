"""`mindprint serve`: run the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.errors import Fail, exit_with
from mindprint.cli.options import PrintConfig, Sets, given
from mindprint.cli.settings_flags import as_toml, build, parse_engine_args, parse_sets, part


def serve(
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(show_default="8300", help="Port to listen on; 0 takes any free one.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", show_default="default", help="Base model: a Hugging Face id, a local folder, or `default`."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(show_default=".mindprint/server", help="Folder of the store and the adapters.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, show_default="mindprint.toml, if it is there", help="TOML file with settings."
        ),
    ] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option("--engine-arg", metavar="NAME=VALUE", help="An option of `vllm serve`; repeat it."),
    ] = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
) -> None:
    """Run the server: vLLM, the store, the HTTP API.

    A flag overrides the environment (MINDPRINT_...), and the environment overrides the file.
    """
    what = ("the server", "server,cpu")
    flags = given(host=host, port=port, model=model, data_dir=data_dir, engine_args=parse_engine_args(engine_arg))
    wanted = {**parse_sets(sets), **flags}
    settings = build(part("mindprint_server.settings", *what).Settings, wanted, config=config, command="serve")
    if print_config:
        return typer.echo(as_toml(settings), nl=False)
    preflight = part("mindprint_server.operation.preflight", *what)
    try:
        preflight.check_start(settings)  # before the imports of the server and of vLLM, which take seconds
    except preflight.CannotStart as error:
        raise Fail(str(error), code=error.code) from error
    exit_with(part("mindprint_server.process", *what).run(settings))
