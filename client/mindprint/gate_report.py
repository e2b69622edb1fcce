"""Describe the checks of a version in words."""

from __future__ import annotations

from collections.abc import Iterable

from mindprint.types import Check, Version


def all_checks(version: Version) -> list[Check]:
    """Return all checks of a version. A parity check that is not among them is added as the first one."""
    parity = version.parity
    if parity is None or any(check.name.startswith("parity") for check in version.checks):
        return version.checks
    detail = parity.reason or f"off the trainer, {parity.against_base:.3f} off the base"
    return [Check(name="parity", value=parity.against_trainer, passed=parity.passed, detail=detail), *version.checks]


def failed(version: Version) -> list[str]:
    """Return the names of the checks that failed."""
    return [check.name for check in all_checks(version) if check.passed is False]


def verdict(check: Check) -> str:
    """Return `passed`, `FAILED` or `not judged`."""
    return "not judged" if check.passed is None else "passed" if check.passed else "FAILED"


def summarize(version: Version) -> str | None:
    """Summarize the checks of a version in a few words; None if it has none."""
    checks = all_checks(version)
    if not checks:
        return None
    if names := failed(version):
        return f"FAILED: {', '.join(names)}"
    open_ = [check.name for check in checks if check.passed is None]
    return f"passed; not judged: {', '.join(open_)}" if open_ else "passed"


def check_rows(checks: Iterable[Check]) -> list[tuple[str, str | None, str | None, str, str]]:
    """Return name, value, bound, verdict and detail of each check."""
    return [
        (check.name.replace("_", " "), figure(check.value), figure(check.bound), verdict(check), check.detail)
        for check in checks
    ]


def figure(value: float | None) -> str | None:
    """Format a number with three digits."""
    return None if value is None else f"{value:.3f}"
