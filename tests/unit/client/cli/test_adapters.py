"""The life of adapters and cohorts at the terminal: why a version is so, releases, pins, exports, members."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from mindprint.cli.lineage import losses_text
from mindprint.types import Manifest
from zips import zipped

CHECKS: list[dict[str, Any]] = [
    {"name": "personal_base", "passed": None, "detail": "3 engagements held out, 8 wanted"},
    {"name": "collapse", "value": 1.0, "bound": 0.12, "passed": False, "detail": "32 of 32 thinkings, the base 2"},
    {"name": "general", "value": 46.9, "bound": 43.9, "passed": True, "detail": "the base 46.9"},
]
PASSED = [check for check in CHECKS if check["passed"]]


def line_of(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line for word in words))


def learned(number: int, user: str = "ann", **changes: Any) -> dict[str, Any]:
    scores = {"gain": 0.25, "anchor": -0.5, "target_logprob": -0.4}
    made = {"trace_id": f"t{number}", "user_id": user, "engagement_id": f"e{number}", "saw_answer": False}
    return {**made, "scores": scores, **changes}


def lineage(samples: Any, **changes: Any) -> dict[str, Any]:
    manifest = {
        **samples.manifest,
        "settings": {"rank": 16, "learning_rate": 0.0004},
        "samples": {"slow": 2, "fast": 3},
    }
    version = samples.version(7, state="refused", checks=CHECKS, manifest=manifest, parent=6, pinned=True)
    made = {
        "version": version,
        "traces": [learned(1), learned(2, saw_answer=True)],
        "fast": {"ann": ["e2", "e5"]},
        "held_out": {"ann": ["e8", "e9"]},
        "ancestors": ["user/ann@6", "cohort/tea@3"],
    }
    return {**made, **changes}


def test_why_a_version_is_so(run: Any, server: Any, samples: Any) -> None:
    server.routes(GET_v1_adapters_user_ann_versions_7_lineage=lineage(samples))
    told = run("adapters", "why", "user/ann@7").stdout
    assert "refused, pinned" in line_of(told, "state")
    assert "user/ann@6 from cohort/tea@3" in line_of(told, "began with")
    assert "version 6" in line_of(told, "live before")
    assert "3 fast, 2 slow; 10 tokens" in line_of(told, "samples")
    assert "rank 16, learning_rate 0.0004" in line_of(told, "settings")
    assert line_of(told, "parity").split()[1:4] == ["0.010", "-", "passed"]
    assert "not judged  3 engagements held out, 8 wanted" in line_of(told, "personal base")
    assert line_of(told, "collapse").split()[1:4] == ["1.000", "0.120", "FAILED"]
    assert line_of(told, "t1 ").split()[:6] == ["t1", "e1", "no", "no", "+0.250", "-0.500"]
    assert line_of(told, "t2 ").split()[:4] == ["t2", "e2", "yes", "yes"]
    assert "target -0.400" in line_of(told, "t1 ")
    assert "answer directly\nann: e5\n" in told, "what has a trace is not told twice"
    assert "evaluated on\nann: e8, e9\n" in told


def test_a_cohorts_traces_name_their_users(run: Any, server: Any, samples: Any) -> None:
    found = lineage(samples, traces=[learned(1), learned(1, "bob")], ancestors=[])
    server.routes(GET_v1_adapters_cohort_tea_versions_7_lineage=found)
    told = run("adapters", "why", "cohort/tea@7").stdout
    assert "a fresh adapter" in line_of(told, "began with")
    assert line_of(told, "t1", "bob").split()[:3] == ["t1", "bob", "e1"]


def test_a_long_list_of_traces_is_cut_and_says_so(run: Any, server: Any, samples: Any) -> None:
    found = lineage(samples, traces=[learned(n) for n in range(60)])
    server.routes(GET_v1_adapters_user_ann_versions_7_lineage=found)
    result = run("adapters", "why", "user/ann@7", "--traces", "2")
    assert "t1 " in result.stdout
    assert "t2 " not in result.stdout
    assert result.stderr == "58 more: --traces 60 shows all\n"
    assert len(json.loads(run("adapters", "why", "user/ann@7", "--json").stdout)["traces"]) == 60


def test_an_old_version_has_not_much_to_tell(run: Any, server: Any, samples: Any) -> None:
    version = samples.version(1, parity=None)
    found = lineage(samples, version=version, traces=[], fast={}, held_out={}, ancestors=[])
    server.routes(GET_v1_adapters_user_ann_versions_1_lineage=found)
    told = run("adapters", "why", "user/ann@1").stdout
    assert "no gate has evaluated it" in told
    assert "no traces" in told
    assert "evaluated on" not in told


@pytest.mark.parametrize("columns", ["120", "80"])
def test_an_adapter_with_all_its_versions(
    run: Any, server: Any, samples: Any, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [
        samples.version(1, state="standby", files=False),
        samples.version(2, state="refused", checks=CHECKS, start="cohort/tea@1"),
        samples.version(3, state="canary", pinned=True, checks=[CHECKS[0], *PASSED]),
        samples.version(4, parity=None),
    ]
    server.routes(GET_v1_adapters_user_ann=samples.adapter(live=4, canary=3, canary_share=0.1, versions=versions))
    monkeypatch.setenv("COLUMNS", columns)
    told = run("adapters", "show", "user/ann").stdout
    assert "version 3 at 10.0 % of the requests" in line_of(told, "canary   version")
    assert "standby, files gone" in told
    assert "canary, pinned" in told
    assert "FAILED: collapse" in line_of(told, "refused")
    assert "passed; not judged: personal_base" in line_of(told, "pinned")
    assert line_of(told, "  4 ", "live").split()[-1] == "-"
    assert ("cohort/tea@1" in told) == (columns == "120")


def test_list_shows_canaries(run: Any, server: Any, samples: Any) -> None:
    server.routes(GET_v1_adapters={"adapters": [samples.adapter(canary=3, canary_share=0.25)]})
    assert "3 at 25.0 %" in run("adapters", "list").stdout


def test_canary_and_its_end(run: Any, server: Any, samples: Any) -> None:
    server.answers_with(
        httpx.Response(200, json=samples.adapter(canary=7, canary_share=0.2)),
        httpx.Response(200, json=samples.adapter()),
    )
    assert "version 7 at 20.0 %" in run("adapters", "canary", "user/ann@7", "--share", "0.2").stdout
    assert "at 20.0 %" not in run("adapters", "canary", "user/ann", "--stop").stdout
    assert [json.loads(asked.content) for asked in server.asked] == [
        {"version": 7, "share": 0.2},
        {"version": None, "share": 0.1},
    ]


def test_pin_and_unpin(run: Any, server: Any, samples: Any) -> None:
    server.routes(POST_v1_adapters_user_ann_versions_7_pin=samples.version(7))
    assert run("adapters", "pin", "user/ann@7").stdout.startswith("user/ann@7 is pinned")
    assert run("adapters", "unpin", "user/ann@7").stdout.startswith("user/ann@7 is not pinned")
    assert [json.loads(asked.content) for asked in server.asked] == [{"pinned": True}, {"pinned": False}]


def test_export(run: Any, server: Any, tmp_path: Path) -> None:
    server.routes(GET_v1_adapters_user_ann_versions_7_download=httpx.Response(200, content=zipped()))
    folder = tmp_path / "v7"
    files = "adapter_config.json, adapter_model.safetensors, manifest.json"
    assert run("adapters", "export", "user/ann@7", str(folder)).stdout == f"user/ann@7 written to {folder}: {files}\n"
    again = run("adapters", "export", "user/ann@7", str(folder))
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)
    assert "is not empty" in again.stderr


def test_trace_shows_its_versions(run: Any, server: Any, samples: Any) -> None:
    server.routes(GET_v1_traces_t1=samples.trace(versions=["user/ann@2", "cohort/everyone@1"]))
    assert "user/ann@2, cohort/everyone@1" in line_of(run("traces", "show", "t1").stdout, "versions")


def test_cohorts(run: Any, server: Any, samples: Any) -> None:
    server.routes(
        GET_v1_cohorts={"cohorts": [samples.cohort(), samples.cohort(name="everyone", description="", live=None)]},
        GET_v1_cohorts_tea=samples.cohort(),
        PUT_v1_cohorts_tea=samples.cohort(),
        POST_v1_cohorts_tea_users=samples.cohort(users=4),
        DELETE_v1_cohorts_tea_users_ann=samples.cohort(users=1),
        DELETE_v1_cohorts_tea=httpx.Response(204),
    )
    told = run("cohorts", "list").stdout
    assert line_of(told, "everyone").split()[1:3] == ["2", "-"]
    assert "who like it" in line_of(told, "tea")
    assert "who like it" in run("cohorts", "show", "tea").stdout
    run("cohorts", "put", "tea", "--description", "who like it")
    assert line_of(run("cohorts", "add", "tea", "ann", "bob").stdout, "users").split() == ["users", "4"]
    assert line_of(run("cohorts", "remove", "tea", "ann").stdout, "users").split() == ["users", "1"]
    assert run("cohorts", "delete", "tea").stdout == "cohort tea is gone; its users are in everyone\n"
    sent = [json.loads(asked.content) for asked in server.asked if asked.content]
    assert sent == [{"description": "who like it"}, {"users": ["ann", "bob"]}]


INFO = {
    **dict.fromkeys(("mindprint", "engine", "device", "model", "model_path", "base_digest", "prompt_version"), "x"),
    "max_model_len": 128,
    "limits": {"max_rank": 16, "target_modules": ["q_proj"]},
}


@pytest.fixture
def measured_with(monkeypatch: pytest.MonkeyPatch, samples: Any) -> list[Any]:
    """What the trainer's part was called with, instead of measuring an adapter."""
    found: list[Any] = []

    def measure(folder: Path, key: str, info: Any, settings: Any, prompts: Any) -> Any:
        found.append((folder, key, settings.parity_items, settings.model, prompts))
        manifest = Manifest.model_validate({**samples.manifest, "adapter": key, "trace_ids": []})
        return SimpleNamespace(manifest=manifest, files=SimpleNamespace(config=b"{}", weights=b"weights"))

    fake = SimpleNamespace(measure_adapter=measure, TrainerError=RuntimeError)
    monkeypatch.setitem(sys.modules, "mindprint_trainer.peft_import", fake)
    return found


