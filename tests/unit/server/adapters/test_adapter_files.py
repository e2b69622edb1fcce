from __future__ import annotations

import asyncio
import errno
import json
import struct
from pathlib import Path
from typing import Any, cast

import pytest

from mindprint.types import ParityItem
from mindprint_server.adapters import parity_check, validation
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import Invalid, ServerError, StorageFull
from samples import write_tensors

TARGETS = ("q_proj", "up_proj")
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
GOOD: dict[str, tuple[int, ...]] = {f"{LAYER}.lora_A.weight": (4, 8), f"{LAYER}.lora_B.weight": (8, 4)}
BASE: dict[str, tuple[int, ...]] = {"model.layers.0.self_attn.q_proj.weight": (8, 8)}


def config(**changes: Any) -> bytes:
    return json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], **changes}).encode()


def code_of(error: pytest.ExceptionInfo[ServerError]) -> str:
    assert isinstance(error.value, Invalid)
    return error.value.code


def test_a_good_config_and_its_shapes_pass(tmp_path: Path) -> None:
    assert validation.read_config(config(), max_rank=16, targets=TARGETS)["r"] == 4
    write_tensors(tmp_path / "w", GOOD)
    shapes = validation.read_shapes(tmp_path / "w")
    assert shapes == GOOD
    validation.check_tensors(shapes, BASE, rank=4, targets=TARGETS)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{", "adapter_config"),
        (b"[]", "adapter_config"),
        (config(peft_type="IA3"), "adapter_config"),
        (config(use_dora=True), "adapter_config"),
        (config(modules_to_save=["lm_head"]), "adapter_config"),
        (config(r=17), "adapter_rank"),
        (config(r="4"), "adapter_rank"),
        (config(target_modules=["q_proj", "lm_head"]), "adapter_targets"),
        (config(target_modules="all-linear"), "adapter_targets"),
    ],
)
def test_configs_that_cannot_be_served(text: bytes, code: str) -> None:
    with pytest.raises(ServerError) as error:
        validation.read_config(text, max_rank=16, targets=TARGETS)
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ({}, "adapter_shape"),
        ({f"{LAYER}.lora_A.weight": (4, 8)}, "adapter_shape"),
        ({**GOOD, f"{LAYER}.lora_A.weight": (5, 8)}, "adapter_shape"),
        ({name.replace("layers.0", "layers.9"): shape for name, shape in GOOD.items()}, "adapter_base_model"),
        ({**GOOD, "base_model.model.lm_head.weight": (8, 8)}, "adapter_targets"),
    ],
)
def test_tensors_that_do_not_fit(shapes: dict[str, tuple[int, ...]], code: str) -> None:
    with pytest.raises(ServerError) as error:
        validation.check_tensors(shapes, BASE, rank=4, targets=TARGETS)
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\x80\x04pickle", "adapter_pickle"),
        (b"PK\x03\x04zip of a torch.save", "adapter_pickle"),
        (b"\x01\x02", "adapter_truncated"),
        (struct.pack("<Q", 2**40) + b"{}", "adapter_truncated"),
        (struct.pack("<Q", 2) + b"[]", "adapter_truncated"),
        (struct.pack("<Q", 9) + b'{"a":"b"}', "adapter_truncated"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ServerError) as error:
        validation.read_shapes(tmp_path / "w")
    assert code_of(error) == code


def test_weights_cut_off_anywhere(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w", GOOD)
    whole = (tmp_path / "w").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "w").write_bytes(whole[:length])
        with pytest.raises(ServerError) as error:
            validation.read_shapes(tmp_path / "w")
        assert code_of(error) == "adapter_truncated"


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
