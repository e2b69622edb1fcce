from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mindprint.types import Start
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.parent_cache import ParentCache
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import train_adapter


@pytest.fixture
def made(server: Any, base: Base, settings: Settings, lease_of: Any) -> list[Start]:
    """Three versions that the server holds."""
    found = []
    for number in (1, 2, 3):
        files = train_adapter(base, lease_of(), settings.model_copy(update={"seed": number, "epochs": 1})).files
        server.files["cohort/all", number] = (files.config, files.weights)
        found.append(Start(adapter="cohort/all", version=number, digest=f"sha256:{files.digest}"))
    return found


def test_each_is_fetched_once_and_the_longest_unused_is_forgotten(
    server: Any, made: list[Start], tmp_path: Path
) -> None:
    starts = ParentCache(server.client(), tmp_path / "starts", max_parents=2)
    for age, start in enumerate((made[0], made[1], made[0])):
        assert starts.get(start).start == start
        os.utime(tmp_path / "starts" / start.digest.removeprefix("sha256:"), (age, age))
    assert server.downloads == ["cohort/all@1", "cohort/all@2"]
    starts.get(made[2])
    kept = {folder.name for folder in (tmp_path / "starts").iterdir()}
    assert kept == {start.digest.removeprefix("sha256:") for start in (made[0], made[2])}


def test_another_file_than_the_digest_says_is_refused_and_not_kept(
    server: Any, made: list[Start], tmp_path: Path
) -> None:
    starts = ParentCache(server.client(), tmp_path / "starts", max_parents=2)
    server.files["cohort/all", 1] = server.files["cohort/all", 2]
    with pytest.raises(TrainerError, match="the weights of cohort/all@1 are sha256:"):
        starts.get(made[0])
    assert list((tmp_path / "starts").iterdir()) == []


def test_a_copy_that_was_damaged_here_is_fetched_again(server: Any, made: list[Start], tmp_path: Path) -> None:
    starts = ParentCache(server.client(), tmp_path / "starts", max_parents=2)
    starts.get(made[0])
    (folder,) = (tmp_path / "starts").iterdir()
    (folder / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(TrainerError):
        starts.get(made[0])
    assert starts.get(made[0]).start == made[0]
    assert len(server.downloads) == 2
