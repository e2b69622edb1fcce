"""One real vLLM engine with a tiny random Llama for the whole session, and the server's services on it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mindprint_server.engine.vllm import VllmEngine
from mindprint_server.settings import Settings
from mindprint_server.wiring import Container, close_container, open_container
from tiny import TARGETS, make_adapter, make_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these share the engine, and with it one event loop."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(tiny_model, folder / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture(scope="session")
def engine_settings(tiny_model: Path) -> Settings:
    return Settings(
        model=str(tiny_model),
        dtype="float32",
        max_model_len=2048,
        max_num_seqs=16,
        kv_cache_gib=0.25,
        max_loras=2,
        max_cpu_loras=4,
        target_modules=tuple(TARGETS),
        max_thinking_tokens=24,
        max_answer_tokens=8,
        min_thinking_words=0,
        prefilter_by_prior=False,
        min_answer_frequency=0,
        gate=False,  # nor do adapters of random weights pass
        min_gain=None,  # random weights think as they like
        min_anchor=None,
        recency_step=1,
        profile_every=1000,
        profile_tokens=24,
        health_interval_s=0.5,
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(engine_settings: Settings) -> AsyncIterator[VllmEngine]:
    running = VllmEngine(engine_settings)
    phases: list[str] = []
    await running.start(phases.append)
    assert phases[-1] == "warming up"
    yield running
    await running.stop()
    await asyncio.sleep(0.1)


@pytest_asyncio.fixture(loop_scope="session")
async def services(
    engine: VllmEngine, engine_settings: Settings, tmp_path: Path, empty_database: Path
) -> AsyncIterator[Container]:
    """A fresh store on the running engine."""
    settings = engine_settings.model_copy(update={"data_dir": tmp_path / "server"})
    settings.data_dir.mkdir()
    shutil.copy(empty_database, settings.data_dir)
    opened = await open_container(settings, engine=engine)
    yield opened
    await close_container(opened, keep_engine=True)
