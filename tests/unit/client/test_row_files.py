"""`mindprint.row_files`, and that TRL's trainers take what it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mindprint.row_files import FileFormat, RowFileError, write_rows
from mindprint.training_rows import CompletionRow, ConversationRow, Message, PreferenceRow
from mindprint.types import Trace
from tiny import make_model

LINEAGE: dict[str, Any] = {
    "trace_id": "t1",
    "user_id": "ann",
    "engagement_id": "e1",
    "batch_id": None,
    "mode": "personal",
    "verdict": "accepted",
    "reason": None,
    "state": "trained",
    "versions": ["user/ann@1"],
    "model": "base",
    "adapter_digest": None,
    "base_digest": "sha256:b",
    "prompt_version": "1",
    "engine": "fake 1",
    "seed": 7,
    "saw_answer": False,
    "scores": '{"gain": 0.5}',
    "created_at": "2026-01-01T12:00:00+00:00",
}
COMPLETIONS = [
    CompletionRow(prompt=f"Tea {n}?\n", completion="<think>\nAlways.\n</think>\nyes", **LINEAGE) for n in range(4)
]
CONVERSATIONS = [
    ConversationRow(
        messages=[Message(role="user", content=f"Tea {n}?"), Message(role="assistant", content="yes")], **LINEAGE
    )
    for n in range(4)
]
PAIRS = [
    PreferenceRow(
        prompt=f"Tea {n}?\n",
        chosen="<think>\nAlways.\n</think>\nyes",
        rejected="<think>\nHm.\n</think>\nno",
        user_id="ann",
        engagement_id="e1",
        mode="personal",
        chosen_trace_id="t1",
        rejected_trace_id="t2",
        rejected_reason="wrong_answer",
        chosen_model="base",
        rejected_model="base",
        chosen_scores="{}",
        rejected_scores="{}",
        versions=[],
        base_digest="sha256:b",
        prompt_version="1",
    )
    for n in range(4)
]


def load(file: Path, form: FileFormat) -> Any:
    """The rows as people who train with TRL load them."""
    import datasets

    cache = str(file.parent / "cache")
    if form == "datasets":
        return datasets.load_from_disk(str(file))
    if form == "parquet":
        return datasets.Dataset.from_parquet(str(file), cache_dir=cache)
    return datasets.Dataset.from_json(str(file), cache_dir=cache)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets"])
@pytest.mark.parametrize("rows", [COMPLETIONS, CONVERSATIONS, PAIRS], ids=["trl-sft", "messages", "trl-dpo"])
def test_rows_come_back_as_they_were_written(tmp_path: Path, form: FileFormat, rows: list[Any]) -> None:
    file = tmp_path / "out"
    assert write_rows(iter(rows), type(rows[0]), file, form) == 4
    unread = {"created_at"} if form == "jsonl" else set()  # datasets makes a time of it
    found = [{key: value for key, value in row.items() if key not in unread} for row in load(file, form)]
    assert found == [row.model_dump(exclude=unread) for row in rows]
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "cache"}


def test_stored_traces_become_columns(tmp_path: Path, samples: Any) -> None:
    trace = Trace.model_validate(samples.trace(scores={"gain": 0.5}, versions=["user/ann@1"]))
    assert write_rows([trace], Trace, tmp_path / "t.parquet", "parquet") == 1
    (row,) = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert (row["id"], row["versions"], row["created_at"]) == ("t1", ["user/ann@1"], trace.created_at)
    assert json.loads(row["scores"]) == {"gain": 0.5}
    assert json.loads(row["provenance"])["base_digest"] == "sha256:b"
    assert row["choice_logprobs"] is None


def test_no_rows_are_a_file_with_columns_but_no_folder(tmp_path: Path) -> None:
    assert write_rows([], PreferenceRow, tmp_path / "out.jsonl", "jsonl") == 0
    assert write_rows([], PreferenceRow, tmp_path / "out.parquet", "parquet") == 0
    assert set(pq.read_schema(tmp_path / "out.parquet").names) == set(PreferenceRow.model_fields)
    with pytest.raises(RowFileError, match="a datasets folder cannot be empty"):
        write_rows([], PreferenceRow, tmp_path / "out", "datasets")
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_if_the_rows_break_off(tmp_path: Path) -> None:
    def rows() -> Any:
        yield COMPLETIONS[0]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_rows(rows(), CompletionRow, tmp_path / "out", "parquet")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RowFileError, match="out exists: name a new folder"):
        write_rows(COMPLETIONS, CompletionRow, tmp_path / "out", "datasets")


@pytest.mark.parametrize(("form", "package"), [("parquet", "pyarrow"), ("datasets", "datasets")])
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: FileFormat, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RowFileError, match=rf"needs {package}: run `pip install 'mindprint\[tables\]'`"):
        write_rows(COMPLETIONS, CompletionRow, tmp_path / "out", form)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


SMALL: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "max_length": 128,
    "gradient_checkpointing": False,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("rows", "form"), [(COMPLETIONS, "jsonl"), (CONVERSATIONS, "parquet")], ids=["trl-sft", "messages"]
)
def test_sft_trainer_takes_a_step(tmp_path: Path, model: Path, rows: list[Any], form: FileFormat) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    write_rows(rows, type(rows[0]), tmp_path / "rows", form)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=SFTConfig(output_dir=str(tmp_path / "run"), **SMALL),
        train_dataset=load(tmp_path / "rows", form),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    first = trainer.train_dataset[0]
    text = trainer.processing_class.decode(first["input_ids"])
    assert "Tea 0?" in text
    assert text.rstrip().endswith("<|im_end|>")
    assert trainer.train().training_loss > 0


@pytest.mark.filterwarnings("ignore")
def test_dpo_trainer_takes_a_step(tmp_path: Path, model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    write_rows(PAIRS, PreferenceRow, tmp_path / "rows", "datasets")
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=DPOConfig(output_dir=str(tmp_path / "run"), **SMALL),
        train_dataset=load(tmp_path / "rows", "datasets"),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets"])
def test_only_the_owner_may_read_users_texts(tmp_path: Path, form: FileFormat) -> None:
    write_rows(iter(COMPLETIONS), CompletionRow, tmp_path / "rows", form)
    found = [tmp_path / "rows", *(tmp_path / "rows").rglob("*")]
    assert [path for path in found if path.stat().st_mode & 0o077] == []
