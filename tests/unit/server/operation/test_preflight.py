"""A start that cannot succeed is refused with advice, before anything heavy is imported."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mindprint_server.operation.preflight import CannotStart, check_data_folder, check_start, listen
from mindprint_server.settings import Settings

COMMAND = """
import sys
from mindprint.cli import app
try:
    app(["serve", *sys.argv[1:]])
finally:
    heavy = [name for name in ("mindprint_server.app", "fastapi", "sqlalchemy", "vllm", "torch") if name in sys.modules]
    print("heavy:", heavy)
"""


@pytest.fixture
def free(settings: Settings) -> Settings:
    return settings.model_copy(update={"port": 0})


def test_what_can_start_passes_and_leaves_no_socket(free: Settings) -> None:
    check_start(free)
    [listener] = listen(free)
    port = listener.getsockname()[1]
    listener.close()
    check_start(free.model_copy(update={"port": port}))


def test_a_port_in_use_is_refused(free: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for changes, option in (({"port": port}, "--port"), ({"metrics_port": port}, "metrics_port")):
            with pytest.raises(
                CannotStart, match=f"cannot listen on 127.0.0.1:{port} .*: try another {option}"
            ) as found:
                check_start(free.model_copy(update=changes))
            assert found.value.code == 2


def test_two_listeners_on_one_port_are_refused_and_none_stays_open(
    free: Settings, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both can be bound, since neither listens yet: the second one's `listen` ended with a traceback."""
    sockets: list[socket.socket] = []

    def bind(self: socket.socket, address: Any) -> None:
        sockets.append(self)
        super(socket.socket, self).bind(address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    settings = free.model_copy(update={"port": unused_tcp_port, "metrics_port": unused_tcp_port})
    with pytest.raises(CannotStart, match=r"\(Address already in use\): try another metrics_port") as found:
        listen(settings)
    assert found.value.code == 2
    assert [each.fileno() for each in sockets] == [-1, -1]


@pytest.mark.parametrize(
    ("host", "where"),
    [("203.0.113.1", "203.0.113.1:0"), ("2001:db8::1", "[2001:db8::1]:0"), ("x" * 64 + ".y", "x" * 64 + ".y:0")],
)
def test_a_host_that_is_not_of_this_machine_is_named(free: Settings, host: str, where: str) -> None:
    """It was told to try another port."""
    for changes, option in (
        ({"host": host}, "--host"),
        ({"metrics_port": 0, "metrics_host": host}, "metrics_host"),
    ):
        with pytest.raises(CannotStart) as found:
            check_start(free.model_copy(update=changes))
        assert str(found.value).startswith(f"cannot listen on {where} (")
        assert str(found.value).endswith(f"): correct {option}")


def test_an_unknown_host_name_is_named(free: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(CannotStart, match=r"cannot listen on db:0 \(Name or service not known\): correct --host"):
        check_start(free.model_copy(update={"host": "db"}))


def test_a_read_only_folder_gets_advice(free: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended with a bare `[Errno 30] Read-only file system`."""

    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(CannotStart) as found:
        check_start(free)
    assert str(found.value) == (
        f"cannot write to the data folder {free.data_dir} (Read-only file system): "
        "make it writable for this account, or name another one with --data-dir"
    )


def test_a_folder_that_is_a_file_gets_the_same_advice(free: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="cannot write to the data folder"):
        check_data_folder(free.model_copy(update={"data_dir": tmp_path / "file"}))


def test_a_full_disk_may_start(free: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check_start(free)


def test_a_model_that_is_not_here_is_refused(free: Settings) -> None:
    with pytest.raises(CannotStart, match=r"model '\./nowhere' is no folder here"):
        check_start(free.model_copy(update={"engine": "vllm", "model": "./nowhere"}))


@pytest.mark.parametrize("wrong", ["port", "model"])
def test_serve_refuses_before_its_heavy_imports(wrong: str, tmp_path: Path) -> None:
    """They cost up to 26 s before the one line that says what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1]) if wrong == "port" else "0"
        flags = ["--port", port, "--data-dir", str(tmp_path / "data"), "--model", "./nowhere"]
        ended = subprocess.run([sys.executable, "-c", COMMAND, *flags], capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout == "heavy: []\n", ended.stderr
    expected = "cannot listen on" if wrong == "port" else "is no folder here"
    assert expected in ended.stderr
    assert ended.returncode == (2 if wrong == "port" else 1)
