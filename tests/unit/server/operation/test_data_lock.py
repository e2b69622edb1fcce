"""One server for one data folder, also after a crash, and beside commands that open the database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindprint_server.engine.fake import FakeEngine
from mindprint_server.operation.data_lock import DataLock, FolderInUse
from mindprint_server.settings import Settings
from mindprint_server.store import Store
from mindprint_server.wiring import close_services, open_services

HOLD = """
import sys
from pathlib import Path
from mindprint_server.operation.data_lock import DataLock
lock = DataLock(Path(sys.argv[1]), "it")
print("held", flush=True)
sys.stdin.read()
"""


def test_lock_is_held_once_until_its_release(tmp_path: Path) -> None:
    first = DataLock(tmp_path / "lock", "the folder")
    with pytest.raises(FolderInUse, match=r"^another server uses the folder: stop it, or set another [^\n]*$"):
        DataLock(tmp_path / "lock", "the folder")
    first.release()
    first.release()
    DataLock(tmp_path / "lock", "the folder").release()


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse):
            DataLock(tmp_path / "lock", "it")
        other.kill()
    DataLock(tmp_path / "lock", "it").release()


def test_child_that_outlives_its_server_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = DataLock(tmp_path / "lock", "it")
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        lock.release()
        DataLock(tmp_path / "lock", "it").release()
    finally:
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        for handle in (*ready, *go):
            os.close(handle)


async def test_second_server_on_a_data_folder_does_not_start(settings: Settings, base_folder: Path) -> None:
    services = await open_services(settings, engine=FakeEngine(model_path=base_folder))
    with pytest.raises(FolderInUse, match="another server uses the data folder"):
        await open_services(settings, engine=FakeEngine(model_path=base_folder))
    beside = await Store.open(settings.url)  # as `mindprint keys create` does
    await beside.ping()
    await beside.close()
    await close_services(services)
    await close_services(await open_services(settings, engine=FakeEngine(model_path=base_folder)))


async def test_second_server_on_a_sqlite_file_elsewhere_does_not_start(
    settings: Settings, base_folder: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first, second = (
        Settings(engine="fake", model=str(base_folder), data_dir=tmp_path / name, database_url=url, gate=False)
        for name in ("one", "two")
    )
    services = await open_services(first, engine=FakeEngine(model_path=base_folder))
    with pytest.raises(FolderInUse, match=r"another server uses the database .*shared\.db"):
        await open_services(second, engine=FakeEngine(model_path=base_folder))
    await close_services(services)
    await close_services(await open_services(second, engine=FakeEngine(model_path=base_folder)))
