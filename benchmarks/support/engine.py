"""Starts the real engine for a benchmark."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mindprint.local.console import Output
from support.harness import Report

if TYPE_CHECKING:
    from mindprint_server.engine.vllm import VllmEngine
    from mindprint_server.settings import Settings


@asynccontextmanager
async def run_engine(
    settings: Settings, out: Output, report: Report, *, lora: bool = True
) -> AsyncIterator[VllmEngine]:
    """Run an engine for the block, and yield it when it is ready. Its device goes into the report."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported first
    from mindprint_server.engine.vllm import VllmEngine

    class WithoutLora(VllmEngine):
        def _engine_args(self, path: str) -> Any:
            args = super()._engine_args(path)
            args.enable_lora = False
            return args

    engine = VllmEngine(settings) if lora else WithoutLora(settings)
    try:
        with out.bar("engine") as bar:
            await engine.start(lambda phase: bar.update(0, phase))
            bar.finish(f"{engine.info().name} on {engine.info().device}")
        report.machine["device"] = engine.info().device
        yield engine
    finally:
        await engine.stop()
