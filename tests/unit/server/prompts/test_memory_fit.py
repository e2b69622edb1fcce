"""As much memory as fits is found with few attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.prompts.memory_fit import first_that_fits


@given(st.integers(0, 600), st.integers(0, 700))
def test_the_first_attempt_that_fits_is_found_in_few_attempts(count: int, first: int) -> None:
    asked = list[int]()

    def attempt(number: int) -> str | None:
        asked.append(number)
        assert number < count
        return f"prompt {number}" if number >= first else None

    assert first_that_fits(attempt, count) == (f"prompt {first}" if first < count else None)
    assert len(asked) <= 2 + count.bit_length()
    assert len(set(asked)) == len(asked), "no attempt is made twice"
    assert first > 0 or len(asked) <= 1, "most prompts fit as they are"
