from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any, cast

import pytest

from mindprint.types import ParityItem
from mindprint_server.adapters import parity_check
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import StorageFull


def place(storage: AdapterStorage, tmp_path: Path, version: int) -> Path:
    weights = tmp_path / "upload"
    weights.write_bytes(b"weights")
    return storage.write("user/ann", version, weights=weights, config=b"{}", manifest="{}")


def test_a_version_is_never_written_again(tmp_path: Path) -> None:
    storage = AdapterStorage(tmp_path, store=cast(Any, None))
    folder = place(storage, tmp_path, 1)
    assert sorted(f.name for f in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    with pytest.raises(FileExistsError):
        place(storage, tmp_path, 1)


def test_orphans_are_collected_and_versions_stay(tmp_path: Path) -> None:
    storage = AdapterStorage(tmp_path, store=cast(Any, None))
    kept, orphan = place(storage, tmp_path, 1), place(storage, tmp_path, 2)
    half = kept.with_name(".000003.part")
    half.mkdir()
    assert storage.remove_orphans({("user/ann", 1)}) == 2
    assert kept.exists()
    assert not orphan.exists()
    assert not half.exists()


def verdict(engine: list[float], base: list[float], trainer: list[float]) -> str | None:
    result = parity_check.compare_logprobs(engine, base, trainer, tolerance=0.1, min_shift=0.02)
    assert result.passed == (result.reason is None)
    return result.reason


def test_parity_passes_only_for_the_adapter_itself() -> None:
    assert verdict([-1.0, -2.0], [-3.0, -4.0], [-1.05, -1.95]) is None
    assert "without the adapter" in str(verdict([-3.0, -4.0], [-3.0, -4.0], [-1.0, -2.0]))
    assert "from the trainer's" in str(verdict([-2.0, -3.0], [-3.0, -4.0], [-1.0, -2.0]))
    assert "no nearer" in str(verdict([-1.1, -2.1], [-1.05, -2.0], [-1.05, -2.0]))
    assert "not finite" in str(verdict([float("nan"), -2.0], [-3.0, -4.0], [-1.0, -2.0]))


async def test_parity_fails_on_an_engine_that_ignores_adapters(base_folder: Path) -> None:
    class Deaf(FakeEngine):
        async def next_logprobs(self, prompt_ids, token_ids, *, adapter, priority):  # type: ignore[no-untyped-def]
            return await super().next_logprobs(prompt_ids, token_ids, adapter=None, priority=priority)

    engine = Deaf(model_path=base_folder)
    engine.tokenizer.encode("two words")
    item = ParityItem(prompt_ids=[1, 2], target_ids=[1, 2], logprobs=[-0.5, -0.5], base_logprobs=[-1, -1])
    ref = AdapterRef("user/ann", 1, "sha256:0", 1, base_folder)
    waits = []

    async def wait() -> None:
        waits.append(1)

    result = await parity_check.check_parity(engine, ref, [item], tolerance=0.1, min_shift=0.02, wait_until_idle=wait)
    assert not result.passed
    assert result.against_base == 0
    assert result.tokens == 2
    assert len(waits) == 4  # two tokens, with the adapter and without


async def test_parity_item_is_scored_token_by_token(base_folder: Path) -> None:
    class Counting(FakeEngine):
        inside = 0
        most = 0

        async def next_logprobs(self, prompt_ids, token_ids, *, adapter, priority):  # type: ignore[no-untyped-def]
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.001)
            found = await super().next_logprobs(prompt_ids, token_ids, adapter=adapter, priority=priority)
            self.inside -= 1
            return found

    async def wait() -> None:
        """Nobody is waited for."""

    engine = Counting(model_path=base_folder)
    engine.tokenizer.encode("one two three")
    short = ParityItem(prompt_ids=[1, 2], target_ids=[1, 2], logprobs=[-0.5, -0.5], base_logprobs=[-1, -1])
    long = ParityItem(prompt_ids=[2, 1], target_ids=[2, 1, 3], logprobs=[-0.5] * 3, base_logprobs=[-1] * 3)
    ref = AdapterRef("user/ann", 1, "sha256:0", 1, base_folder)
    result = await parity_check.check_parity(
        engine, ref, [short, long], tolerance=99, min_shift=0, wait_until_idle=wait
    )
    assert result.tokens == 5
    assert engine.most == 1


@pytest.mark.parametrize("file", ["adapter_config.json", "manifest.json"])
def test_disk_that_is_full_leaves_nothing_of_a_version(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Path.open

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return usual(path, *args, **kwargs)

    storage = AdapterStorage(tmp_path, store=cast(Any, None))
    weights = tmp_path / "upload"
    weights.write_bytes(b"weights")
    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", full)
        with pytest.raises(StorageFull, match="free some space"):
            storage.write("user/ann", 1, weights=weights, config=b"{}", manifest="{}")
    assert list(storage.path("user/ann", 1).parent.iterdir()) == []
    weights.write_bytes(b"weights")
    folder = storage.write("user/ann", 1, weights=weights, config=b"{}", manifest="{}")
    assert len(list(folder.iterdir())) == 3
