"""An exported version names its base model, and says what it learned from and which checks it passed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from lives import KEY, Gate, Open, lives
from mindprint.chat_format import ChatFormat
from mindprint.types import Check, Manifest, ParityItem, ParityResult, Version
from mindprint_server.adapters.model_card import BaseName, name_base, name_in_config, write_card
from mindprint_server.engine import EngineInfo
from mindprint_server.settings import Settings
from tiny import TARGETS, make_adapter, make_model
from uploads import leased, upload

DIGEST = "sha256:0123"
FORMAT = ChatFormat(end_id=0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_model(tmp_path / "tiny-base")


@pytest.fixture
async def serve(settings: Settings, base: Path) -> AsyncIterator[Open]:
    changed = settings.model_copy(update={"model": str(base), "target_modules": tuple(TARGETS)})
    async with lives(changed, base, Gate()) as open:
        yield open


def version_of(**changes: Any) -> Version:
    item = ParityItem(prompt_ids=[1], target_ids=[2], logprobs=[-1.0], base_logprobs=[-2.0])
    manifest = Manifest(
        adapter=KEY, base_digest=DIGEST, weights_sha256="0" * 64, trace_ids=["t1"],
        samples={"slow": 24, "fast": 31}, settings={"epochs": 4, "rank": 16, "seed": 7}, losses={"slow": 1.25},
        tokens=9000, seconds=61.5, trainer="mindprint 0.1.0", parity_items=[item],
    )  # fmt: skip
    made: dict[str, Any] = {
        "adapter": KEY, "version": 3, "state": "live", "digest": "d", "base_digest": DIGEST, "traces": 24,
        "parity": ParityResult(passed=True, against_trainer=0.004, against_base=1.5, tokens=4),
        "checks": [Check(name="collapse", value=0.1, bound=0.25, passed=True), Check(name="general")],
        "manifest": manifest, "created_at": datetime.now(UTC),
    }  # fmt: skip
    return Version(**made | changes)


def front_matter(card: str) -> dict[str, Any]:
    _, text, _ = card.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


async def exported(services: Any, folder: Path, number: int = 1) -> Path:
    with await services.adapters.download(KEY, number) as file, zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


async def test_peft_loads_an_exported_folder_by_itself(serve: Open, base: Path, tmp_path: Path) -> None:
    """It had `sha256:...` as the name of its base, which is no model that PEFT can find."""
    made = make_adapter(base, tmp_path / "made", seed=1, rank=4)
    services = await serve()
    await upload(services, await leased(services), tmp_path, peft_folder=made)
    folder = await exported(services, tmp_path / "exported")

    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with torch.inference_mode():
        found = AutoPeftModelForCausalLM.from_pretrained(folder)(ids).logits
        wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), made)(ids).logits
        bare = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    assert torch.equal(found, wanted)
    assert not torch.allclose(found, bare)
    card = (folder / "README.md").read_text()
    assert front_matter(card)["base_model"] == "tiny-base"
    assert str(base.parent) not in card


async def test_an_exported_folder_can_be_uploaded_again(serve: Open, base: Path, tmp_path: Path) -> None:
    made = make_adapter(base, tmp_path / "made", seed=1, rank=4)
    services = await serve()
    first = await upload(services, await leased(services), tmp_path, peft_folder=made)
    folder = await exported(services, tmp_path / "exported")
    second = await upload(services, await leased(services), tmp_path, peft_folder=folder)
    assert (second.version, second.digest) == (2, first.digest)


async def test_a_version_of_another_base_keeps_its_config_and_names_the_digest(serve: Open, tmp_path: Path) -> None:
    services = await serve(target_modules=("q_proj",))
    stored = await services.store.versions.get(KEY, (await published_small(services, tmp_path)).version)
    other = stored.model_copy(update={"base_digest": "sha256:other"})
    with await services.exports._storage.open_archive(other) as file, zipfile.ZipFile(file) as archive:
        card, config = archive.read("README.md").decode(), archive.read("adapter_config.json")
    assert b"base_model_name_or_path" not in config
    assert "base_model" not in front_matter(card)
    assert "sha256:other" in card


async def published_small(services: Any, folder: Path) -> Version:
    adapter = make_adapter(
        Path(services.info().model_path), folder / "small", seed=2, rank=4, target_modules=["q_proj"]
    )
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}'
    )
    return await upload(services, await leased(services), folder, peft_folder=adapter)


def test_the_card_has_counts_checks_prompt_and_settings() -> None:
    card = write_card(version_of(), BaseName("org/some-model"), FORMAT)
    assert front_matter(card) == {
        "base_model": "org/some-model",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["base_model:adapter:org/some-model", "lora", "mindprint"],
    }
    for line in (
        "# user/ann@3", f"`org/some-model`. Digest of its files: `{DIGEST}`.", "| accepted traces | 24 |",
        "| fast samples | 31 |", "It failed no check.", "| parity with the trainer | 0.004 |  | passed |",
        "| collapse | 0.1 | 0.25 | passed |", "| general |  |  | not judged |", "| epochs | 4 |",
        "| loss, slow | 1.25 |",
        "AutoPeftModelForCausalLM",
    ):  # fmt: skip
        assert line in card
    assert '"<think>\\n"' in card


def test_a_refused_version_says_so() -> None:
    refused = version_of(state="refused", checks=[Check(name="collapse", value=0.9, bound=0.25, passed=False)])
    assert "It failed: collapse." in write_card(refused, BaseName("org/some-model"), FORMAT)


def test_a_setting_of_a_strange_trainer_cannot_break_the_card() -> None:
    manifest = version_of().manifest.model_copy(
        update={"settings": {"note": "a | b\n# c" + "x" * 500, "rows": ["text"]}}
    )
    card = write_card(version_of(manifest=manifest), BaseName("org/some-model"), FORMAT)
    assert "\n# c" not in card
    assert "a \\| b # c" in card
    assert "x" * 100 not in card
    assert "text" not in card.split("## Training")[1].split("## Use")[0]


@pytest.mark.parametrize(
    ("model", "named", "expected"),
    [("default", None, "/cache/base"), ("org/name", None, "org/name"), ("default", "org/other", "org/other")],
)
def test_the_name_of_the_base_is_one_that_peft_can_load(model: str, named: str | None, expected: str) -> None:
    info = EngineInfo("fake", "none", "/cache/base", 128, DIGEST)
    settings = Settings(model=model, export_base_model=named)
    assert name_base(settings, info).name == expected


def test_a_folder_is_named_by_its_full_path(base: Path) -> None:
    info = EngineInfo("fake", "none", str(base), 128, DIGEST)
    assert name_base(Settings(model=str(base)), info).name == str(base)


def test_a_revision_of_another_name_is_taken_out(settings: Settings) -> None:
    brought = b'{"base_model_name_or_path": "a/b", "revision": "v1", "peft_type": "LORA", "r": 4}'
    assert b'"revision": "v1"' in name_in_config(brought, BaseName("a/b"))
    assert b'"revision": null' in name_in_config(brought, BaseName("c/d"))


def test_a_relative_folder_is_named_by_its_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was exported as `models/llama`: another folder elsewhere, and somebody's id on the Hub."""
    (tmp_path / "models" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    info = EngineInfo("fake", "none", "models/llama", 128, DIGEST)
    base = name_base(Settings(model="models/llama"), info)
    assert json.loads(name_in_config(b"{}", base))["base_model_name_or_path"] == str(tmp_path / "models" / "llama")
    card = write_card(version_of(), base, FORMAT)
    assert front_matter(card)["base_model"] == "llama"
    assert f"`llama`. Digest of its files: `{DIGEST}`." in card
    assert str(tmp_path) not in card


def test_a_hub_id_is_named_with_the_commit_that_is_served() -> None:
    """Without it PEFT loads what the id names today, which may be other weights."""
    commit = "0123456789" * 4
    info = EngineInfo("fake", "none", f"/cache/hub/models--org--name/snapshots/{commit}", 128, DIGEST)
    base = name_base(Settings(model="org/name"), info)
    assert (base.name, base.revision) == ("org/name", commit)
    brought = b'{"base_model_name_or_path": "org/name", "revision": "main", "r": 4}'
    assert json.loads(name_in_config(brought, base))["revision"] == commit
    assert f"`org/name`, revision `{commit}`. Digest" in write_card(version_of(), base, FORMAT)
    assert name_base(Settings(model="org/name", export_base_model="org/other"), info).revision is None
