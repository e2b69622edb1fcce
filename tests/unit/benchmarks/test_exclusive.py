"""Benchmarks beside each other: each says that it is ready, and only one measures at a time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_gpu_suite
from lora_mix import make_adapters
from support import dummy_model, environment
from support.exclusive import LOCK, READY, TURNS, exclusive_turn


async def test_a_turn_waits_for_the_one_who_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TURNS, str(tmp_path))
    measured = asyncio.Event()

    async def measure() -> None:
        async with exclusive_turn():
            measured.set()

    with run_gpu_suite.measuring(tmp_path):
        waiting = asyncio.create_task(measure())
        ready = tmp_path / f"{os.getpid()}{READY}"
        await asyncio.sleep(0.1)
        assert ready.exists()
        assert not measured.is_set()
    await asyncio.wait_for(waiting, 10)
    assert measured.is_set()
    with (tmp_path / LOCK).open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it has let go


async def test_alone_nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TURNS, raising=False)
    async with exclusive_turn():
        pass


SCRIPT = """
import asyncio, json, os, sys
from support.exclusive import exclusive_turn
async def main():
    async with exclusive_turn():
        begun = {begun!r}
        open(begun, "a").write(sys.argv[1] + " in\\n")
        await asyncio.sleep(0.1)
        open(begun, "a").write(sys.argv[1] + " out\\n")
    if sys.argv[1] == "bad":
        sys.exit("nothing came of it")
    bar = dict(name="speed", value=2.0, holds=True)
    open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps({{"bars": [bar], "set": os.environ["FOR_IT"]}}))
asyncio.run(main())
"""


def test_wave_measures_one_after_the_other_and_reports_how_each_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, folder = tmp_path / "begun", Path(run_gpu_suite.__file__).parent
    (tmp_path / "stand.py").write_text(SCRIPT.format(begun=str(begun)))
    monkeypatch.setattr(run_gpu_suite, "__file__", str(tmp_path / "run_gpu_suite.py"))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    scripts = [run_gpu_suite.Script(f"stand-{word}", [word], {"FOR_IT": word}) for word in ("one", "two", "bad")]
    out = tmp_path / "out"
    out.mkdir()
    run_gpu_suite.run(scripts, out, "card", deadline=time.monotonic() + 60, more=[])
    lines = begun.read_text().split("\n")[:-1]
    assert sorted(lines[::2]) == ["bad in", "one in", "two in"]
    assert all(a.split()[0] == b.split()[0] for a, b in zip(lines[::2], lines[1::2], strict=True))
    assert json.loads((out / "stand-one-card-1.json").read_text())["set"] == "one"
    told = capsys.readouterr().out
    assert told.count("speed: 2, holds") == 2
    assert "nothing came of it" in told


def test_what_runs_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(run_gpu_suite, "__file__", str(tmp_path / "run_gpu_suite.py"))
    run_gpu_suite.run([run_gpu_suite.Script("slow", [])], tmp_path, "card", deadline=time.monotonic() + 1, more=[])


def test_every_script_of_a_wave_takes_its_options(tmp_path: Path) -> None:
    folder = Path(run_gpu_suite.__file__).parent
    for script in [one for wave in run_gpu_suite.waves(tmp_path).values() for one in wave]:
        path = folder / f"{script.name.partition('-')[0]}.py"
        done = subprocess.run(
            [sys.executable, str(path), *script.words, "--help"],
            capture_output=True, text=True, timeout=60, env={"COLUMNS": "200", "NO_COLOR": "1"},
        )  # fmt: skip
        assert done.returncode == 0, (script.name, done.stderr)


def test_a_command_names_the_settings_of_its_environment() -> None:
    variables = {"MINDPRINT_KV_CACHE_GIB": "4", TURNS: "/tmp/x", "MINDPRINT_DATA": "/tmp/y", "HOME": "/home/x"}
    told = environment.command(["/far/away/yield.py", "--quick"], variables)
    assert told == "MINDPRINT_KV_CACHE_GIB=4 python benchmarks/yield.py --quick"


def test_a_shape_has_a_configuration_and_a_tokenizer_and_adapters_fit_it(tmp_path: Path) -> None:
    from safetensors import safe_open
    from transformers import AutoConfig, AutoTokenizer

    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    dummy_model.make_dummy_model(tmp_path / "shape", {**dummy_model.LLAMA_8B, **small, "num_key_value_heads": 2})
    config = AutoConfig.from_pretrained(tmp_path / "shape")
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (64, 128_256, 2)
    assert AutoTokenizer.from_pretrained(tmp_path / "shape").encode("a lake")
    one, two = make_adapters(str(tmp_path / "shape"), tmp_path / "made", 2)
    tensors = []
    for adapter in (one, two):
        with safe_open(adapter.path / "adapter_model.safetensors", "pt") as file:
            tensors.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    assert tensors[0][name].shape == (8, 128)
    assert len(tensors[0]) == 2 * 7 * 2
    assert not tensors[0][name].equal(tensors[1][name])


STOPPED = """
import json, signal, sys, time
def told(*_):
    bar = dict(name="speed", value=2.0, holds=True)
    open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps({"bars": [bar]}))
    sys.exit(1)
signal.signal(signal.SIGTERM, told if sys.argv[1] == "writes" else signal.SIG_IGN)
open(sys.argv[0] + "-" + sys.argv[1], "w").close()
time.sleep(60)
"""


def test_what_runs_at_the_deadline_may_write_and_is_killed_if_it_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stand.py").write_text(STOPPED)
    monkeypatch.setattr(run_gpu_suite, "__file__", str(tmp_path / "run_gpu_suite.py"))
    monkeypatch.setattr(run_gpu_suite, "GRACE_S", 0.5)
    for word, code in (("writes", 1), ("stays", -signal.SIGKILL)):
        process = run_gpu_suite.start(run_gpu_suite.Script(f"stand-{word}", [word]), tmp_path, "card", tmp_path, [])
        while not (tmp_path / f"stand.py-{word}").exists():
            time.sleep(0.02)
        run_gpu_suite.end_process(process)
        assert process.returncode == code
        assert (tmp_path / f"stand-{word}-card-1.json").exists() == (word == "writes")
