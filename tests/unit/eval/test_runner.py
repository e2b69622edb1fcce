from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindprint.datasets import DatasetError
from mindprint.types import LoraLimits, ServerInfo
from mindprint_demo import synthetic
from mindprint_eval import runner
from mindprint_eval.config import EvalOptions, EvaluationError
from mindprint_eval.shard import ShardResult
from mindprint_eval.training_sets import Thresholds


@pytest.fixture
def data(tmp_path: Path) -> Path:
    synthetic.write_dataset(tmp_path / "data", 8, 6, 3, 0)
    return tmp_path / "data"


def options(data: Path, **changes: Any) -> EvalOptions:
    return EvalOptions(data=data, out=data.parent / "eval", **{"engagements": 6, "rows": 3, **changes})


def names(users: Any) -> list[str]:
    return [user.user_id for user in users]


def test_the_parts_of_the_users_do_not_meet(data: Path) -> None:
    tune, _ = runner.select_users(options(data, part="tune", users=4))
    report, _ = runner.select_users(options(data, part="report", users=4))
    everybody, _ = runner.select_users(options(data, part="all", users=8))
    assert not set(names(tune)) & set(names(report))
    assert {*names(tune), *names(report)} == set(names(everybody))


def test_the_pool_is_of_users_whom_nobody_is_asked_about(data: Path) -> None:
    users, pool = runner.select_users(options(data, users=3, pool=4))
    assert len(pool) == 4
    assert not set(names(users)) & set(names(pool))
    assert runner.select_users(options(data, users=8))[1] == []


def test_more_users_than_there_are_are_refused(data: Path) -> None:
    with pytest.raises(DatasetError, match="has 4 users in part 'tune': ask for fewer than 5"):
        runner.select_users(options(data, part="tune", users=5))


def test_pieces_are_groups_of_users_for_each_seed(data: Path) -> None:
    chosen = options(data, users=5, group=2, seeds=2)
    users, pool = runner.select_users(chosen)
    found = [(piece.seed, len(piece.users)) for piece in runner.split_into_shards(chosen, users, pool)]
    assert found == [(0, 2), (0, 2), (0, 1), (1, 2), (1, 2), (1, 1)]


def test_later_seeds_can_be_run_alone(data: Path) -> None:
    chosen = options(data, users=2, seeds=2, first_seed=1)
    assert [piece.seed for piece in runner.split_into_shards(chosen, *runner.select_users(chosen))] == [1, 2]


def test_the_server_measures_and_does_not_interfere(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_RECENCY_K", "5")
    monkeypatch.setenv("MINDPRINT_TRAIN_EPOCHS", "9")
    settings = runner.server_settings(options(data, server={"MIN_GAIN": "0.1"}))
    assert settings["RECENCY_K"] == "5"
    assert settings["MIN_GAIN"] == "0.1"
    assert (settings["HOLDOUT_SHARE"], settings["GATE"], settings["MAX_COLLAPSED"]) == ("0", "false", "null")
    assert not [name for name in settings if name.startswith("TRAIN_")]


def test_no_engagement_is_left_out_for_being_unlikely_but_where_that_is_asked_for(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.server_settings(options(data))["EXHAUSTIVE"] == "true"
    assert runner.server_settings(options(data, server={"EXHAUSTIVE": "false"}))["EXHAUSTIVE"] == "false"
    monkeypatch.setenv("MINDPRINT_EXHAUSTIVE", "false")
    assert runner.server_settings(options(data))["EXHAUSTIVE"] == "false"


def test_other_thresholds_leave_a_piece_s_store_and_ask_anew(data: Path) -> None:
    users, pool = runner.select_users(options(data, users=2))
    [piece] = runner.split_into_shards(options(data, users=2), users, pool)
    before = runner._decides(options(data), piece)
    assert runner._decides(options(data), piece) == before
    assert runner._decides(options(data, thresholds=Thresholds(gain=0.1)), piece) != before
    assert runner._decides(options(data, arms=("A0",)), piece) != before


def info(digest: str) -> ServerInfo:
    return ServerInfo(
        mindprint="0", engine="fake", device="cpu", model="m", model_path="p", base_digest=digest, prompt_version="2",
        max_model_len=128, limits=LoraLimits(max_rank=1, target_modules=[]),
    )  # fmt: skip


def test_a_base_model_that_changed_is_refused(data: Path) -> None:
    chosen = options(data)
    chosen.out.mkdir()
    runner._same_base(chosen, info("sha256:one"))
    runner._same_base(chosen, info("sha256:one"))
    with pytest.raises(EvaluationError, match="begun with the base model sha256:one"):
        runner._same_base(chosen, info("sha256:two"))


def test_the_document_says_what_was_run(data: Path) -> None:
    chosen = options(data, users=2)
    users, _ = runner.select_users(chosen)
    folder = runner.write_evaluation(chosen, users, [ShardResult()], info("sha256:one"))
    document = json.loads((folder / "evaluation.json").read_text())
    assert document["users"] == names(users)
    assert document["data_digest"].startswith("sha256:")
    assert [arm["name"] for arm in document["arms"]] == list(chosen.arms)
    assert str(data) not in json.dumps({key: value for key, value in document.items() if key != "command"})


def test_settings_of_an_evaluation_hold_no_secret(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADMIN_KEY", "API_KEY", "DATABASE_URL"):
        monkeypatch.setenv(f"MINDPRINT_{name}", "geheim" * 8)
    assert "geheim" not in str(runner.server_settings(options(data)))
