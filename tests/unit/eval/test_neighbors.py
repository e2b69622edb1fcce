from __future__ import annotations

from datetime import UTC, datetime

from mindprint.datasets import UserDataset
from mindprint.types import Engagement
from mindprint_eval.neighbors import find_other_users

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def user(name: str, answers: str) -> UserDataset:
    asked = ["tax the rich", "build a dam", "open the border", "close the mine"]
    engagements = [
        Engagement(
            id=f"{n}", prompt=prompt, response={"y": "yes", "n": "no"}[given], occurred_at=NOW, choices=["yes", "no"]
        )
        for n, (prompt, given) in enumerate(zip(asked, answers, strict=True))
    ]
    return UserDataset(name, engagements, [])


def test_the_nearest_answers_alike_and_the_random_one_is_another() -> None:
    found = find_other_users([user("a", "yyyy"), user("b", "yyyn"), user("c", "nnnn"), user("d", "nnny")], seed=1)
    assert {name: one["nearest"] for name, one in found.items()} == {"a": "b", "b": "a", "c": "d", "d": "c"}
    assert all(one["random"] not in (name, one["nearest"]) for name, one in found.items())


def test_two_users_are_each_other_s_nearest_and_random() -> None:
    found = find_other_users([user("a", "yyyy"), user("b", "nnnn")], seed=0)
    assert found == {"a": {"nearest": "b", "random": "b"}, "b": {"nearest": "a", "random": "a"}}


def test_one_user_has_no_other() -> None:
    assert find_other_users([user("a", "yyyy")], seed=0) == {"a": {}}
