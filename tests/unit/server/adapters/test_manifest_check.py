from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mindprint.types import Lease, LoraLimits, Manifest, ParityItem
from mindprint_server.adapters.manifest_check import MAX_COUNT, check_manifest
from mindprint_server.exceptions import Invalid

LEASE = Lease(
    id="l", adapter="user/ann", owner="t", state="active", deadline=datetime.now(UTC), attempt=1, trace_ids=["a", "b"],
    base_digest="sha256:b", limits=LoraLimits(max_rank=4, target_modules=["q_proj"]),
)  # fmt: skip
ITEM = ParityItem(prompt_ids=[0, 9], target_ids=[3], logprobs=[-0.5], base_logprobs=[-1.0])
MANIFEST = Manifest(
    adapter="user/ann", base_digest="sha256:b", weights_sha256="0" * 64, trace_ids=["b", "a"], samples={"slow": 1},
    settings={}, losses={}, tokens=1, seconds=1.0, trainer="t", parity_items=[ITEM],
)  # fmt: skip


def check(**changes: Any) -> None:
    check_manifest(MANIFEST.model_copy(update=changes), LEASE, base_digest="sha256:b", vocab_size=10, max_model_len=8)


def item(**changes: Any) -> list[ParityItem]:
    return [ITEM, ITEM.model_copy(update=changes)]


def test_check_manifest_of_the_lease_passes() -> None:
    check()
    check(tokens=MAX_COUNT, seconds=0, parity_items=item(logprobs=[0.0], base_logprobs=[-3e38]))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tokens": -1}, "tokens"),
        ({"tokens": MAX_COUNT + 1}, "tokens"),
        ({"samples": {"slow": -1}}, "samples.slow"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"parity_items": item(prompt_ids=[0, 10])}, "parity_items[1].prompt_ids[1]"),
        ({"parity_items": item(target_ids=[-1])}, "parity_items[1].target_ids[0]"),
        ({"parity_items": item(target_ids=[10**15])}, "parity_items[1].target_ids[0]"),
        ({"parity_items": item(prompt_ids=[1] * 8)}, "parity_items[1]"),
        ({"parity_items": item(logprobs=[float("nan")])}, "parity_items[1].logprobs[0]"),
        ({"parity_items": item(logprobs=[0.5])}, "parity_items[1].logprobs[0]"),
        ({"parity_items": item(base_logprobs=[-1e308])}, "parity_items[1].base_logprobs[0]"),
        ({"parity_items": item(base_logprobs=[float("-inf")])}, "parity_items[1].base_logprobs[0]"),
    ],
)
def test_check_manifest_with_impossible_number_names_its_field(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as error:
        check(**changes)
    assert (error.value.code, error.value.param) == ("invalid_manifest", f"manifest.{param}")
    assert error.value.message.startswith(f"manifest.{param}: ")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"adapter": "user/bob"}, "manifest_mismatch"),
        ({"trace_ids": ["a"]}, "manifest_mismatch"),
        ({"trace_ids": ["a", "b", "b"]}, "manifest_mismatch"),
        ({"base_digest": "sha256:other"}, "adapter_base_model"),
    ],
)
def test_check_manifest_of_something_else_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Invalid) as error:
        check(**changes)
    assert error.value.code == code
