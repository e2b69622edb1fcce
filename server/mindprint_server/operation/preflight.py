"""Refuses a start that cannot succeed, before the server's packages and vLLM are imported, which takes seconds.

So this module imports nothing heavy.
"""

from __future__ import annotations

import errno
import socket
import tempfile
from contextlib import ExitStack

from mindprint.model_files import DEFAULT, MissingModel, resolve
from mindprint.private_files import make_private_folder
from mindprint_server.settings import Settings

FAILED = 1
REFUSED = 2
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
"""A full disk is none of them: a server with one starts, and answers reads."""
_NO_ADDRESS_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""No port of such a host can be listened on."""


class CannotStart(Exception):
    """The server cannot start so. `code` is the exit code; the message says what to do."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def check_start(settings: Settings) -> None:
    """Check model, data folder and ports.

    Raises:
        CannotStart: One of them cannot be used.
    """
    for bound in _bind_all(settings):
        bound.close()
    check_data_folder(settings)
    check_model(settings)


def listen(settings: Settings) -> list[socket.socket]:
    """Return the listening sockets: for requests, and if `metrics_port` is set, for metrics.

    Raises:
        CannotStart: An address cannot be used.
    """
    return _bind_all(settings, should_listen=True)


def check_data_folder(settings: Settings) -> None:
    """Check that the data folder can be written.

    Raises:
        CannotStart: It cannot.
    """
    folder = settings.data_dir
    try:
        make_private_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            raise CannotStart(
                f"cannot write to the data folder {folder} ({error.strerror}): "
                "make it writable for this account, or name another one with --data-dir",
                FAILED,
            ) from None


def check_model(settings: Settings) -> None:
    """Check that the base model is on this machine. The default one is prepared later.

    Raises:
        CannotStart: It is not.
    """
    if settings.engine == "fake" or settings.model == DEFAULT:
        return
    try:
        resolve(settings.model)
    except MissingModel as error:
        raise CannotStart(str(error), FAILED) from None


def _bind_all(settings: Settings, *, should_listen: bool = False) -> list[socket.socket]:
    """Return a socket for each address of the settings. After a failure none is left open."""
    wanted = [(settings.host, settings.port, "--host", "--port")]
    if settings.metrics_port is not None:
        wanted.append((settings.metrics_host, settings.metrics_port, "metrics_host", "metrics_port"))
    bound = []
    with ExitStack() as opened:
        for host, port, host_option, port_option in wanted:
            try:
                bound.append(opened.enter_context(_bind(host, port)))
                if should_listen:
                    # Several sockets may be bound to a port with SO_REUSEADDR; only the first one may listen.
                    bound[-1].listen()
            except (OSError, UnicodeError) as error:
                advice = f"correct {host_option}" if _is_wrong_host(error) else f"try another {port_option}"
                where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                why = getattr(error, "strerror", None) or "it is no host name"
                raise CannotStart(f"cannot listen on {where} ({why}): {advice}", REFUSED) from None
        opened.pop_all()
    return bound


def _bind(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _is_wrong_host(error: Exception) -> bool:
    """Return whether no port of the host can be listened on: its name is unknown, or it is another machine's."""
    return isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", None) in _NO_ADDRESS_HERE
