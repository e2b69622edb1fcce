"""EleutherAI's lm-evaluation-harness: `local-completions` and `local-chat-completions`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from surface import Target, run, said, same, script

PACKAGES = ("lm-eval", "transformers")
TASKS = Path(__file__).resolve().parent / "lm_eval_tasks"


class Client:
    """The command, on two tasks of three questions that lie beside this file."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def close(self) -> None:
        """Close nothing: each command ends by itself."""

    def _samples(self, task: str, kind: str, route: str, *words: str, **model: str) -> list[dict[str, Any]]:
        folder = tempfile.mkdtemp(dir=self._target.folder)
        arguments = {"model": "base", "base_url": f"{self._target.url}/{route}", "num_concurrent": "2"} | model
        run(
            script("lm_eval"), "--model", kind, "--model_args", ",".join(f"{k}={v}" for k, v in arguments.items()),
            "--tasks", task, "--include_path", ".", "--output_path", folder, "--log_samples", *words,
            cwd=TASKS, HF_HOME=folder, OPENAI_API_KEY="none",
        )  # fmt: skip
        [file] = Path(folder).rglob("samples_*.jsonl")
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        same(len(samples), 3)
        return samples

    def _complete(self, task: str, **model: str) -> list[dict[str, Any]]:
        kind = "local-completions"
        return self._samples(task, kind, "completions", tokenizer=self._target.tokenizer, **model)

    def _chat(self, *words: str, **model: str) -> list[dict[str, Any]]:
        kind, route = "local-chat-completions", "chat/completions"
        return self._samples("lake_text", kind, route, "--apply_chat_template", *words, **model)

    def chat(self) -> None:
        for sample in self._chat():
            said(sample["resps"][0][0])

    def seed(self) -> None:
        """The harness sends its seed with each request."""
        words = ("--gen_kwargs", "temperature=1", "--seed", "7")
        same(*([sample["resps"] for sample in self._chat(*words)] for _ in range(2)))

    def personal(self) -> None:
        for sample in self._chat("--gen_kwargs", "mode=personal,max_gen_toks=40", model="user/ann"):
            said(sample["resps"][0][0])

    def completions(self) -> None:
        for sample in self._complete("lake_text"):
            said(sample["resps"][0][0])

    def echo_logprobs(self) -> None:
        """Log-likelihoods of two choices, asked with token ids and with texts."""
        by_ids, by_texts = (
            [
                [float(scored[0][0]) for scored in sample["resps"]]
                for sample in self._complete("lake_choice", tokenized_requests=tokenized)
            ]
            for tokenized in ("True", "False")
        )
        assert all(value < 0 for values in by_ids for value in values), by_ids
        assert all(
            abs(one - other) < 1e-2
            for ids, texts in zip(by_ids, by_texts, strict=True)
            for one, other in zip(ids, texts, strict=True)
        ), f"{by_ids} by token ids, {by_texts} by texts"
