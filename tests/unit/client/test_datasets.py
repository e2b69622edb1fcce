from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mindprint.datasets import DatasetError, list_user_ids, load_users
from mindprint.importers import Skips, read
from mindprint.valid_ids import user_name

Row = dict[str, Any]
Change = Callable[[Row], None]


def folder(tmp_path: Path, *, users: int = 2, train: int = 4, held_out: int = 5) -> Path:
    """A small set of records; all dates of a user's train rows repeat in pairs."""
    people, past, later = [], [], []
    for u in range(users):
        name = f"u-{u}"
        days = [f"2020-01-{1 + n // 2:02d}" for n in range(train)]
        history = [
            {"prompt": f"q{n}", "response": "yes", "reason": f"r{n}", "timestamp": days[n]} for n in range(train)
        ]
        people.append({"user_id": name, "n_history": train, "n_eval": held_out, "meta": {}, "history": history})
        common = {"user_id": name, "choices": ["yes", "no"], "target": "yes", "odd": float("nan")}
        past += [
            {**common, "id": f"{name}/t{n}", "history_upto": n, "query": f"q{n}", "timestamp": days[n]}
            for n in range(train)
        ]
        later += [
            {**common, "id": f"{name}/e{n}", "history_upto": train, "query": f"h{n}", "timestamp": "2020-02-01"}
            for n in range(held_out)
        ]
    for file, rows in (("users", people), ("train", past), ("eval", later)):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def edit(file: Path, line: int, change: Change) -> None:
    rows = [json.loads(row) for row in file.read_text().splitlines()]
    change(rows[line - 1])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def put(key: str, value: object) -> Change:
    return lambda row: row.update({key: value})


def test_takes_the_newest_train_rows_with_reasons_from_the_history(tmp_path: Path) -> None:
    first, second = load_users(folder(tmp_path), users=2, engagements=3, held_out=2)
    assert (first.user_id, second.user_id) == ("u-0", "u-1")
    assert [(e.id, e.prompt, e.reason) for e in first.engagements] == [
        (f"u-0/t{n}", f"q{n}", f"r{n}") for n in (1, 2, 3)
    ]
    assert first.engagements[0].choices == ["yes", "no"]


def test_times_rise_strictly_and_keep_the_order(tmp_path: Path) -> None:
    user = load_users(folder(tmp_path), users=1, engagements=4, held_out=5)[0]
    times = [e.occurred_at for e in user.engagements] + [row.asked_at for row in user.held_out]
    assert all(before < after for before, after in pairwise(times))
    day = datetime(2020, 1, 1, tzinfo=UTC)
    assert times[:2] == [day, day + timedelta(microseconds=1)]


def test_times_that_go_back_do_not_change_the_order(tmp_path: Path) -> None:
    edit(folder(tmp_path) / "train.jsonl", 3, put("timestamp", "1999-01-01T10:00:00+02:00"))
    times = [e.occurred_at for e in load_users(tmp_path, users=1, engagements=4, held_out=1)[0].engagements]
    assert times == sorted(set(times))


@pytest.mark.parametrize("stamp", [None, float("nan")])
def test_records_without_times_keep_their_order(tmp_path: Path, stamp: float | None) -> None:
    folder(tmp_path, users=1)
    for file, rows in (("train", 4), ("eval", 5)):
        for line in range(1, rows + 1):
            edit(tmp_path / f"{file}.jsonl", line, put("timestamp", stamp))
    user = load_users(tmp_path, users=1, engagements=4, held_out=5)[0]
    assert [e.id for e in user.engagements] == [f"u-0/t{n}" for n in range(4)]
    times = [e.occurred_at for e in user.engagements] + [row.asked_at for row in user.held_out]
    assert times == sorted(set(times))


