"""Rows that are too old go, by the rules of their tenant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from mindprint_server.personal_data.retention import days_of
from mindprint_server.settings import PersonalDataSettings
from mindprint_server.store.tenants import ensure
from mindprint_server.tenancy import in_tenant
from mindprint_server.wiring import Services
from samples import engagement

OWN = {"acme": {"traces_days": 30}, "blue": {"engagements_days": "none", "traces_days": 7}}


@pytest.mark.parametrize(
    ("tenant", "expected"), [("default", (90.0, None)), ("acme", (90.0, 30.0)), ("blue", (None, 7.0))]
)
def test_a_tenant_s_own_rule_goes_before_the_server_s(tenant: str, expected: tuple[float | None, float | None]) -> None:
    settings = PersonalDataSettings(retain_engagements_days=90, tenant_retention=OWN)
    assert days_of(settings, tenant) == expected


@pytest.mark.parametrize("own", [{"traces_days": 0}, {"traces_days": "for ever"}, {"profiles_days": 3}])
def test_a_rule_that_is_none_is_refused(own: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PersonalDataSettings(tenant_retention={"acme": own})


async def test_only_the_tenant_with_a_rule_loses_rows(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for tenant in ("acme", "blue"):
        with in_tenant(tenant):
            await services.store._database.write(ensure, tenant)
            await services.store.engagements.add("ann", [engagement(n) for n in range(3)])
    settings = PersonalDataSettings(tenant_retention={"acme": {"engagements_days": 1}})
    monkeypatch.setattr(services.retention, "_settings", settings)
    monkeypatch.setattr(services.retention, "_clock", lambda: datetime(2027, 1, 1, tzinfo=UTC))
    await services.retention.look()
    await services.erasures.run_open()
    left = {}
    for tenant in ("acme", "blue"):
        with in_tenant(tenant):
            left[tenant] = await services.store.engagements.count("ann")
    assert left == {"acme": 0, "blue": 3}