def test_import_sends_the_folder_with_what_peft_measured(
    run: Any, server: Any, samples: Any, tmp_path: Path, measured_with: list[Any]
) -> None:
    published = samples.publication("published", version=7, result=samples.version(7))
    server.routes(GET_v1_info=INFO, POST_v1_adapters_user_ann_versions=published)
    told = run("adapters", "import", str(tmp_path), "--user", "ann", "-m", "base", "--prompt", "Tea?")
    assert told.stdout == "user/ann@7 is live: 0.0100 nats a token from PEFT, 0.4000 from the base model\n", told.output
    assert measured_with == [(tmp_path, "user/ann", 8, "base", ["Tea?"])]
    assert b"weights" in server.asked[-1].content
    assert "publication p1: the server goes on with it" in told.stderr


def test_import_whose_server_stays_away_says_not_to_import_again(
    run: Any, server: Any, samples: Any, tmp_path: Path, measured_with: list[Any], no_pauses: list[float]
) -> None:
    server.routes(
        GET_v1_info=INFO,
        POST_v1_adapters_user_ann_versions=samples.publication("stored"),
        GET_v1_publications_p1=httpx.Response(503, text="no server"),
    )
    told = run("adapters", "import", str(tmp_path), "--user", "ann", "--max-absence-s", "0")
    assert told.exit_code == 1
    assert "goes on with publication p1: do not import again; `mindprint adapters list` shows" in told.stderr


