from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mindprint import datasets
from mindprint_demo.synthetic import REASON_SHARE, SyntheticChoice, SyntheticUser, generate_users, write_dataset

sizes = st.integers(1, 12)
seeds = st.integers(0, 2**31 - 1)


def choices_of(made: list[SyntheticUser]) -> list[SyntheticChoice]:
    return [choice for user in made for choice in (*user.history, *user.held_out)]


@settings(max_examples=25)
@given(sizes, sizes, sizes, seeds)
def test_the_same_seed_gives_the_same_users(users: int, engagements: int, held_out: int, seed: int) -> None:
    made = generate_users(users, engagements, held_out, seed)
    assert made == generate_users(users, engagements, held_out, seed)
    assert made[:1] == generate_users(1, engagements, held_out, seed)
    assert [(len(user.history), len(user.held_out)) for user in made] == [(engagements, held_out)] * users


@settings(max_examples=25)
@given(seeds)
def test_without_noise_the_user_takes_what_is_worth_most(seed: int) -> None:
    for user in generate_users(3, 10, 5, seed, noise=0.0):
        for choice in (*user.history, *user.held_out):
            assert choice.taken == choice.best
            assert user.rule.utility(choice.taken) == max(map(user.rule.utility, choice.options))


@settings(max_examples=25)
@given(seeds)
def test_every_choice_is_well_formed(seed: int) -> None:
    for user in generate_users(3, 10, 5, seed):
        every = (*user.history, *user.held_out)
        assert all(before.at < after.at for before, after in pairwise(every))
        for choice in every:
            assert choice.taken in choice.options
            assert 2 <= len(choice.options) <= 3
            assert len(set(choice.labels)) == len(choice.labels)
            assert all(label.isalpha() and label in choice.prompt for label in choice.labels)
            if choice.reason:
                assert len({*choice.reason.strip(".").split()} & {*choice.taken.attributes()}) == 1


def test_noise_matters_a_little() -> None:
    every = choices_of(generate_users(40, 20, 5, 0))
    agree = sum(choice.taken == choice.best for choice in every) / len(every)
    assert 0.8 < agree < 0.98


def test_positions_of_the_taken_option_are_balanced() -> None:
    every = [choice for choice in choices_of(generate_users(60, 25, 5, 1)) if len(choice.options) == 3]
    places = Counter(choice.options.index(choice.taken) for choice in every)
    assert all(abs(places[place] / len(every) - 1 / 3) < 0.05 for place in range(3))


def test_reasons_come_as_often_as_meant() -> None:
    every = choices_of(generate_users(40, 20, 5, 2))
    assert abs(sum(choice.reason is not None for choice in every) / len(every) - REASON_SHARE) < 0.05


def test_users_differ_and_so_do_seeds() -> None:
    first, second = generate_users(9, 1, 1, 3), generate_users(9, 1, 1, 4)
    rules = [json.dumps(user.rule.weights) for user in (*first, *second)]
    assert len(set(rules)) == len(rules)


def test_what_is_written_can_be_read_as_records(tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "new" / "data", 3, 8, 4, 5)
    read = datasets.load_users(tmp_path / "new" / "data", users=3, engagements=8, held_out=4)
    for user, found in zip(made, read, strict=True):
        assert found.user_id == user.rule.user_id
        assert [(e.prompt, e.response, e.reason, e.choices) for e in found.engagements] == [
            (c.prompt, c.taken.kind, c.reason, c.labels) for c in user.history
        ]
        assert [(h.query, h.target, h.best) for h in found.held_out] == [
            (c.prompt, c.taken.kind, c.best.kind) for c in user.held_out
        ]
    rules = json.loads((tmp_path / "new" / "data" / "rules.json").read_text())
    assert [rule["weights"] for rule in rules] == [user.rule.weights for user in made]


def test_files_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_dataset(tmp_path / name, 2, 5, 3, 6)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
