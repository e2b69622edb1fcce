"""A certificate authority for tests, and a server's certificate of it. Made by `openssl`."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

LOCAL = "IP:127.0.0.1,DNS:localhost"
AS_CA = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")


@dataclass(frozen=True)
class Certificates:
    """Files of a certificate authority and of a server.

    Attributes:
        authority: The authority's certificate, which clients trust.
        server: The server's certificate.
        key: The server's key.
    """

    authority: Path
    server: Path
    key: Path


def make_certificates(folder: Path, *, names: str = LOCAL) -> Certificates:
    """Make an authority and a server's certificate, valid for a day.

    Args:
        folder: An empty folder.
        names: Hosts that the certificate is for, as openssl's `subjectAltName` reads them.
    """
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl: apt-get install openssl")
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key, request, extensions = folder / "ca.key", folder / "server.csr", folder / "extensions"
    extensions.write_text(f"subjectAltName={names}")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *new_key, "-days", "1", "-subj", "/CN=test authority", "-keyout", ca_key,
             "-out", made.authority, *AS_CA)  # fmt: skip
    _openssl("req", *new_key, "-subj", "/CN=127.0.0.1", "-keyout", made.key, "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", made.authority, "-CAkey", ca_key, "-CAcreateserial", "-days", "1",
             "-extfile", extensions, "-out", made.server)  # fmt: skip
    return made


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, check=False, text=True)
    if done.returncode:
        pytest.fail(f"openssl {arguments[0]}: {done.stderr}", pytrace=False)
