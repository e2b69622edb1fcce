from __future__ import annotations

import pytest

from soak import MAX_GROWTH, Soaked, Trend, find_trend

TIMES = [float(second) for second in range(0, 400, 10)]


def test_find_trend_leaves_out_the_warm_up() -> None:
    trend = find_trend(TIMES, [100 + min(second, 90) for second in TIMES])
    assert (trend.first, trend.last, trend.is_flat) == (190, 190, True)
    assert trend.slope_per_hour == pytest.approx(0, abs=1e-6)


def test_find_trend_of_a_leak_is_not_flat() -> None:
    trend = find_trend(TIMES, [1000 + second for second in TIMES])
    assert trend.slope_per_hour == pytest.approx(3600)
    assert trend.growth > MAX_GROWTH
    assert not trend.is_flat


def test_find_trend_of_what_shrinks_is_flat() -> None:
    assert find_trend(TIMES, [1000 - second for second in TIMES]).is_flat


@pytest.mark.parametrize(
    ("answers", "is_flat", "holds"),
    [({"200": 9, "503": 1}, True, True), ({"200": 9, "500": 1}, True, False), ({"200": 9}, False, False)],
)
def test_soak_holds_without_faults_and_growth(answers: dict[str, int], is_flat: bool, holds: bool) -> None:
    trend = Trend(first=1, last=1, slope_per_hour=0, growth=0, is_flat=is_flat)
    assert Soaked(1, answers, {"threads": trend}).holds is holds
