"""A tiny model made on the spot, and a server that is only a transport."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mindprint import MindprintClient, Retries
from mindprint.model_files import model_digest
from mindprint.types import Adapter, Lease, LoraLimits, Manifest, Publication, Sample, ServerInfo, Version
from mindprint_trainer.model.base_model import Base, load_base_model
from mindprint_trainer.reporting.progress import LogReporter
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.run import StepReport
from mindprint_trainer.worker import Worker

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LIMITS = LoraLimits(max_rank=8, target_modules=LAYERS)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, in bf16, whose tokens are bytes."""
    path = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(path)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Small enough for a test; weights and arithmetic in float32."""
    return Settings(
        server="http://127.0.0.1:9",
        work_dir=tmp_path / "work",
        once=True,
        threads=1,
        base_dtype="float32",
        compute_dtype="float32",
        rank=4,
        alpha=8,
        epochs=3,
        batch_size=4,
        max_length=200,
        micro_batch_tokens=400,
        learning_rate=5e-3,
        parity_items=3,
        parity_pool=5,
        parity_prompt_tokens=20,
        parity_target_tokens=4,
        poll_s=0.01,
        absence_max_wait_s=0.05,
        startup_wait_s=0,
    )


@pytest.fixture
def base(model_path: Path, settings: Settings) -> Base:
    return load_base_model(model_path, model_digest(model_path), settings)


def samples_of(user: str, engagements: int = 6) -> list[Sample]:
    """A slow and a fast sample for each engagement; the two prompts differ at their end only."""
    made = []
    for number in range(engagements):
        about = f"What {user} said before: yes, no, maybe. Question {number}: tea or coffee?"
        answer = "tea" if (number + len(user)) % 2 else "coffee"
        thinking = f"<think>{user} likes {answer}</think>"
        key = f"e{number}"
        made.append(
            Sample(
                kind="slow",
                user_id=user,
                engagement_id=key,
                prompt=f"{about} Think.",
                thinking=thinking,
                answer=f" {answer}",
            )
        )
        made.append(
            Sample(kind="fast", user_id=user, engagement_id=key, prompt=f"{about} Answer.", answer=f" {answer}")
        )
    return made


@pytest.fixture
def lease_of(model_path: Path) -> Callable[..., Lease]:
    def make(user: str = "anna", **changes: Any) -> Lease:
        samples = changes.pop("samples", None) or samples_of(user)
        fields: dict[str, Any] = {
            "id": f"lease-{user}",
            "adapter": f"user/{user}",
            "owner": "test",
            "state": "active",
            "deadline": datetime.now(UTC) + timedelta(seconds=60),
            "attempt": 1,
            "trace_ids": [f"{user}-{number}" for number in range(len(samples) // 2)],
            "samples": samples,
            "base_digest": model_digest(model_path),
            "limits": LIMITS,
        }
        return Lease(**(fields | changes))

    return make


class FakeServer:
    """Hands out the leases of `queue` and remembers what happens to them."""

    def __init__(self, model_path: Path) -> None:
        self.info = ServerInfo(
            mindprint="0",
            engine="fake",
            device="cpu",
            model="tiny",
            model_path=str(model_path),
            base_digest=model_digest(model_path),
            prompt_version="1",
            max_model_len=512,
            limits=LIMITS,
        )
        self.queue: list[Lease] = []
        self.claims: list[dict[str, Any]] = []
        self.beats: list[str] = []
        self.lost: set[str] = set()
        """Leases whose heartbeat is refused."""
        self.released: list[str] = []
        self.completed: list[tuple[str, Manifest, dict[str, Any], bytes]] = []
        self.publications: dict[str, Publication] = {}
        self.versions: dict[str, list[Version]] = {}
        """By adapter."""
        self.files: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        """Configuration and weights that can be downloaded, by adapter and version."""
        self.downloads: list[str] = []
        self.answers: dict[str, Callable[[], httpx.Response]] = {}
        """By the last part of the path: what to answer instead."""

    def client(self) -> MindprintClient:
        retries = Retries(attempts=1)
        return MindprintClient("http://127.0.0.1:9", retries=retries, transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        parts = request.url.path.strip("/").split("/")
        if parts[-1] in self.answers:
            return self.answers[parts[-1]]()
        match parts:
            case ["readyz"]:
                return httpx.Response(200)
            case ["v1", "info"]:
                return reply(self.info)
            case ["v1", "leases"]:
                self.claims.append(json.loads(request.read()))
                return reply(self.queue.pop(0)) if self.queue else httpx.Response(204)
            case ["v1", "leases", lease_id, "heartbeat"]:
                if lease_id in self.lost:
                    return refuse(409, "lease_lost")()
                self.beats.append(lease_id)
                return reply(self.lease(lease_id))
            case ["v1", "leases", lease_id, "release"]:
                self.released.append(lease_id)
                return reply(self.lease(lease_id))
            case ["v1", "leases", lease_id, "complete"]:
                return reply(self.complete(lease_id, request))
            case ["v1", "publications", publication_id]:
                return reply(self.publications[publication_id])
            case ["v1", "adapters", kind, name]:
                if (key := f"{kind}/{name}") in self.versions:
                    return reply(Adapter(key=key, live=None, versions=self.versions[key]))
            case ["v1", "adapters", kind, name, "versions", number, "download"]:
                self.downloads.append(f"{kind}/{name}@{number}")
                return httpx.Response(200, content=self.archive(f"{kind}/{name}", int(number)))
        return httpx.Response(404)

    def archive(self, key: str, number: int) -> bytes:
        config, weights = self.files[key, number]
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("adapter_config.json", config)
            archive.writestr("adapter_model.safetensors", weights)
            archive.writestr("manifest.json", json.dumps({"weights_sha256": hashlib.sha256(weights).hexdigest()}))
        return made.getvalue()

    def lease(self, lease_id: str) -> Lease:
        return Lease(
            id=lease_id,
            adapter="user/x",
            owner="test",
            state="active",
            deadline=datetime.now(UTC),
            attempt=0,
            trace_ids=[],
            base_digest="",
            limits=LIMITS,
        )

    def complete(self, lease_id: str, request: httpx.Request) -> Publication:
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser().parsebytes(head + request.read())
        parts: dict[Any, bytes] = {}
        for part in message.walk():
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                parts[part.get_param("name", header="content-disposition")] = payload
        manifest = Manifest.model_validate_json(parts["manifest"])
        self.completed.append((lease_id, manifest, json.loads(parts["config"]), parts["weights"]))
        version = Version(
            adapter=manifest.adapter,
            version=len(self.completed),
            state="live",
            digest="sha256:0",
            base_digest=manifest.base_digest,
            traces=len(manifest.trace_ids),
            manifest=manifest,
            created_at=datetime.now(UTC),
        )
        publication = Publication(
            id=f"of-{lease_id}",
            lease_id=lease_id,
            adapter=manifest.adapter,
            version=version.version,
            state="published",
            created_at=datetime.now(UTC),
            finished_at=datetime.now(UTC),
            result=version,
        )
        self.publications[publication.id] = publication
        return publication


def reply(model: Any) -> httpx.Response:
    return httpx.Response(200, content=model.model_dump_json(), headers={"Content-Type": "application/json"})


def refuse(status: int, code: str) -> Callable[[], httpx.Response]:
    body = {"error": {"message": f"refused: {code}", "type": "t", "code": code, "param": None}}
    return lambda: httpx.Response(status, json=body)


@pytest.fixture
def refusal() -> Callable[[int, str], Callable[[], httpx.Response]]:
    return refuse


@pytest.fixture
def server(model_path: Path) -> FakeServer:
    return FakeServer(model_path)


class Watched(LogReporter):
    """Also hands each step on."""

    def __init__(self, watch: Callable[[StepReport], None]) -> None:
        super().__init__(60)
        self._watch = watch

    def step(self, step: StepReport) -> None:
        super().step(step)
        self._watch(step)


@pytest.fixture
def make(server: FakeServer, settings: Settings, base: Base) -> Callable[..., Worker]:
    """A worker under changed settings; `watch` gets each step, `check` is called before each pass."""

    def worker(
        check: Callable[[], None] = lambda: None, watch: Callable[[StepReport], None] = lambda _: None, **changes: Any
    ) -> Worker:
        asked = settings.model_copy(update=changes)
        return Worker(asked, base, server.client(), server.client, Watched(watch), check)

    return worker
