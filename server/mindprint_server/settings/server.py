"""Settings of the process: where it listens, where it keeps data, how it logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, SecretStr, model_validator


class ServerSettings(BaseModel):
    """The process: address, data, logs."""

    host: str = "127.0.0.1"
    """Address to listen on. Another than loopback needs an API key first: `mindprint keys create --admin`, or
    `admin_key`."""
    port: int = Field(8300, ge=0, le=65535)
    """Port to listen on. 0 takes a free one, which the log line `listening` names."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Port for `GET /metrics` alone, which then needs no key and is not on `port` any more. 0 takes a free one, which
    the log line `metrics` names. Unset: on `port`, for keys with the scope `read`."""
    metrics_host: str = "127.0.0.1"
    """Address of `metrics_port`. Whoever reaches it reads the metrics, which hold figures and no users."""
    data_dir: Path = Path(".mindprint/server")
    """Folder for adapter files and, by default, the database. It is created at start. One server uses it at a time: a
    second one does not start."""
    database_url: SecretStr | None = None
    """URL of the database, such as `postgresql://user:password@host/name?sslmode=verify-full`. Unset: a SQLite file in
    `data_dir`."""
    database_busy_timeout_s: float = Field(30, gt=0)
    """Bound of each wait for a lock, a free connection or a new connection of the database, in seconds. Then the
    request is refused with 503, and background work tries again."""
    database_statement_timeout_s: float = Field(120, ge=0)
    """Seconds after which PostgreSQL ends a statement. Then the request is refused with 503. 0: never. Migrations are
    not bound, nor is SQLite."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of the lines that are logged."""
    log_json: bool = False
    """Log one JSON object a line instead of text."""
    shutdown_grace_s: float = Field(5, ge=0)
    """Seconds that open requests have to end after SIGTERM. Then answers that are streamed end with an error event, and
    a second later all else is cut off. Streams that watch a batch end at once."""

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.metrics_port == self.port and self.port != 0:
            raise ValueError("metrics_port is the same as port: give it another one")
        return self

    @property
    def uploads_dir(self) -> Path:
        """Folder for the weights of uploads while they arrive."""
        return self.data_dir / "uploads"

    @property
    def url(self) -> str:
        """The database's URL, with its password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.data_dir / 'mindprint.db'}"