def test_the_sample_of_held_out_rows_goes_by_seed_and_keeps_the_order(tmp_path: Path) -> None:
    folder(tmp_path, held_out=40)
    users = [load_users(tmp_path, users=1, engagements=1, held_out=6, seed=seed)[0] for seed in (1, 1, 2)]
    found = [[row.id for row in user.held_out] for user in users]
    assert found[0] == found[1] != found[2]
    assert found[0] == sorted(found[0], key=lambda name: int(name.removeprefix("u-0/e")))


@pytest.mark.parametrize(
    ("key", "value", "seen"), [("seen_title", True, True), ("seen_topic", False, False), ("x", 1, None)]
)
def test_the_seen_flag_is_kept_where_there_is_one(tmp_path: Path, key: str, value: object, seen: bool | None) -> None:
    edit(folder(tmp_path, users=1, held_out=1) / "eval.jsonl", 1, put(key, value))
    assert load_users(tmp_path, users=1, engagements=1, held_out=1)[0].held_out[0].seen is seen


def test_users_can_be_named(tmp_path: Path) -> None:
    assert [user.user_id for user in load_users(folder(tmp_path), engagements=1, held_out=1, ids=["u-1"])] == ["u-1"]
    with pytest.raises(DatasetError, match=r"users\.jsonl has no user 'u-9': it has u-0, u-1"):
        load_users(tmp_path, ids=["u-9"])


def test_a_reason_of_the_row_itself_comes_first(tmp_path: Path) -> None:
    edit(folder(tmp_path, users=1) / "train.jsonl", 4, put("reason", "own"))
    assert load_users(tmp_path, users=1, engagements=1, held_out=1)[0].engagements[0].reason == "own"


def test_no_reason_where_the_history_is_about_something_else(tmp_path: Path) -> None:
    edit(folder(tmp_path, users=1) / "train.jsonl", 4, put("history_upto", 0))
    assert load_users(tmp_path, users=1, engagements=1, held_out=1)[0].engagements[0].reason is None


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    (tmp_path / "users.jsonl").touch()
    with pytest.raises(DatasetError, match=r"has no train\.jsonl and no eval\.jsonl: name a folder with"):
        load_users(tmp_path)


def test_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has 0 of 2 users with 9 rows in train\.jsonl .*: ask for fewer"):
        load_users(folder(tmp_path), users=2, engagements=9, held_out=1)


