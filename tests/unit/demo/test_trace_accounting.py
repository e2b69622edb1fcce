from __future__ import annotations

from demo_made import adapter, trace, version
from mindprint_demo.trace_accounting import account_for_traces


def test_books_that_balance() -> None:
    books = account_for_traces(
        [trace("a"), trace("b", version=2), trace("c", state="dead_letter", version=None)],
        [adapter(version(["a"], 1, state="standby"), version(["b"], 2))],
    )
    assert (books.accepted, books.trained, books.dead, books.balanced) == (3, 2, 1, True)


def test_a_refused_version_does_not_count() -> None:
    books = account_for_traces(
        [trace("a", version=2)], [adapter(version(["a"], 1, state="refused"), version(["a"], 2))]
    )
    assert books.balanced


def test_a_trace_that_is_lost() -> None:
    books = account_for_traces([trace("a", state="leased", version=None)], [adapter(version([]))])
    assert books.problems == ["a is still leased"]


def test_a_trace_in_two_versions() -> None:
    books = account_for_traces([trace("a")], [adapter(version(["a"], 1), version(["a"], 2))])
    assert "a is trained (['user/u-0@1']) but stands in ['user/u-0@1', 'user/u-0@2']" in books.problems


def test_a_trace_whose_version_does_not_know_it() -> None:
    books = account_for_traces([trace("a")], [adapter(version([]))])
    assert books.problems == ["a is trained (['user/u-0@1']) but stands in none"]


def test_a_trace_of_another_user() -> None:
    books = account_for_traces([trace("a", "u-1")], [adapter(version(["a"]))])
    assert not books.balanced


def test_a_version_of_unknown_traces() -> None:
    books = account_for_traces([], [adapter(version(["z"]))])
    assert books.problems == ["user/u-0@1 was trained on z, which is no accepted trace"]


def test_a_version_that_was_taken_out_of_service_keeps_its_traces() -> None:
    """It was live once, so they were trained; another refused version does not count."""
    books = account_for_traces(
        [trace("a"), trace("b", version=2)], [adapter(version(["a"], 1, state="refused"), version(["b"], 2))]
    )
    assert books.balanced


def test_a_cohort_learns_besides() -> None:
    cohort = adapter(version(["a", "b"], 1, key="cohort/everyone"))
    books = account_for_traces([trace("a"), trace("b"), trace("c")], [adapter(version(["a", "b", "c"]))], [cohort])
    assert (books.balanced, books.in_cohorts) == (True, 2)


def test_a_cohort_that_learns_a_trace_twice() -> None:
    cohort = adapter(
        version(["a"], 1, key="cohort/everyone", state="standby"), version(["a"], 2, key="cohort/everyone")
    )
    books = account_for_traces([trace("a")], [adapter(version(["a"]))], [cohort])
    assert books.problems == ["a stands 2 times in cohort/everyone"]
