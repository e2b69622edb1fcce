"""Quotas: what a bucket lets through, whose bound holds, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.cli.settings_flags import as_toml, build
from mindprint_server.exceptions import LimitExceeded
from mindprint_server.settings import QuotaSettings, Settings
from mindprint_server.sharing.quotas import Quotas, StoredQuotas, TokenBucket, enter_key, in_no_key, quotas_of
from mindprint_server.store import Store
from mindprint_server.tenancy import in_no_tenant, in_tenant
from samples import engagement


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quotas_with(clock: Clock, **settings: Any) -> Quotas:
    return Quotas(QuotaSettings(**settings), retry_after_s=7, clock=clock)


def ask(quotas: Quotas, *, tenant: str = "acme", key: str | None = None) -> None:
    with in_no_key(), in_tenant(tenant):
        enter_key(key)
        with quotas.request():
            pass


# --- the bucket ---


def test_bucket_is_full_at_first_and_refills_in_a_minute() -> None:
    bucket = TokenBucket(6, 0)
    assert bucket.wait_s(0) == 0
    bucket.take(6, 0)
    assert bucket.wait_s(0) == pytest.approx(10)
    assert bucket.wait_s(4) == pytest.approx(6)
    assert bucket.wait_s(10) == 0
    bucket.take(1, 10)
    assert bucket.wait_s(1e9) == 0
    for _ in range(6):
        bucket.take(1, 1e9)
    assert bucket.wait_s(1e9) == pytest.approx(10), "it holds no more than a minute's"


def test_bucket_in_debt_makes_up_for_it() -> None:
    bucket = TokenBucket(60, 0)
    bucket.take(180, 0)
    assert bucket.wait_s(0) == pytest.approx(121)
    assert bucket.wait_s(121) == pytest.approx(0)


@given(st.integers(1, 500), st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_no_more_passes_a_bucket_than_it_holds_and_refills(per_minute: int, steps: list[float]) -> None:
    bucket, now, passed = TokenBucket(per_minute, 0), 0.0, 0
    for step in steps:
        now += step
        if bucket.wait_s(now) == 0:
            bucket.take(1, now)
            passed += 1
    assert passed <= per_minute + now * per_minute / 60 + 1e-6


# --- whose bound ---


def test_a_tenant_s_own_quota_replaces_the_server_s() -> None:
    settings = QuotaSettings(
        quota_requests_per_minute=9,
        quota_key_requests_per_minute=5,
        tenant_quotas={"acme": {"requests_per_minute": 2}, "free": {"requests_per_minute": None}},
    )

    def bounds(tenant: str) -> list[tuple[str, int, str]]:
        found = quotas_of(settings, "requests_per_minute", tenant, "k")
        return [(quota.holder, quota.most, quota.setting) for quota in found]

    of_key = ("key k", 5, "quota_key_requests_per_minute")
    assert bounds("acme") == [("tenant acme", 2, "requests_per_minute in tenant_quotas.acme"), of_key]
    assert bounds("other") == [("tenant other", 9, "quota_requests_per_minute"), of_key]
    assert bounds("free") == [of_key], "null is no bound"
    assert len(quotas_of(settings, "requests_per_minute", "other")) == 1


def test_a_misspelt_quota_of_a_tenant_is_refused() -> None:
    with pytest.raises(ValueError, match="requests_per_second"):
        Settings(tenant_quotas={"acme": {"requests_per_second": 1}})


def test_quotas_of_tenants_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_TENANT_QUOTAS", '{"acme": {"engagements": 5}}')
    assert Settings().tenant_quotas["acme"].engagements == 5


def test_quotas_of_tenants_are_printed_as_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mindprint.toml"
    file.write_text('[tenant_quotas.acme]\nengagements = 5\nadapters = "none"\n')
    settings: Any = build(Settings, {}, config=file, command="serve")
    printed = tmp_path / "printed.toml"
    printed.write_text(as_toml(settings))
    again: Any = build(Settings, {}, config=printed, command="serve")
    for read in (settings, again):
        assert read.tenant_quotas["acme"].model_fields_set == {"engagements", "adapters"}
        assert (read.tenant_quotas["acme"].engagements, read.tenant_quotas["acme"].adapters) == (5, None)


# --- requests ---


def test_requests_within_a_minute(clock: Clock) -> None:
    quotas = quotas_with(clock, quota_requests_per_minute=3, quota_key_requests_per_minute=2)
    for _ in range(2):
        ask(quotas, key="one")
    with pytest.raises(LimitExceeded, match=r"key one sent 2 .* raise quota_key_requests_per_minute") as refused:
        ask(quotas, key="one")
    assert (refused.value.code, refused.value.retry_after) == ("quota_requests_per_minute", 30)
    ask(quotas, key="two")
    with pytest.raises(LimitExceeded, match=r"tenant acme sent 3 .* raise quota_requests_per_minute"):
        ask(quotas, key="three")
    ask(quotas, tenant="globex", key="four")
    clock.now += 30
    ask(quotas, key="one")


def test_requests_under_way(clock: Clock) -> None:
    quotas = quotas_with(clock, quota_running_requests=2, quota_key_running_requests=1)
    with in_tenant("acme"), in_no_key():
        enter_key("one")
        with quotas.request():
            with pytest.raises(LimitExceeded, match=r"key one has 1 .*quota_key_running_requests") as refused:
                ask(quotas, key="one")
            assert (refused.value.code, refused.value.retry_after) == ("quota_running_requests", 7)
            enter_key("two")
            with quotas.request(), pytest.raises(LimitExceeded, match="tenant acme has 2"):
                ask(quotas, key="three")
            ask(quotas, tenant="globex", key="four")
    ask(quotas, key="one")


def test_a_request_that_fails_is_no_longer_under_way(clock: Clock) -> None:
    quotas = quotas_with(clock, quota_running_requests=1)
    with in_tenant("acme"):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), quotas.request():
                raise ZeroDivisionError


def test_a_refused_request_costs_nothing(clock: Clock) -> None:
    quotas = quotas_with(clock, quota_requests_per_minute=1)
    ask(quotas)
    for _ in range(9):
        with pytest.raises(LimitExceeded):
            ask(quotas)
    clock.now += 60
    ask(quotas)


# --- tokens and uploads ---


def test_tokens_are_counted_for_the_tenant_and_the_key(clock: Clock) -> None:
    quotas = quotas_with(clock, quota_generated_tokens_per_minute=600, quota_key_generated_tokens_per_minute=100)
    with in_tenant("acme"), in_no_key():
        enter_key("one")
        quotas.count_tokens(120)
        with pytest.raises(LimitExceeded, match=r"100 tokens a minute for key one") as refused:
            quotas.check_tokens()
        assert (refused.value.code, refused.value.retry_after) == ("quota_generated_tokens_per_minute", 13)
        enter_key("two")
        quotas.check_tokens()
        enter_key(None)  # as the work on a batch does
        quotas.count_tokens(600)
        enter_key("two")
        with pytest.raises(LimitExceeded, match=r"600 tokens a minute for tenant acme"):
            quotas.check_tokens()
    with in_tenant("globex"):
        quotas.check_tokens()


def test_the_server_s_own_work_counts_for_nobody(clock: Clock) -> None:
    quotas = quotas_with(clock, quota_generated_tokens_per_minute=1)
    with in_no_tenant():
        quotas.count_tokens(100)
    with in_tenant("acme"):
        quotas.check_tokens()


def test_uploads(clock: Clock) -> None:
    quotas = quotas_with(clock, quota_upload_bytes_per_minute=1000)
    with in_tenant("acme"):
        quotas.check_upload(1500)
        with pytest.raises(LimitExceeded) as refused:
            quotas.check_upload(1)
        assert (refused.value.code, refused.value.retry_after) == ("quota_upload_bytes_per_minute", 31)
        clock.now += 31
        quotas.check_upload(1)


# --- what is stored ---


async def test_stored_engagements(store: Store, clock: Clock) -> None:
    stored = StoredQuotas(QuotaSettings(quota_engagements=5), store, clock=clock)
    await store.engagements.add("ann", [engagement(number) for number in range(3)])
    await stored.check_engagements(2)
    await store.engagements.add("bob", [engagement(number) for number in range(2)])
    stored.add_engagements(2)
    with pytest.raises(LimitExceeded, match="tenant default has 5 engagements, of at most 5") as refused:
        await stored.check_engagements(1)
    assert (refused.value.code, refused.value.retry_after) == ("quota_engagements", 60)
    with in_tenant("acme"):
        await stored.check_engagements(5)


async def test_the_count_of_engagements_is_at_most_a_minute_old(store: Store, clock: Clock) -> None:
    stored = StoredQuotas(QuotaSettings(quota_engagements=5), store, clock=clock)
    await stored.check_engagements(5)
    await store.engagements.add("ann", [engagement(number) for number in range(3)])  # by another server
    await stored.check_engagements(5)
    clock.now += 61
    with pytest.raises(LimitExceeded, match="has 3"):
        await stored.check_engagements(5)