@pytest.mark.parametrize(
    ("file", "line", "change", "message"),
    [
        ("train", 4, put("target", "perhaps"), r"train\.jsonl:4: .*response is not among the choices"),
        ("train", 4, put("id", ""), r"train\.jsonl:4: id is missing or no text"),
        ("train", 4, put("id", "u-0/t2"), r"train\.jsonl: user 'u-0' has two rows of the same id"),
        ("train", 4, put("query", ""), r"train\.jsonl:4: query is missing or no text"),
        ("train", 4, put("timestamp", "yesterday"), r"train\.jsonl:4: timestamp 'yesterday' is no ISO time"),
        ("train", 4, put("timestamp", 5), r"train\.jsonl:4: timestamp 5 is no ISO time"),
        ("train", 2, lambda row: row.pop("user_id"), r"train\.jsonl:2: user_id is missing or no text"),
        ("eval", 1, put("target", "perhaps"), r"eval\.jsonl:1: target 'perhaps' is not among the choices"),
        ("eval", 1, put("choices", "yes"), r"eval\.jsonl:1: choices is no list of two or more texts"),
        ("users", 1, put("history", None), r"users\.jsonl:1: history is no list"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, file: str, line: int, change: Change, message: str
) -> None:
    edit(folder(tmp_path, users=1, held_out=1) / f"{file}.jsonl", line, change)
    with pytest.raises(DatasetError, match=message) as caught:
        load_users(tmp_path, users=1, engagements=4, held_out=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"), [(b"{oops\n", "no JSON"), (b"\xff\xfe\n", "no JSON"), (b"[1]\n", "object is needed")]
)
def test_lines_that_are_no_objects(tmp_path: Path, line: bytes, message: str) -> None:
    folder(tmp_path)
    with (tmp_path / "eval.jsonl").open("ab") as stream:
        stream.write(b"\n" + line)
    with pytest.raises(DatasetError, match=rf"eval\.jsonl:12: .*{message}"):
        load_users(tmp_path, users=1, engagements=1, held_out=1)


def test_an_evaluation_takes_users_with_fewer_rows_or_none(tmp_path: Path) -> None:
    there = folder(tmp_path, held_out=2)
    rows = (there / "eval.jsonl").read_text().splitlines()
    (there / "eval.jsonl").write_text("".join(row + "\n" for row in rows if "u-1" not in row))
    first, second = load_users(there, users=2, engagements=9, held_out=5, fewer=True)
    assert (len(first.engagements), len(first.held_out)) == (4, 2)
    assert (len(second.engagements), second.held_out) == (4, [])
    assert list_user_ids(there) == ["u-0", "u-1"]


def test_open_questions_and_other_kinds_are_taken_where_they_can_be_measured(tmp_path: Path) -> None:
    there = folder(tmp_path, users=1, held_out=3)
    edit(there / "eval.jsonl", 1, lambda row: row.pop("choices"))
    edit(there / "eval.jsonl", 2, put("kind", "ranking"))
    [user] = load_users(there, users=1, engagements=2, held_out=3, open_too=True)
    assert [(row.kind, row.choices) for row in user.held_out] == [
        ("open", None),
        ("ranking", ["yes", "no"]),
        ("closed", ["yes", "no"]),
    ]
    with pytest.raises(DatasetError, match="choices is no list"):
        load_users(there, users=1, engagements=2, held_out=3)


@pytest.mark.parametrize("kind", ["open", "essay", 7])
def test_a_kind_that_does_not_fit_is_refused(tmp_path: Path, kind: object) -> None:
    there = folder(tmp_path, users=1)
    edit(there / "eval.jsonl", 1, put("kind", kind))
    with pytest.raises(DatasetError, match=r"eval\.jsonl:1: kind"):
        load_users(there, users=1, engagements=2, held_out=3, open_too=True)


def test_users_need_their_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no users\.jsonl"):
        list_user_ids(tmp_path)


def test_rows_may_have_the_keys_of_engagements(tmp_path: Path) -> None:
    known = load_users(folder(tmp_path), users=1, engagements=4, held_out=5)
    names = {"query": "prompt", "target": "response", "timestamp": "occurred_at"}
    for file in (tmp_path / "train.jsonl", tmp_path / "eval.jsonl"):
        rows = [json.loads(row) for row in file.read_text().splitlines()]
        renamed = [{names.get(key, key): value for key, value in row.items()} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    assert load_users(tmp_path, users=1, engagements=4, held_out=5) == known
    imported = read(tmp_path, "dataset", Skips())
    assert [row for user, row in imported if user == "u-0"] == known[0].engagements


def test_ids_in_any_form_become_valid_ones_as_in_an_import(tmp_path: Path) -> None:
    """A user `ann@example.com` was refused by the server, in the middle of a demo."""
    there = folder(tmp_path, users=1)
    for file in there.iterdir():
        file.write_text(file.read_text().replace('"u-0"', '"ann@example.com"').replace("u-0/", "u 0/"))
    [user] = load_users(there, users=1, engagements=3, held_out=2, ids=["ann@example.com"])
    assert user.user_id == list_user_ids(there)[0] == user_name("ann@example.com")
    assert load_users(there, users=1, engagements=3, held_out=2, ids=[user.user_id]) == [user]
    imported = list(read(there, "dataset", Skips()))
    assert {name for name, _ in imported} == {user.user_id}
    assert [row.id for _, row in imported][-3:] == [row.id for row in user.engagements]


def test_two_users_who_would_become_one_are_refused(tmp_path: Path) -> None:
    there = folder(tmp_path, users=2)
    edit(there / "users.jsonl", 1, put("user_id", user_name("a@b")))
    edit(there / "users.jsonl", 2, put("user_id", "a@b"))
    with pytest.raises(DatasetError, match="both become 'a-b-"):
        list_user_ids(there)
