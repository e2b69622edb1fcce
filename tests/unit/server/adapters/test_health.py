from __future__ import annotations

from typing import Any

from mindprint_server.adapters import health as watching
from mindprint_server.adapters.health import Outcome, VersionHealth, outcome_of


def watch(**changes: Any) -> VersionHealth:
    return VersionHealth(**{"window": 10, "min_answers": 4, "max_collapsed": 0.5, "max_failed": 0.25} | changes)


def test_a_bound_is_passed_once_there_are_enough_answers() -> None:
    seen = watch()
    assert [seen.record("user/ann@1", "collapsed") for _ in range(3)] == [None] * 3
    check = seen.record("user/ann@1", "collapsed")
    assert check is not None
    assert (check.name, check.value, check.bound, check.passed) == ("service_collapsed", 1.0, 0.5, False)
    assert check.detail == "4 of the newest 4 answers in service"
    assert seen.record("user/ann@1", "collapsed") is None, "its record began anew"


def test_each_kind_has_its_bound_and_old_answers_no_longer_count() -> None:
    seen = watch()
    outcomes: list[Outcome] = ["failed", "fine", "fine", "fine", "collapsed", "collapsed"]
    assert [seen.record("a", outcome) for outcome in outcomes] == [None] * 6
    for _ in range(10):
        assert seen.record("a", "fine") is None
    assert seen.record("a", "failed") is None
    assert seen.record("a", "failed") is None
    assert seen.record("a", "failed") is not None
    assert seen.count_fine("a") == 0


def test_at_the_bound_is_within_it() -> None:
    seen = watch()
    outcomes: list[Outcome] = ["fine", "fine", "collapsed", "collapsed"]
    assert [seen.record("a", outcome) for outcome in outcomes] == [None] * 4


def test_no_bound_is_never_passed() -> None:
    seen = watch(max_collapsed=None, max_failed=None)
    outcomes: list[Outcome] = ["collapsed", "failed"] * 20
    assert [seen.record("a", outcome) for outcome in outcomes] == [None] * 40


def test_good_answers_are_counted_by_version() -> None:
    seen = watch()
    for _ in range(15):
        seen.record("a", "fine")
    seen.record("b", "fine")
    assert (seen.count_fine("a"), seen.count_fine("b"), seen.count_fine("c")) == (15, 1, 0)
    seen.reset("a")
    assert seen.count_fine("a") == 0


def test_only_so_many_versions_are_remembered() -> None:
    seen = watch()
    for number in range(watching.MAX_VERSIONS + 5):
        seen.record(f"user/{number}@1", "fine")
    assert seen.count_fine("user/4@1") == 0
    assert seen.count_fine("user/5@1") == 1


def test_what_is_wrong_with_a_thinking() -> None:
    reasons = (None, "loop", "empty", "wrong_answer", "leak")
    assert [outcome_of(reason) for reason in reasons] == ["fine", "collapsed", "collapsed", "fine", "fine"]
