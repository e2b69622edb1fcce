"""The server's parts on the fake engine and a SQLite file: for logic only, nothing about generation is shown here."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mindprint_server.engine.fake import FakeEngine
from mindprint_server.settings import Settings
from mindprint_server.store import Store
from mindprint_server.wiring import Services, close_services, open_services
from samples import write_tensors


@pytest.fixture
async def store(tmp_path: Path, empty_database: Path) -> AsyncIterator[Store]:
    """A store of the test's own."""
    shutil.copy(empty_database, tmp_path)
    opened = await Store.open(f"sqlite+aiosqlite:///{tmp_path / empty_database.name}")
    yield opened
    await opened.close()


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A base model of one layer, as far as shapes go."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    shapes: dict[str, tuple[int, ...]] = {
        "model.layers.0.self_attn.q_proj.weight": (8, 8),
        "model.layers.0.mlp.up_proj.weight": (16, 8),
    }
    write_tensors(folder / "model.safetensors", shapes)
    return folder


@pytest.fixture
def settings(tmp_path: Path, base_folder: Path, empty_database: Path) -> Settings:
    data_dir = tmp_path / "server"
    data_dir.mkdir()
    shutil.copy(empty_database, data_dir)
    return Settings(
        engine="fake",
        model=str(base_folder),
        data_dir=data_dir,
        profile_every=5,
        watch_interval_s=0.01,
        prefilter_by_prior=False,
        min_answer_frequency=0,
        gate=False,
    )


@pytest.fixture
async def services(settings: Settings, base_folder: Path) -> AsyncIterator[Services]:
    opened = await open_services(settings, engine=FakeEngine(model_path=base_folder))
    yield opened
    await close_services(opened)
