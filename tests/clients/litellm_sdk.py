"""LiteLLM's functions for Python, with its providers `openai` and `text-completion-openai`."""

from __future__ import annotations

from typing import Any

import litellm

from openai_shaped import OpenAIShaped
from surface import Target

PACKAGES = ("litellm", "openai")


class Client(OpenAIShaped):
    """LiteLLM, pointed at a server by arguments."""

    bad_request = litellm.BadRequestError
    not_found = litellm.NotFoundError

    def __init__(self, target: Target) -> None:
        self._where = {"api_base": target.url, "api_key": "none", "timeout": 300}

    def close(self) -> None:
        """Close nothing: LiteLLM keeps its connections itself."""

    def ask(self, *, model: str, **body: Any) -> Any:
        return litellm.completion(model=f"openai/{model}", **self._where, **body)

    def complete(self, *, model: str, **body: Any) -> Any:
        return litellm.text_completion(model=f"text-completion-openai/{model}", **self._where, **body)

    def respond(self, *, model: str, **body: Any) -> Any:
        return litellm.responses(model=f"openai/{model}", **self._where, **body)

    def list_models(self) -> None:
        found = litellm.get_valid_models(
            check_provider_endpoint=True,
            custom_llm_provider="openai",
            api_key="none",
            api_base=self._where["api_base"],
        )
        assert "openai/base" in found or "base" in found, found
