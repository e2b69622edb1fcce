"""`serve` and `train` from flags to settings; the demo commands from flags to options. Nothing is started."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mindprint_demo.options import DemoOptions


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The settings that a process was started with; it ends with code 3."""
    found: list[Any] = []

    def start(settings: Any) -> int:
        found.append(settings)
        return 3

    for name in ("mindprint_server.process", "mindprint_trainer.process"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(run=start))
    monkeypatch.setattr("mindprint_server.operation.preflight.check_start", lambda settings: None)
    monkeypatch.chdir(tmp_path)
    return found


def test_serve_passes_its_flags_on(run: Any, started: list[Any]) -> None:
    flags = ("--port", "0", "--model", "m", "--data-dir", "d")
    result = run("serve", *flags, "--set", 'thinking_prefixes={"personal": ""}',
                 "--set", "max-loras=4", "--set", "database_url=null")  # fmt: skip
    assert result.exit_code == 3, "the exit code is the process's own"
    settings = started[0]
    assert (settings.port, settings.model, settings.data_dir) == (0, "m", Path("d"))
    assert (settings.thinking_prefixes, settings.max_loras, settings.database_url) == ({"personal": ""}, 4, None)


def test_flags_win_over_the_file(run: Any, started: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text('port = 9000\nmodel = "of the file"\n')
    run("serve", "--config", str(file), "--port", "9001")
    assert (started[0].port, started[0].model) == (9001, "of the file")


def test_engine_args_of_flags_go_before_those_of_the_file(run: Any, started: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text('port = 9000\n[engine_args]\nkv_cache_dtype = "auto"\ntensor_parallel_size = 2\n')
    run("serve", "--config", str(file), "--engine-arg", "kv-cache-dtype=fp8", "--engine-arg", "hf_x=a=b")
    assert started[0].engine_args == {"kv_cache_dtype": "fp8", "tensor_parallel_size": 2, "hf_x": "a=b"}


def test_a_printed_configuration_can_be_read_again(run: Any, started: list[Any], tmp_path: Path) -> None:
    flags = (
        "--model",
        'a "b"\\c',
        "--set",
        "database_url=postgresql+asyncpg://me:secret@h/d",
        "--set",
        "thinking_prefixes={}",
        "--engine-arg",
        'compilation_config={"mode": 3}',
    )
    printed = run("serve", "--print-config", *flags).stdout
    assert "secret" not in printed
    assert tomllib.loads(printed)["model"] == 'a "b"\\c'
    file = tmp_path / "printed.toml"
    file.write_text(printed)
    assert run("serve", "--print-config", "--config", str(file)).stdout.splitlines() == [
        "# database_url is not set" if line.startswith("# database_url") else line for line in printed.splitlines()
    ]
    assert not started


def test_train_passes_its_flags_on(run: Any, started: list[Any]) -> None:
    result = run(
        "train", "--once", "--adapter", "user/ann", "--url", "http://h:1", "--rank", "4", "--set", "poll_s=0.5"
    )
    assert result.exit_code == 3
    settings = started[0]
    assert (settings.once, settings.adapter, settings.server) == (True, ("user/ann",), "http://h:1")
    assert (settings.rank, settings.poll_s) == (4, 0.5)
    assert "learning_rate = " in run("train", "--print-config").stdout


@pytest.mark.parametrize("wanted", [True, False])
def test_a_dry_run_is_the_trainers_own_setting(
    run: Any, started: list[Any], monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    from mindprint_trainer.settings import Settings

    class WithDryRun(Settings):
        dry_run: bool = False

    monkeypatch.setitem(sys.modules, "mindprint_trainer.settings", SimpleNamespace(Settings=WithDryRun))
    run("train", "--adapter", "user/ann", *(["--dry-run"] if wanted else []))
    assert (started[0].adapter, started[0].dry_run) == (("user/ann",), wanted)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("serve", "--port", "99999"), "setting port: Input should be less than or equal to 65535"),
        (("serve", "--set", "prot=1"), "setting prot: there is no such setting (`mindprint serve --print-config`"),
        (("serve", "--engine-arg", "seed"), "--engine-arg 'seed' is no NAME=VALUE"),
        (("serve", "--engine-arg", "a-b=1", "--engine-arg", "a_b=2"), "--engine-arg a_b is there twice: keep one"),
        (("serve", "--engine-arg", "max-loras=4"), "max_loras is decided by Mindprint: set `max_loras`"),
        (("serve", "--set", "port"), "--set 'port' is no NAME=VALUE"),
        (("serve", "--set", "thinking_prefixes={"), "holds wrong JSON"),
        (("serve", "--config", "nowhere.toml"), "file 'nowhere.toml' does not exist"),
        (("train", "--adapter", "ann"), "setting adapter.0: String should match pattern"),
    ],
)
def test_wrong_settings(run: Any, started: list[Any], words: tuple[str, ...], line: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert line in result.stderr
    assert not started


def test_wrong_settings_outside_the_flags(
    run: Any, started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mindprint.toml").write_text("port = = 1")
    assert "mindprint.toml is no TOML" in run("serve").stderr
    (tmp_path / "mindprint.toml").unlink()
    monkeypatch.setenv("MINDPRINT_THINKING_PREFIXES", "{")
    assert "the environment holds a wrong setting" in run("serve").stderr


@pytest.mark.parametrize(
    ("command", "module", "what"),
    [("serve", "fastapi", "mindprint[server,cpu]"), ("train", "torch", "mindprint[trainer,cpu]")],
)
@pytest.mark.parametrize("where", ["settings", "process"])
def test_a_part_that_is_not_installed(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, module: str, what: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    import_module = importlib.import_module

    def missing(name: str) -> Any:
        if name.endswith(where):
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return import_module(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    result = run(command)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"needs {module}, which is not installed: run `pip install '{what}'`" in result.stderr
    assert "make setup" in result.stderr


def test_demo_passes_its_flags_on(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[DemoOptions] = []

    def demo(options: DemoOptions) -> int:
        found.append(options)
        return 1

    monkeypatch.setitem(sys.modules, "mindprint_demo.run", SimpleNamespace(run_demo=demo))
    assert run("demo").exit_code == 1
    assert found[-1] == DemoOptions()
    run("demo", "--data", str(tmp_path), "-u", "ann", "--users", "2", "--no-thinking", "--json", "r.json")
    assert found[-1] == DemoOptions(data=tmp_path, ids=("ann",), users=2, thinking=False, json_file=Path("r.json"))
    run("demo", "--collapse")
    assert found[-1] == DemoOptions(collapse=True)
    assert "does not exist" in run("demo", "--data", str(tmp_path / "nowhere")).stderr


def test_demo_data(run: Any, tmp_path: Path) -> None:
    result = run("demo-data", str(tmp_path / "d"), "--users", "2", "--engagements", "3", "--held-out", "1")
    assert result.stdout.startswith("2 users with 3 engagements and 1 later questions each")
    assert len((tmp_path / "d" / "eval.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("code", [0, 1])
def test_doctor_reports_by_its_exit_code(run: Any, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("mindprint.doctor.report", lambda: code)
    assert run("doctor").exit_code == code
