"""GuideLLM's `run`, one request at a time."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from surface import PERSONAL, Target, run, same, script

PACKAGES = ("guidellm", "transformers")
REQUESTS = 4


class Client:
    """The command, with made prompts of 16 tokens."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def close(self) -> None:
        """Close nothing: each command ends by itself."""

    def _bench(self, route: str, *, output_tokens: int = 8, **backend: Any) -> None:
        target, folder = self._target.url.removesuffix("/v1"), tempfile.mkdtemp(dir=self._target.folder)
        asked = {"kind": "openai_http", "target": target, "model": "base", "request_format": f"/v1/{route}"} | backend
        data = {"kind": "synthetic_text", "prompt_tokens": 16, "output_tokens": output_tokens}
        report = Path(folder) / "report.json"
        run(
            script("guidellm"), "run", "--backend", json.dumps(asked), "--data", json.dumps(data),
            "--tokenizer", json.dumps({"kind": "huggingface_auto", "model": self._target.tokenizer}),
            "--profile", json.dumps({"kind": "synchronous"}),
            "--constraint", json.dumps({"kind": "max_requests", "count": REQUESTS}),
            "--output", json.dumps({"kind": "json", "path": str(report)}), "--disable-console",
            HF_HOME=folder,
        )  # fmt: skip
        [bench] = json.loads(report.read_text())["benchmarks"]
        totals = bench["metrics"]["request_totals"]
        same((totals["successful"], totals["errored"]), (REQUESTS, 0))

    def bench_chat(self) -> None:
        self._bench("chat/completions")

    def bench_completions(self) -> None:
        self._bench("completions")

    def responses_stream(self) -> None:
        self._bench("responses")

    def personal(self) -> None:
        self._bench("chat/completions", output_tokens=40, model="user/ann", extras={"body": PERSONAL})