def test_import_that_is_refused_says_why_and_nothing_of_waiting(
    run: Any, server: Any, samples: Any, tmp_path: Path, measured_with: list[Any]
) -> None:
    refused = samples.publication("refused", code="parity_failed", message="it was so")
    server.routes(GET_v1_info=INFO, POST_v1_adapters_user_ann_versions=refused)
    told = run("adapters", "import", str(tmp_path), "--user", "ann")
    assert told.stderr.endswith("error: it was so (422 parity_failed)\n")


@pytest.mark.parametrize("words", [(), ("--user", "ann", "--cohort", "tea")])
def test_import_for_nobody_or_for_two_is_refused_in_one_line(run: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    told = run("adapters", "import", str(tmp_path), *words)
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
    assert "either --user or --cohort" in told.stderr


def test_import_without_the_trainer_says_what_to_install(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mindprint_trainer.peft_import", None)
    told = run("adapters", "import", str(tmp_path), "--user", "ann")
    assert (told.exit_code, told.stderr.count("\n")) == (1, 1)
    assert "the import needs" in told.stderr
    assert "mindprint[trainer,cpu]" in told.stderr


def test_why_of_an_imported_version_says_that_its_data_are_not_known(run: Any, server: Any, samples: Any) -> None:
    server.routes(GET_v1_adapters_user_ann_versions_7_lineage=lineage(samples, traces=[], imported=True))
    assert "does not know what it learned from" in run("adapters", "why", "user/ann@7").stdout


def test_losses_of_one_epoch_are_said_once() -> None:
    losses = {"slow_answer_first": 2.0, "fast_answer_first": 1.5, "slow_answer_last": 1.0, "fast_answer_last": 1.5}
    assert losses_text(losses) == "slow_answer 2 to 1, fast_answer 1.5"
