"""Two servers on one PostgreSQL and one artifact store serve, train, roll back and erase together."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

from databases import new_database
from mindprint import ApiError, MindprintClient
from mindprint.local.cluster import LocalCluster
from mindprint.types import BatchRequest, Engagement
from samples import engagement
from tiny import make_model
from tiny_servers import TRAINED

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
SETTINGS = TRAINED | {"BATCH_CLAIM_AHEAD": "2", "COHORT_MIN_TRACES": "1000000"}


def events(user: str, numbers: Iterable[int]) -> list[Engagement]:
    """Engagements with a word of the user's own."""
    return [engagement(n).model_copy(update={"prompt": f"zanzibar-{user}: walk {n}?"}) for n in numbers]


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


class Pair:
    """Two servers, and the keys of two teams."""

    def __init__(self, folder: Path, clusters: list[LocalCluster], database_url: str) -> None:
        self.artifacts = folder / "artifacts"
        self.admin_key = secrets.token_hex(20)
        self._clusters = clusters
        self._model = make_model(folder / "model")
        shared = {"DATABASE_URL": database_url, "ARTIFACT_URL": str(self.artifacts), "ADMIN_KEY": self.admin_key}
        self._settings = SETTINGS | shared

    async def start(self) -> None:
        await asyncio.gather(*(one.start_server(self._model, self._settings) for one in self._clusters))

    def client(self, number: int, key: str) -> MindprintClient:
        return MindprintClient(self._clusters[number].url, key)

    def start_trainer(self, number: int, key: str) -> None:
        settings = {"API_KEY": key, "MIN_TRACES": "1", "EPOCHS": "6", "LEARNING_RATE": "0.01"}
        self._clusters[number].start_trainer("trainer", settings)

    def files_with(self, text: str) -> list[Path]:
        """Files of both servers, and of the artifact store, that hold a text."""
        roots = [self.artifacts, *(cluster.folder / "server" for cluster in self._clusters)]
        paths = [path for root in roots for path in root.rglob("*") if path.is_file()]
        return [path for path in paths if text.encode() in path.read_bytes()]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with new_database("postgresql", tmp_path) as url:
        with ExitStack() as stack:
            clusters = []
            for name in ("a", "b"):
                (tmp_path / name).mkdir()
                clusters.append(stack.enter_context(LocalCluster(tmp_path / name, grace_s=0)))
            pair = Pair(tmp_path, clusters, url)
            await pair.start()
            yield pair


def test_two_replicas_serve_train_roll_back_and_erase(pair: Pair) -> None:
    with pair.client(0, pair.admin_key) as operator:
        blue, green = (operator.keys.create("all", ["admin"], tenant=name).key for name in ("blue", "green"))
    with pair.client(0, blue) as a, pair.client(1, blue) as b, pair.client(1, green) as other:
        # A batch that was submitted at A is watched at B, and each item is worked on once.
        for user in ("ann", "bob"):
            a.users.add_engagements(user, events(user, range(12)))
        other.users.add_engagements("ann", [engagement(n) for n in range(2)])
        batch = a.batches.create(BatchRequest(candidates=4))
        *_, last = b.batches.watch(batch.id)
        assert (last.state, last.items, last.done) == ("done", 24, 24)
        traces = list(b.batches.results(batch.id))
        assert len({trace.id for trace in traces}) == len(traces) == last.funnel.generated
        accepted = [trace for trace in traces if trace.verdict == "accepted"]
        assert len(accepted) > 4

        # A trainer uploads to B. A fetches the files and answers with the version.
        pair.start_trainer(1, blue)
        until(lambda: b.server.funnel().trained == len(accepted), 300)
        first = a.adapters.get("user/ann").live
        assert first is not None

        def answered(client: MindprintClient) -> str:
            return client.chat.completions.create("A walk?", model="user/ann", max_tokens=4).version

        assert answered(a) == answered(b) == f"user/ann@{first}"
        assert answered(other) == "base", "the other team's user has no adapter"

        # A second version goes live for both, and B takes it back for both.
        a.users.add_engagements("ann", events("ann", range(12, 20)))
        *_, last = a.batches.watch(b.batches.create(BatchRequest(users=["ann"], candidates=4)).id)
        assert last.funnel.accepted > 0
        until(lambda: (a.adapters.get("user/ann").live or 0) > first, 300)
        second = a.adapters.get("user/ann").live
        assert answered(a) == answered(b) == f"user/ann@{second}"
        b.adapters.rollback("user/ann")
        assert answered(a) == answered(b) == f"user/ann@{first}"

        # A erases; B knows nothing of the user either, and the other team's user stays.
        erasure = a.users.erase("ann")
        until(lambda: b.erasures.get(erasure.id).state == "done", 120)
        receipt = b.erasures.get(erasure.id).receipt
        assert receipt is not None
        assert receipt.counts["engagements"] == 20
        assert set(receipt.removed["versions"]) >= {f"user/ann@{first}", f"user/ann@{second}"}
        for client in (a, b):
            with pytest.raises(ApiError, match="ann"):
                client.users.get("ann")
            with pytest.raises(ApiError):
                client.adapters.get("user/ann")
        assert not [digest for digest in receipt.removed["artifacts"] if (pair.artifacts / digest).exists()]
        assert pair.files_with("zanzibar-ann") == []
        assert other.users.get("ann").engagements == 2
        assert a.adapters.get("user/bob").live is not None
