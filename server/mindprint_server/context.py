"""The context that every service of the server gets; `wiring.py` makes it once."""

from __future__ import annotations

from dataclasses import dataclass

from mindprint_server.engine import Engine
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.store import Store


@dataclass(frozen=True)
class ServerContext:
    """Settings, store, engine and metrics of one running server.

    The engine has started, so `engine.info()` returns the model, its length and its digest.
    """

    settings: Settings
    store: Store
    engine: Engine
    metrics: Metrics
