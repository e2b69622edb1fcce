"""The engine that `--engine` names, with a tiny random Llama for the whole session, and the server's services on it.

A file `test_<name>_engine.py` is about that engine itself and is skipped on another one. The others hold for any
engine.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from mindprint_server.app import create_app
from mindprint_server.engine import Engine
from mindprint_server.engine.factory import create_engine
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services, close_services, open_services
from samples import engagement
from tiny import TARGETS, make_adapter, make_model

ENGINE_ARGS = {"max-logprobs": "21", "attention_backend": "CPU_ATTN"}
"""Options of vLLM that reach it: see `test_vllm_engine.py`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All of these share the engine, and with it one event loop."""
    here = Path(__file__).parent
    chosen = config.getoption("--engine")
    for item in items:
        if here not in item.path.parents:
            continue
        item.add_marker(pytest.mark.engine)
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        about = item.path.stem.removeprefix("test_")
        if about.endswith("_engine") and about != f"{chosen}_engine":
            item.add_marker(pytest.mark.skip(reason=f"the engine under test is {chosen}"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(tiny_model, folder / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture(scope="session")
def engine_settings(tiny_model: Path, pytestconfig: pytest.Config) -> Settings:
    name = pytestconfig.getoption("--engine")
    return Settings(
        engine=name,
        engine_args=ENGINE_ARGS if name == "vllm" else {},
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


@pytest.fixture(scope="session")
def start_phases() -> list[str]:
    """The phases that the engine reported while it started."""
    return []


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(engine_settings: Settings, start_phases: list[str]) -> AsyncIterator[Engine]:
    running = create_engine(engine_settings)
    assert not running.ready
    await running.start(start_phases.append)
    yield running
    await running.stop()
    assert not running.ready
    await asyncio.sleep(0.1)


@pytest_asyncio.fixture(loop_scope="session")
async def services(
    engine: Engine, engine_settings: Settings, tmp_path: Path, empty_database: Path
) -> AsyncIterator[Services]:
    """A fresh store on the running engine."""
    settings = engine_settings.model_copy(update={"data_dir": tmp_path / "server"})
    settings.data_dir.mkdir()
    shutil.copy(empty_database, settings.data_dir)
    opened = await open_services(settings, engine=engine)
    yield opened
    await close_services(opened, keep_engine=True)


@pytest_asyncio.fixture(loop_scope="session")
async def api(services: Services) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client on the server. Engines that cannot chat are skipped."""
    if services.chat._backend is None:
        pytest.skip("the engine cannot chat")
    transport = httpx2.ASGITransport(create_app(services.settings, services=services))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1/v1") as http:
        yield AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=http, max_retries=0)


@pytest_asyncio.fixture(loop_scope="session")
async def ann(services: Services) -> str:
    """The adapter of a user with four engagements."""
    await services.store.engagements.add("ann", [engagement(n) for n in range(4)])
    return "user/ann"
