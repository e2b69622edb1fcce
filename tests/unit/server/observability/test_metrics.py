from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from mindprint_server.observability.metrics import Metrics


@pytest.fixture
def of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics as vLLM registers them: for the process."""
    registry = CollectorRegistry()
    monkeypatch.setattr("mindprint_server.observability.metrics.REGISTRY", registry)
    running = Gauge("vllm:test_running", "Requests that run", ["model_name"], registry=registry)
    running.labels("base").set(3)
    adapters = Gauge("vllm:lora_requests_info", "Adapters", ["running_lora_adapters"], registry=registry)
    adapters.labels("user/ann@1").set(1)
    Counter("other_things", "Of another library", registry=registry)


@pytest.mark.usefixtures("of_vllm")
def test_metrics_of_vllm_stand_beside_those_of_the_server() -> None:
    text = Metrics().render().decode()
    assert 'vllm:test_running{model_name="base"} 3.0' in text
    assert "mindprint_batch_in_flight" in text
    assert "other_things" not in text


@pytest.mark.usefixtures("of_vllm")
def test_metrics_that_name_adapters_are_not_shown() -> None:
    text = Metrics().render().decode()
    assert "lora_requests_info" not in text
    assert "ann" not in text


@pytest.mark.usefixtures("of_vllm")
def test_two_servers_of_a_process_show_the_metrics_of_its_engine() -> None:
    first, second = Metrics(), Metrics()
    assert "vllm:test_running" in first.render().decode()
    assert "vllm:test_running" in second.render().decode()
