from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindprint.exceptions import MindprintError
from mindprint.local.process_guard import MARK, marked, of_sessions, sweep
from mindprint.local.processes import Child, Processes, ProcessFailed, free_port, while_running

FAMILY = """
import os, signal, subprocess, sys, time
deaf, apart = sys.argv[1] == "deaf", sys.argv[2] == "apart"
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=apart)
print(child.pid, flush=True)
time.sleep(600)
"""
"""A process with a child, as a server with its engine; the child may be in a session of its own."""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m family` is such a process."""
    (tmp_path / "family.py").write_text(FAMILY)
    (tmp_path / "say.py").write_text("import sys\nprint(sys.argv[1])\nsys.exit(int(sys.argv[2]))\n")
    (tmp_path / "env.py").write_text("import os, sys\nprint(os.environ.get(sys.argv[1]))\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def alive(pid: int) -> bool:
    """Zombies are not: nobody may have waited for an orphan yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def eventually_gone(*pids: int) -> bool:
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, pids))


def grandchild(child: Child) -> int:
    deadline = time.monotonic() + 10
    while not child.tail(1) and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(child.tail(1)[0])


@pytest.mark.parametrize("hearing", ["deaf", "hears"])
@pytest.mark.parametrize("session", ["apart", "together"])
def test_nothing_is_left_running(tmp_path: Path, hearing: str, session: str) -> None:
    began = time.monotonic()
    with Processes(tmp_path, grace_s=0.3) as processes:
        child = processes.start("family", ["family", hearing, session], {})
        pids = child.pid, grandchild(child)
        assert all(map(alive, pids))
    assert eventually_gone(*pids)
    assert time.monotonic() - began < 10


def test_an_exception_stops_them_too(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupted() -> None:
        with Processes(tmp_path, grace_s=0.3) as processes:
            child = processes.start("family", ["family", "hears", "apart"], {})
            pids.extend([child.pid, grandchild(child)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert eventually_gone(*pids)


def test_the_signals_are_as_before_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Processes(tmp_path):
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_the_death_of_the_demo_itself_ends_them(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from mindprint.local.processes import Processes\n"
        "with Processes(Path(sys.argv[1])) as processes:\n"
        "    child = processes.start('family', ['family', 'deaf', 'apart'], {})\n"
        "    while not child.tail(1):\n"
        "        time.sleep(0.01)\n"
        "    print(child.pid, child.tail(1)[0], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert eventually_gone(*map(int, done.stdout.split()))


def test_a_kill_takes_the_whole_group(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("family", ["family", "deaf", "together"], {})
        pids = child.pid, grandchild(child)
        child.kill()
        assert not child.running()
        assert eventually_gone(*pids)


def test_ended_process_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("server", ["say", "out of memory", "3"], {})
        while child.running():
            time.sleep(0.01)
        with pytest.raises(ProcessFailed, match=r"the server ended with code 3 \(log: .*server\.log\)\nout of memory"):
            child.check()


def test_a_process_that_runs_passes_the_check(tmp_path: Path) -> None:
    with Processes(tmp_path, grace_s=0.3) as processes:
        processes.start("family", ["family", "hears", "together"], {}).check()


def test_children_get_their_environment_and_never_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with Processes(tmp_path) as processes:
        for name, value in (("MINDPRINT_PORT", "1"), ("HF_HUB_OFFLINE", "1")):
            child = processes.start(name, ["env", name], {"MINDPRINT_PORT": "1"})
            while child.running():
                time.sleep(0.01)
            assert child.tail(1) == [value]


def test_the_log_says_what_a_process_does(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    child = Child("server", subprocess.Popen([sys.executable, "-c", ""]), log)
    child.wait(time.monotonic() + 10)
    log.write_text("noise\n")
    assert child.doing() == ""
    log.write_text(
        "2026-01-01T10:00:00.5Z [\x1b[32minfo     \x1b[0m] starting   [mindprint_server.app] phase='importing vLLM'\n"
        "Loading shards:   0%|  |\rLoading shards: 100%|##|\n"
    )
    assert child.doing() == "starting phase='importing vLLM'"
    assert child.tail(1) == ["Loading shards: 100%|##|"]


def pids(mark: str) -> list[int]:
    return [process.pid for process in marked(mark)]


def test_a_sweep_takes_only_what_is_marked() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    ours = subprocess.Popen(sleep, env={**os.environ, MARK: "one"})
    other = subprocess.Popen(sleep, env={**os.environ, MARK: "another"})
    try:
        deadline = time.monotonic() + 5
        while pids("one") != [ours.pid] and time.monotonic() < deadline:
            time.sleep(0.01)
        sweep("one")
        assert ours.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_zombie_is_no_running_process_of_its_session() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    assert [found.pid for found in of_sessions({process.pid})] == [process.pid]
    process.kill()
    assert eventually_gone(process.pid)
    assert os.getsid(process.pid) == process.pid, "nobody has waited for it"
    assert of_sessions({process.pid}) == []
    process.wait()


def test_a_sweep_takes_what_lost_its_mark_but_not_its_session() -> None:
    """As vLLM's processes do, which write their title over their environment."""
    start = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], env={}); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", start],
        env={**os.environ, MARK: "two"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    assert pids("two") == [parent.pid]
    sweep("two")
    assert parent.wait(5) == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # until init has taken note
    assert not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes()


def test_a_free_port_is_free() -> None:
    assert 1024 <= free_port() <= 65535


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Child]:
    """A process that runs until it is killed."""
    (tmp_path / "server.log").write_text("the last words")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    child = Child("server", process, tmp_path / "server.log")
    yield child
    child.kill()


async def test_work_is_done_while_its_process_runs(sleeper: Child) -> None:
    assert await while_running(sleeper, asyncio.sleep(0.01, "done")) == "done"


async def test_work_ends_with_its_process(sleeper: Child) -> None:
    asyncio.get_running_loop().call_later(0.1, sleeper.kill)
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    with pytest.raises(ProcessFailed, match="the last words"):
        await while_running(sleeper, work())
    assert ended.is_set()


async def test_a_failure_of_the_work_is_its_own(sleeper: Child) -> None:
    async def work() -> None:
        raise MindprintError("refused")

    with pytest.raises(MindprintError, match="refused"):
        await while_running(sleeper, work())


def test_a_child_does_not_inherit_the_admin_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_ADMIN_KEY", "k" * 32)
    with Processes(tmp_path) as processes:
        child = processes.start("env", ["env", "MINDPRINT_ADMIN_KEY"], {})
        while child.running():
            time.sleep(0.01)
        assert child.tail(1) == ["None"]
