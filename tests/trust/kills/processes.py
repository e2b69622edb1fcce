"""What runs in the killed processes: a server on the fake engine, and a stand-in for a trainer.

The processes are forked from one that has done the imports (`multiprocessing`'s forkserver). So a restart takes a
fraction of a second, and hundreds of kills fit into a test.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import math
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import httpx

from kills.answers import is_undone, is_unknown
from weights import adapter_config, data_of, weights_file

PRELOADED = ["mindprint_server.process", "mindprint_server.engine.fake", "aiosqlite", "asyncpg", "httpx"]
"""Modules that the forkserver imports."""
ENGINE_DELAY_S = 0.005
"""Seconds that a request of the fake engine takes, so that kills find work in progress."""
DELAY = "KILLS_ENGINE_DELAY_S"
"""Variable with another delay."""
LOGPROB = -20.0
"""The stand-in trainer's log-probability of each target token: see `parity_items`."""
LEASE_S = 5.0
"""Seconds that a lease holds without a heartbeat."""


def run_server(variables: Mapping[str, str], log: Path) -> None:
    """Run a server with these settings until it is killed or stopped."""
    _begin(log)
    os.environ.update(variables)
    from mindprint_server import process
    from mindprint_server.engine import fake
    from mindprint_server.settings import Settings

    class SlowEngine(fake.FakeEngine):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments, delay_s=float(variables.get(DELAY, ENGINE_DELAY_S)))

    fake.FakeEngine = SlowEngine  # type: ignore[misc]
    code = process.run(Settings())
    heavy = sorted({"torch", "vllm"} & set(sys.modules))
    if heavy:
        print(f"the server imported {heavy}")
    sys.stdout.flush()
    os._exit(code)


def run_trainer(urls: Sequence[str], key: str, journal: Path, seed: int) -> None:
    """Lease, pretend to train, and upload until killed or stopped. Every answer is written to `journal`."""
    _begin(journal.with_suffix(".log"))
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    StandInTrainer(urls, key, journal, random.Random(seed)).work(stopped)
    os._exit(0)


def _begin(log: Path) -> None:
    """Write to `log`, and end with the process that started this one, however that ends."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    # A process that does not stop is asked for the stacks of its threads.
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    os.chdir(log.parent)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class StandInTrainer:
    """Does all that a trainer does over HTTP, without a model."""

    def __init__(self, urls: Sequence[str], key: str, journal: Path, dice: random.Random) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._clients = [httpx.Client(base_url=url, headers=headers, timeout=300, trust_env=False) for url in urls]
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._dice = dice

    def work(self, stopped: threading.Event) -> None:
        """Work on one lease after the other."""
        while not stopped.is_set():
            wanted = {"owner": f"stand-in {os.getpid()}", "ttl_s": LEASE_S, "max_traces": self._dice.randint(4, 32)}
            response = self._send("/v1/leases", json=wanted)
            if response is None or response.status_code != 201:
                stopped.wait(0.05)
                continue
            lease = response.json()
            self._note(claimed=lease["id"], adapter=lease["adapter"], trace_ids=lease["trace_ids"])
            self._train(lease, stopped)

    def close(self) -> None:
        """Close the connections and the journal; needed only where the process goes on."""
        for client in self._clients:
            client.close()
        os.close(self._journal)

    def _train(self, lease: Mapping[str, Any], stopped: threading.Event) -> None:
        path = f"/v1/leases/{lease['id']}"
        time.sleep(0.05 * self._dice.random())
        if self._dice.random() < 0.2:
            self._send(f"{path}/heartbeat", json={"ttl_s": LEASE_S})
        if self._dice.random() < 0.1:
            self._send(f"{path}/release")
            return
        weights = weights_file(data=data_of(values=self._dice.random()))
        digest = hashlib.sha256(weights).hexdigest()
        manifest = {
            "adapter": lease["adapter"], "base_digest": lease["base_digest"], "weights_sha256": digest,
            "trace_ids": lease["trace_ids"], "samples": {"slow": len(lease["trace_ids"])}, "settings": {}, "losses": {},
            "tokens": 1, "seconds": 0.1, "trainer": "stand-in", "parity_items": parity_items(),
        }  # fmt: skip
        parts = {"manifest": (None, json.dumps(manifest)), "config": ("c", adapter_config()), "weights": ("w", weights)}
        while not stopped.is_set():
            # As the real trainer does: the same upload again until there is an answer.
            response = self._send(f"{path}/complete", files=parts)
            if response is not None and response.status_code not in (429, 503):
                break
            stopped.wait(0.05)
        else:
            return
        if response.is_success and (version := self._wait_until_published(response.json(), stopped)) is not None:
            self._note(
                published=version["version"],
                adapter=version["adapter"],
                digest=f"sha256:{digest}",
                trace_ids=lease["trace_ids"],
            )

    def _wait_until_published(self, publication: Mapping[str, Any], stopped: threading.Event) -> dict[str, Any] | None:
        """Ask until the publication has ended, and return its version; None if there is none or the trainer stops."""
        while publication["finished_at"] is None:
            if stopped.wait(0.05):
                return None
            response = self._send(f"/v1/publications/{publication['id']}", method="GET")
            if response is not None and response.is_success:
                publication = response.json()
        result: dict[str, Any] | None = publication["result"]
        return result

    def _send(self, path: str, method: str = "POST", **content: Any) -> httpx.Response | None:
        try:
            response = self._dice.choice(self._clients).request(method, path, **content)
        except httpx.TransportError:
            self._note(answer="lost")
            return None
        status = response.status_code
        code = "" if response.is_success else response.json()["error"]["code"]
        if is_unknown(response):
            self._note(answer="unknown")
        elif response.is_success or is_undone(response) or code == "lease_lost":
            self._note(answer=str(status))
        else:
            self._note(answer=str(status), unexpected=f"{method} {path}: {status} {response.text[:300]}")
        return response

    def _note(self, **entry: Any) -> None:
        # One write a line: a kill leaves a whole line or none.
        os.write(self._journal, json.dumps(entry).encode() + b"\n")


def parity_items() -> list[dict[str, Any]]:
    """Return items that the fake engine's parity check passes, whatever number the version gets.

    Token 0 is the end token in every process. The prompts are those after which the base model's log-probability is
    highest, and the trainer's value is far below: so any other value is nearer to it than the base model's.
    """
    from mindprint_server.engine.fake import FakeEngine

    engine = FakeEngine(model_path=Path())

    def base(length: int) -> float:
        text = engine.tokenizer.decode([0])
        return math.log((engine._hash([0] * length, text, None) % 997 + 1) / 1000)

    best = sorted(range(1, 400), key=base)[-4:]
    return [{"prompt_ids": [0] * n, "target_ids": [0], "logprobs": [LOGPROB], "base_logprobs": [base(n)]} for n in best]
