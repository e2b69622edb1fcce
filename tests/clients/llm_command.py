"""simonw's `llm`: the command that people type. It has no way to send fields of one's own, such as `mode`."""

from __future__ import annotations

import json
from pathlib import Path

from surface import (
    QUESTION,
    SCHEMA,
    TEXT,
    Failed,
    Partly,
    Refused,
    Target,
    must_fail,
    refused_without_parser,
    run,
    said,
    same,
    script,
)

PACKAGES = ("llm", "openai")
GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "8")


class Client:
    """The command, with a folder of its own for what it keeps."""

    def __init__(self, target: Target) -> None:
        self._url = target.url
        self._user_path = Path(target.folder)
        raw = {"model_id": "raw", "model_name": "base", "api_base": target.url, "completion": True}
        # Its file is YAML, of which JSON is a part.
        (self._user_path / "extra-openai-models.yaml").write_text(json.dumps([raw]))

    def close(self) -> None:
        """Close nothing: each command ends by itself."""

    def _llm(self, *words: str) -> str:
        return run(script("llm"), *words, LLM_USER_PATH=str(self._user_path))

    def _ask(self, *words: str, model: str = "base", prompt: str = QUESTION) -> str:
        return self._llm("openai", "endpoint", self._url, prompt, "-m", model, *words)

    def _raw(self, *words: str) -> str:
        return self._llm("-m", "raw", *GREEDY, "--no-log", *words, TEXT)

    def list_models(self) -> None:
        assert "base" in self._llm("openai", "endpoint", self._url, "--models").splitlines()

    def chat(self) -> None:
        said(self._ask(*GREEDY, "--no-stream"))
        said(self._ask(*GREEDY, "--no-stream", model="user/ann"))

    def chat_stream(self) -> None:
        same(said(self._ask(*GREEDY)), self._ask(*GREEDY, "--no-stream"))

    def system_roles(self) -> None:
        said(self._ask(*GREEDY, "-s", "Be brief."))

    def tools(self) -> Partly | Refused:
        function = 'def weather(at: str) -> str:\n    "The weather"\n    return "sunny"\n'
        try:
            said(self._ask(*GREEDY, "--functions", function))
        except Failed as error:
            return refused_without_parser(str(error))
        return Partly("tools are sent and an answer comes; `llm` cannot force a call, and random weights choose none")

    def seed(self) -> None:
        words = ("-o", "temperature", "1", "-o", "max_tokens", "8", "-o", "seed", "7")
        same(self._ask(*words), said(self._ask(*words)))

    def json_schema(self) -> None:
        found = self._ask("-o", "temperature", "0", "-o", "max_tokens", "60", "--schema", json.dumps(SCHEMA))
        same(json.loads(found), {"at": "lake"})

    def completions(self) -> None:
        said(self._raw("--no-stream"))

    def completions_stream(self) -> None:
        same(said(self._raw()), self._raw("--no-stream"))

    def responses(self) -> None:
        same(self._ask(*GREEDY, "--responses", "--no-stream"), said(self._ask(*GREEDY, "--no-stream")))

    def responses_stream(self) -> None:
        same(said(self._ask(*GREEDY, "--responses")), self._ask(*GREEDY, "--no-stream"))

    def unknown_model(self) -> None:
        must_fail(Failed, "model must be", self._ask, *GREEDY, model="gpt-4")

    def bad_value(self) -> None:
        """Send a prompt that is too long: `llm` checks the temperature itself."""
        must_fail(Failed, "maximum context length", self._ask, *GREEDY, prompt="x" * 5000)
