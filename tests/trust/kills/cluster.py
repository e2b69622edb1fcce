"""The processes of a run: replicas of the server on one database, and stand-in trainers."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import MappingProxyType

import httpx

from kills import processes
from mindprint.local.processes import free_port
from samples import write_tensors
from weights import BASE

POLL_S = 0.02
START_WITHIN_S = 120.0
"""Seconds after which a process that is not there counts as failed. It bounds a test that would hang."""
SETTINGS = {
    "ENGINE": "fake",
    "LOG_LEVEL": "warning",
    # Most traces are accepted, and nothing is written besides them.
    "MIN_GAIN": "null",
    "MIN_ANCHOR": "null",
    "ANCHOR_POOL": "0",
    "EARLY_STOP_MARGIN_NATS": "null",
    "EARLY_STOP_SCORE_MARGIN": "null",
    "MIN_ANSWER_FREQUENCY": "0",
    "PREFILTER_BY_PRIOR": "false",
    "MIN_THINKING_WORDS": "0",
    "PROFILE_EVERY": "1000000",
    "REPLAY_SHARE": "0",
    "HOLDOUT_SHARE": "0",
    # Trainers die often. Their traces must not become dead letters.
    "MAX_ATTEMPTS": "100000",
    "LEASE_GRACE_S": "0",
    # A killed server's publications go on soon, and kills are no reason to give one up.
    "PUBLICATION_CLAIM_TTL_S": "1",
    "PUBLICATION_POLL_S": "0.1",
    "MAX_PUBLICATION_TRIES": "100000",
    "COHORT_MIN_TRACES": "24",
    # A stand-in trainer has no model: see `processes.parity_items`.
    "PARITY_TOLERANCE_NATS": "1000",
    "PARITY_TOLERANCE_SHARE": "1",
    "GATE": "false",
    "KEEP_VERSIONS": "3",
}
"""Settings of the servers, by variable name without `MINDPRINT_`."""


class ProcessFailed(Exception):
    """A process did not start or ended by itself."""


@dataclass
class Member:
    """One place for a process; it is started there again after each kill."""

    name: str
    is_server: bool
    process: ForkServerProcess | None = None
    starts: int = 0


class Cluster:
    """Starts, kills and restarts the processes.

    Attributes:
        folder: Holds logs, journals of trainers, and the data of the servers.
        key: An API key with the scope `admin`.
        urls: Addresses of the replicas.
        members: Servers, then trainers.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        replicas: int,
        trainers: int,
        seed: int,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start nothing yet.

        Args:
            folder: An existing folder.
            database_url: The database that all replicas share.
            replicas: Number of servers.
            trainers: Number of stand-in trainers.
            seed: Seed of the trainers.
            variables: Further variables of the servers.
        """
        self._more = variables
        self.folder = folder
        self.key = secrets.token_hex(20)
        self._ports = [free_port() for _ in range(replicas)]
        self.urls = [f"http://127.0.0.1:{port}" for port in self._ports]
        self.members = [Member(f"server-{n}", True) for n in range(replicas)]
        self.members += [Member(f"trainer-{n}", False) for n in range(trainers)]
        self._database_url = database_url
        self._seed = seed
        self._model = self._make_model()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(processes.PRELOADED)

    @property
    def servers(self) -> list[Member]:
        """Return the members that are servers."""
        return [member for member in self.members if member.is_server]

    @property
    def trainers(self) -> list[Member]:
        """Return the members that are trainers."""
        return [member for member in self.members if not member.is_server]

    def data_dir(self, server: Member) -> Path:
        """Return the data folder of a replica."""
        return self.folder / server.name

    @property
    def artifacts(self) -> Path:
        """Return the artifact store that the replicas share."""
        return self.folder / "artifacts"

    def journal(self, trainer: Member) -> Path:
        """Return the file in which a trainer notes what it was answered."""
        return self.folder / f"{trainer.name}.jsonl"

    def start(self, member: Member) -> None:
        """Start the process of a member."""
        index = self.members.index(member)
        if member.is_server:
            target, arguments = processes.run_server, (self._variables(index), self.folder / f"{member.name}.log")
        else:
            seed = self._seed * 10_000 + 100 * index + member.starts
            target, arguments = processes.run_trainer, (self.urls, self.key, self.journal(member), seed)  # type: ignore
        member.process = self._context.Process(target=target, args=arguments, daemon=True)
        member.process.start()
        member.starts += 1

    def kill(self, member: Member) -> None:
        """Kill a process as `kill -9` does, and wait until it is gone."""
        assert member.process is not None
        if not member.process.is_alive():
            raise ProcessFailed(f"{member.name} ended by itself with {member.process.exitcode}: see {self.folder}")
        member.process.kill()
        member.process.join()

    async def stop(self, member: Member) -> None:
        """Ask a process to stop, and kill it if it does not."""
        assert member.process is not None
        member.process.terminate()
        await asyncio.to_thread(member.process.join, START_WITHIN_S)
        if member.process.is_alive():
            for one in self.members:
                if one.process is not None and one.process.pid is not None and one.process.is_alive():
                    os.kill(one.process.pid, signal.SIGUSR1)
            await asyncio.sleep(1)
            self.kill(member)
            raise ProcessFailed(f"{member.name} did not stop within {START_WITHIN_S:.0f} s")

    async def wait_until_ready(self, server: Member) -> float:
        """Wait until a server is ready, and return the seconds that it took."""
        began = time.monotonic()
        url, said = self.urls[self.servers.index(server)], "nothing"
        async with httpx.AsyncClient(trust_env=False, timeout=START_WITHIN_S) as client:
            while time.monotonic() - began < START_WITHIN_S:
                assert server.process is not None
                if not server.process.is_alive():
                    break
                try:
                    response = await client.get(f"{url}/readyz")
                    if response.is_success:
                        return time.monotonic() - began
                    said = response.text
                except httpx.TransportError as error:
                    said = repr(error)
                await asyncio.sleep(POLL_S)
        raise ProcessFailed(f"{server.name} is not ready and said {said}: {self._tail(server)}")

    def close(self) -> None:
        """Kill what still runs."""
        for member in self.members:
            if member.process is not None and member.process.is_alive():
                member.process.kill()
                member.process.join()

    def age_files(self, seconds: float) -> None:
        """Make all files of the servers older, so that no check waits until a grace time has passed."""
        for folder in (self.artifacts, *(self.data_dir(server) for server in self.servers)):
            for path in folder.rglob("*"):
                if not path.name.startswith("mindprint.db"):
                    time_of = path.stat().st_mtime - seconds
                    os.utime(path, (time_of, time_of))

    def _variables(self, index: int) -> Mapping[str, str]:
        own = {
            "HOST": "127.0.0.1",
            "PORT": str(self._ports[index]),
            "DATA_DIR": str(self.data_dir(self.servers[index])),
            "DATABASE_URL": self._database_url,
            "ARTIFACT_URL": str(self.artifacts),
            "MODEL": str(self._model),
            "ADMIN_KEY": self.key,
        }
        return {f"MINDPRINT_{name}": value for name, value in (SETTINGS | own).items()} | dict(self._more)

    def _make_model(self) -> Path:
        folder = self.folder / "model"
        folder.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (folder / name).write_text("{}")
        write_tensors(folder / "model.safetensors", BASE)
        return folder

    def _tail(self, member: Member) -> str:
        log = self.folder / f"{member.name}.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "it wrote no log"
