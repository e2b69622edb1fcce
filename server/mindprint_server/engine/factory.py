"""Creates the engine that the settings name."""

from __future__ import annotations

from pathlib import Path

from mindprint_server.engine.base import Engine
from mindprint_server.settings import EngineSettings


def create_engine(settings: EngineSettings, *, records: Path | None = None) -> Engine:
    """Create an engine without starting it. vLLM is imported only if the settings choose it.

    Args:
        settings: Which engine, and its model, memory and adapters.
        records: Folder that says which processes an engine has; None keeps none.
    """
    if settings.engine == "fake":
        from mindprint_server.engine.fake import FakeEngine

        return FakeEngine(model_path=Path(settings.model), max_model_len=settings.max_model_len)
    from mindprint_server.engine.vllm import VllmEngine

    return VllmEngine(settings, records=records)
